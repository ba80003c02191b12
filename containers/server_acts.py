"""The admin's buttons at servers that need to know what stands on them: checking and draining."""

from collections.abc import Iterator

from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.acts import Act, Doing, Ticked
from containers.models import ServerCheck
from containers.services import checks
from containers.services.leaving import drain_server, foresee_leaving, outcome_sentences
from fleet import services
from fleet.admin_acts import SERVER_ACTS, MaintenanceForm
from fleet.models import Server

_IN_USE = {Server.Status.HEALTHY, Server.Status.UNHEALTHY, Server.Status.MAINTENANCE}


def _is_being_checked(server: Server) -> bool:
    # Lists read it for all rows together (`containers.server_admin`).
    known = getattr(server, "has_open_check", None)
    return ServerCheck.objects.open().filter(server=server).exists() if known is None else bool(known)


def _check(server: Server, doing: Doing) -> str | None:
    if ServerCheck.objects.open().filter(server=server).exists():
        return None
    checks.request_check(server_pk=server.pk, by=doing.by)
    return _("%(server)s is being checked.") % {"server": server}


def _not_to_check(server: Server) -> str:
    if server.status == Server.Status.RETIRED:
        return _("This server is removed already.")
    if not server.host_key:
        return _("The host key of this server is not confirmed yet.")
    return _("%(server)s is being checked already.") % {"server": server}


def _explain_checks(count: int) -> Iterator[str]:
    text = ngettext(
        "%(count)d server is checked as when it was added; the relays that stand there keep running.",
        "%(count)d servers are checked as when they were added; the relays that stand there keep running.",
        count,
    )
    yield text % {"count": count}


def _explain_draining(server: Server) -> Iterator[str]:
    yield _("Nothing new is placed on %(server)s, and its relays move to other servers.") % {"server": server}
    found = foresee_leaving(server=server, now=timezone.now())
    yield from outcome_sentences(found)
    if any(leaving.is_moving for leaving in found):
        yield _(
            "The old ones run on until the new ones have carried a packet, and for as long as devices need them after that. "
            "The maps follow by themselves."
        )


def _drain(server: Server, doing: Doing) -> str | None:
    found = drain_server(server=server, by=doing.by, ip=doing.ip, reason=doing.data["reason"])
    if found is None:
        return None
    begun = _("%(server)s is being drained.") % {"server": server}
    return " ".join([begun, *outcome_sentences(found)])


def _end_draining(server: Server, doing: Doing) -> str:
    services.end_draining(server=server, by=doing.by)
    return _("%(server)s is in use again; relays that have moved stay where they are.") % {"server": server}


_CHECK = Act(
    verb="check",
    label=gettext_lazy("Check now"),
    fits=lambda server: (
        server.status != Server.Status.RETIRED and bool(server.host_key) and not _is_being_checked(server)
    ),
    otherwise=_not_to_check,
    is_at_once=True,
    explain=lambda server: [
        _("%(server)s is checked as when it was added; the relays that stand there keep running.")
        % {"server": server}
    ],
    run=_check,
    # Where it is followed live.
    after=lambda server: reverse("admin:containers_server_check", args=[server.pk]),
    ticked=Ticked(
        label=gettext_lazy("Check the selected servers"),
        explain=_explain_checks,
        done=lambda count: (
            ngettext("%(count)d server is being checked.", "%(count)d servers are being checked.", count)
            % {"count": count}
        ),
    ),
)
_DRAIN = Act(
    verb="drain",
    label=gettext_lazy("Drain"),
    fits=lambda server: server.status in _IN_USE,
    otherwise=lambda server: (
        _("%(server)s is being drained already.") % {"server": server}
        if server.status == Server.Status.DRAINING
        else ""
    ),
    explain=_explain_draining,
    form=MaintenanceForm,
    run=_drain,
)
_END_DRAINING = Act(
    verb="end-draining",
    label=gettext_lazy("Stop draining"),
    fits=lambda server: server.status == Server.Status.DRAINING,
    otherwise=lambda server: _("%(server)s is not being drained.") % {"server": server},
    explain=lambda server: [_("New relays are placed on %(server)s again.") % {"server": server}],
    run=_end_draining,
)

ALL_SERVER_ACTS = (_CHECK, *SERVER_ACTS[:-1], _DRAIN, _END_DRAINING, SERVER_ACTS[-1])
