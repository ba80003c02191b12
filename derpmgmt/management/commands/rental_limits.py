from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.allowances import Use
from containers.services.usage import read_usage
from derpmgmt.limits_command import LimitsCommand
from derpmgmt.rental_command import RentalCommand
from serials.rentals.models import Rental
from serials.rentals.services import current_span, set_limits


class Command(RentalCommand, LimitsCommand):
    """What counts for a customer instead of what was sold."""

    help: Any = gettext_lazy(
        "Show what limits a customer's traffic, rate and devices, where each limit was said, and what is used; the options say others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        self.add_limits(parser, with_devices=True)

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        if said := self.read_limits(options, rental):
            caps, note = said
            if not set_limits(rental=rental, caps=caps, note=note, by=None):
                self.say(_("These limits are so already."))
        rental = Rental.objects.select_related("user").get(pk=rental.pk)
        now = timezone.now()
        flow = read_usage(rental=rental, span=current_span(rental, now), now=now).flow
        self.show_limits(rental, None, Use(flow.up_bytes, flow.down_bytes))
