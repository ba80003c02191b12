from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.rental_command import RentalCommand
from serials.rentals.services import pause_rental


class Command(RentalCommand):
    """Pause a customer's rental."""

    help: Any = gettext_lazy("Stop a customer's relays and their time until “rental_resume”.")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument("--reason", default="", help=_("why; the customer is told"))

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        is_new = pause_rental(rental=rental, by=None, reason=options["reason"])
        if not is_new:
            self.say(_("This rental is paused already."))
        self.show(rental)
