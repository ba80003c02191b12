from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.console import relay_state
from containers.models import Relay
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    """Relays that stand or are to stand on a server."""

    help: Any = gettext_lazy("List relays: of one customer, or of all.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", nargs="?", metavar="EMAIL")

    def handle(self, *args: Any, **options: Any) -> None:
        relays = (
            Relay.objects.live()
            .filter(rental__isnull=False)
            .select_related("rental__user", "server__region", "last_health")
            .order_by("rental_id", "slot", "pk")
        )
        if options["email"]:
            relays = relays.filter(rental__user__email=options["email"].lower())
        rows = [
            {
                "id": relay.pk,
                "email": relay.rental.user.email if relay.rental else "",
                "slot": relay.slot,
                "server": relay.server.name,
                "region": relay.server.region.name,
                "address": relay.server.address,
                "derp_port": relay.derp_port,
                "stun_port": relay.stun_port,
                "status": relay.status,
                "state": relay_state(relay),
                "failing_since": relay.failing_since,
                "server_silent_since": relay.server.silent_since,
                "proven_at": relay.proven_at,
                "tested_at": relay.last_health.at if relay.last_health else None,
                "is_ok": relay.last_health.is_ok if relay.last_health else None,
            }
            for relay in relays
        ]
        self.emit(
            rows,
            {
                "email": _("Customer"),
                "server": _("Server"),
                "region": _("Region"),
                "address": _("Address"),
                "derp_port": "DERP",
                "stun_port": "STUN",
                "state": _("State"),
                "tested_at": _("Tested"),
                "is_ok": _("Passed"),
            },
        )
