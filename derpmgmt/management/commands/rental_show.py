from typing import Any

from django.utils.translation import gettext_lazy

from derpmgmt.rental_command import RentalCommand


class Command(RentalCommand):
    """Show a customer's rental."""

    help: Any = gettext_lazy("Show a customer's rental: its state, its end, its relays.")

    def handle(self, *args: Any, **options: Any) -> None:
        self.show(self.find_rental(options["email"]))
