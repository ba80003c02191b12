from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.rental_command import RentalCommand
from serials.rentals.services import resume_rental


class Command(RentalCommand):
    """Resume a customer's paused rental."""

    help: Any = gettext_lazy("Let a paused rental go on: its relays come back and its time runs again.")

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        redemption = resume_rental(rental=rental, by=None)
        if redemption is None:
            self.say(_("This rental is not paused."))
        self.show(rental)
