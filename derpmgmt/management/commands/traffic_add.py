from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.arguments import MOST_GB, amount
from derpmgmt.rental_command import RentalCommand
from serials.rentals.services import add_traffic
from serials.rentals.wording import BYTES_PER_GB, traffic


class Command(RentalCommand):
    """More traffic for the month that runs."""

    help: Any = gettext_lazy("Add traffic to a customer's month that runs, on top of the allowance.")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        size = amount(BYTES_PER_GB, MOST_GB, least="0.001")
        parser.add_argument("size", metavar="GB", type=size, help=_("how much, in GB"))
        parser.add_argument("--note", default="", help=_("operators read it beside the traffic"))

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        grant = add_traffic(rental=rental, size_bytes=options["size"], note=options["note"], by=None)
        assert grant is not None
        self.emit_one(
            {"email": rental.user.email, "size_bytes": grant.size_bytes, "size": traffic(grant.size_bytes),
             "at": grant.at, "note": grant.note},
            {"email": _("Customer"), "size": _("Traffic added"), "at": _("Time"), "note": _("Note")},
        )  # fmt: skip
