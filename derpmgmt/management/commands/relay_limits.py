from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.models import Relay
from containers.services.allowances import set_relay_limits
from containers.services.traffic import month_of
from containers.services.usage import read_place
from derpmgmt.lib.arguments import number
from derpmgmt.lib.commands import CommandRefused
from derpmgmt.limits_command import LimitsCommand


class Command(LimitsCommand):
    """What counts for one relay instead of what counts for its customer."""

    help: Any = gettext_lazy(
        "Show what limits a relay's traffic and rate, where each limit was said, and what is used; the options say others."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "relay", metavar="ID", type=number(1, 2**63 - 1), help=_("the relay's number, see relay_list")
        )
        self.add_limits(parser, with_devices=False)

    def handle(self, *args: Any, **options: Any) -> None:
        relay = self._find(options["relay"])
        if said := self.read_limits(options, relay):
            caps, note = said
            if not set_relay_limits(relay=relay, caps=caps, note=note, by=None):
                self.say(_("These limits are so already."))
            relay = self._find(relay.pk)
        assert relay.rental is not None
        used = read_place(relay, month_of(relay.rental, timezone.now()))
        self.show_limits(relay.rental, relay, used)

    @staticmethod
    def _find(pk: int) -> Relay:
        """A customer's relay; raises `CommandRefused`."""
        rows = Relay.objects.select_related("rental__user", "server").defer(*Relay.SECRETS)
        found = rows.filter(pk=pk, rental__isnull=False).first()
        if found is None:
            raise CommandRefused(
                _("No customer has a relay with the number %(id)s.") % {"id": pk}, code="no_relay"
            )
        return found
