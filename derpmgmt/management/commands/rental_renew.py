from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.arguments import parse_day
from derpmgmt.rental_command import RentalCommand
from serials.rentals.forms import end_of_day
from serials.rentals.services import renew_rental


class Command(RentalCommand):
    """Let a customer's rental run until the end of a day."""

    help: Any = gettext_lazy(
        "Let a customer's rental run until the end of a day, with the terms it had last; never shortens."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "--until", required=True, metavar="DAY", help=_("last day, for example 2026-12-31")
        )
        parser.add_argument("--note", default="", help=_("why, for the history"))

    def handle(self, *args: Any, **options: Any) -> None:
        until = end_of_day(parse_day(options["until"]))
        rental = self.find_rental(options["email"])
        renew_rental(rental=rental, until=until, by=None, note=options["note"])
        self.show(rental)
