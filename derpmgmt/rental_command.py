"""What the operators' commands about one customer's rental share."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _

from accounts.models import User
from containers.models import Relay
from derpmgmt.lib.commands import PanelCommand
from serials.rentals.models import Rental
from serials.rentals.services import current_pause
from serials.rentals.wording import moves_on, time_left


class RentalCommand(PanelCommand):
    """A command about the rental of the customer with an address."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the customer's address"))

    def find_rental(self, email: str) -> Rental:
        """The customer's rental; raises `CommandError` when there is no such account or rental."""
        user = User.objects.filter(email=email.strip().lower()).first()
        if user is None:
            raise CommandError(_("There is no account with the address %(email)s.") % {"email": email})
        rental = Rental.objects.filter(user=user).first()
        if rental is None:
            raise CommandError(_("%(email)s has no rental yet.") % {"email": email})
        return rental

    def show(self, rental: Rental) -> None:
        """Print the rental as it is now, with its spans and relays in `--json`."""
        rental = Rental.objects.select_related("user").get(pk=rental.pk)
        pause = current_pause(rental)
        relays = list(Relay.objects.live().filter(rental=rental).select_related("server"))
        row: dict[str, Any] = {
            "email": rental.user.email,
            "status": rental.status,
            "state": rental.get_status_display(),
            "left": None if rental.closed_at else time_left(rental.ends_at, rental.paused_at) or None,
            "ends_at": rental.ends_at,
            "runs_until": rental.runs_until,
            "paused_at": rental.paused_at,
            "paused_by": pause.who if pause else None,
            "pause_reason": pause.reason if pause else "",
            "closed_at": rental.closed_at,
            "waiting_since": rental.waiting_since,
            "running": sum(
                relay.slot is not None and relay.status == Relay.Status.RUNNING for relay in relays
            ),
            "spans": [
                {
                    "starts_at": span.starts_at,
                    "ends_at": span.ends_at,
                    **{name: getattr(span, name) for name in span.ENTITLEMENT_FIELDS},
                }
                for span in rental.spans.all()
            ],
            "relays": [
                {
                    "id": relay.pk,
                    "slot": relay.slot,
                    "server": relay.server.name,
                    "address": f"{relay.server.address}:{relay.derp_port}",
                    "stun_port": relay.stun_port,
                    "status": relay.status,
                    "certificate_ends_at": relay.certificate_ends_at,
                    "retiring_since": relay.retiring_since,
                }
                for relay in relays
            ],
        }
        self.emit_one(
            row,
            {"email": _("Customer"), "state": _("State"), "left": _("Time left"), "ends_at": _("Ends"),
             "runs_until": _("Relays run until"), "paused_at": _("Paused"), "paused_by": _("Paused by"),
             "pause_reason": _("Reason"), "closed_at": _("Closed"), "running": _("Relays running")},
        )  # fmt: skip
        if pause and not rental.closed_at:
            self.say(moves_on())
