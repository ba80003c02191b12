import math
from datetime import timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.devices import services
from acl.devices.models import Device
from derpmgmt.rental_command import RentalCommand
from serials.rentals.models import Rental

MINUTES = [int(length.total_seconds() // 60) for length in services.WINDOWS]


class Command(RentalCommand):
    """The time in which a customer's new devices are approved by themselves."""

    help: Any = gettext_lazy(
        "Show whether a customer's new devices are approved by themselves now; begin or end that."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        either = parser.add_mutually_exclusive_group()
        either.add_argument("--minutes", type=int, choices=MINUTES, help=_("from now on, for so long"))
        either.add_argument("--close", action="store_true", help=_("no longer"))

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        if options["minutes"]:
            length = timedelta(minutes=options["minutes"])
            services.open_window(rental=rental, length=length, by=None)
        elif options["close"]:
            services.close_window(rental=rental, by=None)
        self._show(rental)

    def _show(self, rental: Rental) -> None:
        now = timezone.now()
        until = services.window_until(rental)
        is_open = until > now and rental.is_entitled(now)
        self.emit_one(
            {
                "email": rental.user.email,
                "is_open": is_open,
                "until": until if is_open else None,
                "minutes_left": math.ceil((until - now).total_seconds() / 60) if is_open else None,
                "is_checked": not services.lets_all_in(rental, now),
                "places": services.device_limit(rental, now),
                "places_taken": services.placed(rental, now).count(),
                "on_trial": Device.objects.filter(Device.on_trial(now), rental=rental).count(),
            },
            {"email": _("Customer"), "is_open": _("Automatic approval"), "until": _("Until"),
             "minutes_left": _("Minutes left"), "is_checked": _("Devices are checked"), "places": _("Places"),
             "places_taken": _("Places taken"), "on_trial": _("On trial")},
        )  # fmt: skip
