"""The admin's buttons at relays and gates."""

from collections.abc import Iterator
from typing import Any

from django import forms
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import Act, ActForm, Doing
from containers.allowance_words import limits_now
from containers.models import Gate, Relay
from containers.services import allowances, gates, moving, relay_requests
from fleet.models import Server
from serials.rentals.forms import LimitsForm

_TO_RETRY = {Relay.Status.FAILED, Relay.Status.PLANNED, Relay.Status.REMOVING}


def _probe(relay: Relay, _doing: Doing) -> str | None:
    if not relay_requests.ask_probe(relay=relay, now=timezone.now()):
        return None
    return _("The relay on %(server)s is being tested; reload in a moment.") % {"server": relay.server}


def _not_to_test(relay: Relay) -> str:
    if relay.status == Relay.Status.RELEASED:
        return _("This relay is removed already.")
    return _("The relay on %(server)s is being tested already.") % {"server": relay.server}


def _retry(relay: Relay, doing: Doing) -> str:
    relay_requests.retry_relay(relay=relay, by=doing.by)
    return _("The relay on %(server)s is tried again now.") % {"server": relay.server}


def _not_to_retry(relay: Relay) -> str:
    if relay.status == Relay.Status.RUNNING:
        return _("This relay runs already.")
    return _("This relay is removed already.")


class MoveForm(ActForm):
    """Where a relay is to stand."""

    server = forms.ModelChoiceField(Server.objects.none(), label=gettext_lazy("Server"))
    port = forms.IntegerField(
        label=gettext_lazy("DERP port (TCP)"),
        required=False,
        min_value=1,
        max_value=65535,
        help_text=gettext_lazy("Empty = the lowest one that is free."),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        choice: Any = self.fields["server"]
        choice.queryset = Server.objects.usable().exclude(pk=self.row.server_id)


def _move(relay: Relay, doing: Doing) -> str:
    assert relay.rental is not None
    made = moving.allocate_relay(
        rental=relay.rental,
        server=doing.data["server"],
        port=doing.data["port"],
        relay=relay,
        by=doing.by,
        ip=doing.ip,
    )
    return _("A relay is being made on %(new)s; it takes the place of the one on %(server)s.") % {
        "new": made.server,
        "server": relay.server,
    }


def _release(relay: Relay, doing: Doing) -> str:
    made = moving.release_relay(relay=relay, by=doing.by, ip=doing.ip)
    if made is None:
        return _("The relay on %(server)s goes.") % {"server": relay.server}
    return _("A relay is being made on %(new)s; it takes the place of the one on %(server)s.") % {
        "new": made.server,
        "server": relay.server,
    }


def _is_placed(relay: Relay) -> bool:
    """Whether it stands in a place of its customer's, and nothing comes in its stead."""
    return (
        relay.slot is not None
        and relay.rental_id is not None
        and not relay.successors.live().exclude(status=Relay.Status.REMOVING).exists()
    )


def _not_placed(relay: Relay) -> str:
    if relay.slot is not None:
        return _("Another relay comes in the place of the one on %(server)s already.") % {
            "server": relay.server
        }
    return _("The relay on %(server)s has no place of a customer's.") % {"server": relay.server}


def _explain_move(relay: Relay) -> Iterator[str]:
    yield _("%(customer)s gets another relay in the place of the one on %(server)s.") % {
        "customer": relay.rental,
        "server": relay.server,
    }
    yield _(
        "The old one runs on until the new one has carried a packet, and for as long as devices need it after that. The map follows by itself."
    )


def _has_limits(relay: Relay) -> bool:
    """Whether it stands or comes back, as one that is stopped does, and is a customer's."""
    is_here = relay.status != Relay.Status.RELEASED or relay.return_slot is not None
    return relay.rental_id is not None and is_here


def _explain_limits(relay: Relay) -> Iterator[str]:
    assert relay.rental is not None
    yield _(
        "What is filled in counts for the relay on %(server)s alone, instead of what counts for %(customer)s."
    ) % {"server": relay.server, "customer": relay.rental}
    yield from limits_now(relay.rental, relay)


def _set_limits(relay: Relay, doing: Doing) -> str | None:
    caps, note = doing.data["caps"], doing.data["note"]
    if not allowances.set_relay_limits(relay=relay, caps=caps, note=note, by=doing.by):
        return None
    return _("The limits of the relay on %(server)s are changed; they count within seconds.") % {
        "server": relay.server
    }


RELAY_ACTS = (
    Act(
        verb="probe",
        label=gettext_lazy("Test"),
        is_at_once=True,
        fits=lambda relay: relay.status != Relay.Status.RELEASED,
        otherwise=_not_to_test,
        explain=lambda relay: [
            _("A packet is sent through the relay on %(server)s, as a device would.")
            % {"server": relay.server}
        ],
        run=_probe,
    ),
    Act(
        verb="retry",
        label=gettext_lazy("Try again"),
        is_at_once=True,
        fits=lambda relay: relay.status in _TO_RETRY,
        otherwise=_not_to_retry,
        explain=lambda relay: [
            _("The relay on %(server)s is made or removed now, without waiting for its next turn.")
            % {"server": relay.server}
        ],
        run=_retry,
    ),
    Act(
        verb="move",
        label=gettext_lazy("Move to a server"),
        fits=_is_placed,
        otherwise=_not_placed,
        explain=_explain_move,
        form=MoveForm,
        run=_move,
    ),
    Act(
        verb="release",
        label=gettext_lazy("Replace"),
        fits=_is_placed,
        otherwise=_not_placed,
        explain=_explain_move,
        run=_release,
    ),
    Act(
        verb="limits",
        label=gettext_lazy("Limits"),
        button=gettext_lazy("Save"),
        fits=_has_limits,
        otherwise=lambda relay: (
            _("These limits are so already.") if _has_limits(relay) else _("This relay is removed already.")
        ),
        explain=_explain_limits,
        form=LimitsForm,
        run=_set_limits,
    ),
)


def _gate_label(gate: Gate) -> str | Promise:
    if gate.status == Gate.Status.RUNNING:
        return gettext_lazy("Make with the current image")
    return gettext_lazy("Try again")


def _explain_gate(gate: Gate) -> Iterator[str]:
    yield _("The gate of %(server)s is made anew with the current image, now.") % {"server": gate.server}
    if gate.status == Gate.Status.RUNNING:
        yield _(
            "For the seconds that this takes nobody can be asked about new devices; who is connected stays connected."
        )


def _retry_gate(gate: Gate, doing: Doing) -> str:
    gates.retry_gate(gate=gate, by=doing.by)
    return _("The gate of %(server)s is being made now.") % {"server": gate.server}


def _has_relays(gate: Any) -> bool:
    return bool(gate.has_relays)


GATE_ACTS = (
    Act(
        verb="retry",
        label=_gate_label,
        fits=_has_relays,
        otherwise=lambda gate: _("No relay on %(server)s needs a gate.") % {"server": gate.server},
        explain=_explain_gate,
        run=_retry_gate,
        after=lambda gate: reverse("admin:fleet_server_change", args=[gate.server_id]),
    ),
)
