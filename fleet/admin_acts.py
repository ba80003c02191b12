"""The admin's buttons at servers."""

from collections.abc import Iterator

from django import forms
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.acts import Act, ActForm, Doing, Ticked
from derpmgmt.lib import queue
from derpmgmt.lib.lines import LineFormField
from fleet import services
from fleet.models import Server


class MaintenanceForm(ActForm):
    """Why a server is put into maintenance."""

    reason = LineFormField(
        label=gettext_lazy("Reason"),
        max_length=200,
        required=False,
        widget=forms.TextInput(attrs={"class": "vTextField"}),
        help_text=gettext_lazy("Operators read it at the server."),
    )


def _explain_start(server: Server) -> Iterator[str]:
    yield _(
        "Nothing new is placed on %(server)s; the relays that stand there keep running. Customers get no mail when they fail meanwhile."
    ) % {"server": server}


def _explain_starts(count: int) -> Iterator[str]:
    text = ngettext(
        "Nothing new is placed on %(count)d server; the relays that stand there keep running. Customers get no mail when they fail meanwhile.",
        "Nothing new is placed on %(count)d servers; the relays that stand there keep running. Customers get no mail when they fail meanwhile.",
        count,
    )
    yield text % {"count": count}


def _explain_ends(count: int) -> Iterator[str]:
    text = ngettext(
        "New relays are placed on %(count)d server again.",
        "New relays are placed on %(count)d servers again.",
        count,
    )
    yield text % {"count": count}


def _start(server: Server, doing: Doing) -> str:
    services.start_maintenance(server=server, by=doing.by, reason=doing.data["reason"])
    return _("%(server)s is in maintenance: nothing new is placed on it.") % {"server": server}


def _end(server: Server, doing: Doing) -> str:
    services.end_maintenance(server=server, by=doing.by)
    return _("The maintenance of %(server)s is over: it is in use again.") % {"server": server}


def _retire(server: Server, doing: Doing) -> str:
    name = server.name
    services.retire_server(server=server, by=doing.by)
    return _("%(server)s is removed from the fleet.") % {"server": name}


def _retired_already(server: Server) -> str:
    return _("This server is removed already.") if server.status == Server.Status.RETIRED else ""


def _relays_left(server: Server) -> Iterator[str]:
    if any(queue.ask("server_relays", server.pk)):
        yield str(services.ServerNotEmpty())


SERVER_ACTS = (
    Act(
        verb="start-maintenance",
        label=gettext_lazy("Start maintenance"),
        fits=lambda server: server.status in {Server.Status.HEALTHY, Server.Status.UNHEALTHY},
        otherwise=lambda server: (
            _("%(server)s is in maintenance already.") % {"server": server}
            if server.status == Server.Status.MAINTENANCE
            else _retired_already(server)
        ),
        explain=_explain_start,
        form=MaintenanceForm,
        run=_start,
        ticked=Ticked(
            label=gettext_lazy("Start maintenance of the selected servers"),
            explain=_explain_starts,
            done=lambda count: (
                ngettext(
                    "%(count)d server is in maintenance: nothing new is placed on it.",
                    "%(count)d servers are in maintenance: nothing new is placed on them.",
                    count,
                )
                % {"count": count}
            ),
        ),
    ),
    Act(
        verb="end-maintenance",
        label=gettext_lazy("End maintenance"),
        fits=lambda server: server.status == Server.Status.MAINTENANCE,
        otherwise=lambda server: _("%(server)s is not in maintenance.") % {"server": server},
        explain=lambda server: [_("New relays are placed on %(server)s again.") % {"server": server}],
        run=_end,
        ticked=Ticked(
            label=gettext_lazy("End maintenance of the selected servers"),
            explain=_explain_ends,
            done=lambda count: (
                ngettext(
                    "%(count)d server is in use again after maintenance.",
                    "%(count)d servers are in use again after maintenance.",
                    count,
                )
                % {"count": count}
            ),
        ),
    ),
    Act(
        verb="retire",
        label=gettext_lazy("Remove"),
        is_danger=True,
        fits=lambda server: server.status != Server.Status.RETIRED,
        otherwise=_retired_already,
        hindrances=_relays_left,
        explain=lambda server: [
            _(
                "%(server)s leaves the fleet for good; it holds no relay. Its name and address are free again, and the history stays."
            )
            % {"server": server}
        ],
        run=_retire,
        after=lambda _server: reverse("admin:fleet_server_changelist"),
    ),
)
