from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.derp.probe import explain, probe_relay
from containers.models import Relay
from containers.services.proving import proof_targets
from containers.services.relays import record_probe
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    """Prove a customer's relays from this machine, now."""

    help: Any = gettext_lazy(
        "Carry a packet through each relay of a customer and ask its STUN; times in milliseconds."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL")

    def handle(self, *args: Any, **options: Any) -> None:
        relays = list(
            Relay.objects.wanted()
            .filter(rental__user__email=options["email"].lower())
            .select_related("server__region")
        )
        if not relays:
            raise CommandError(_("%(email)s has no relays.") % {"email": options["email"]})
        rows = []
        targets = proof_targets(relays, timezone.now())
        for relay, target in zip(relays, targets, strict=True):
            result = probe_relay(target)
            record_probe(relay=relay, result=result)
            rows.append(
                {
                    "id": relay.pk,
                    "server": relay.server.name,
                    "address": f"{relay.server.address}:{relay.derp_port}",
                    "is_ok": result.ok,
                    "tcp_ms": result.tcp_ms,
                    "tls_ms": result.tls_ms,
                    "handshake_ms": result.handshake_ms,
                    "packet_ms": result.packet_ms,
                    "stun_ms": result.stun_ms,
                    "mapped_address": result.mapped_address,
                    "step": result.step,
                    "cause": explain(result),
                    "detail": result.detail,
                }
            )
        shown = [
            {key: round(value, 1) if isinstance(value, float) else value for key, value in row.items()}
            for row in rows
        ]
        self.emit(
            shown,
            {
                "server": _("Server"),
                "address": _("Address"),
                "is_ok": _("Passed"),
                "handshake_ms": _("Handshake ms"),
                "packet_ms": _("Packet ms"),
                "stun_ms": "STUN ms",
                "cause": _("Likely cause"),
            },
        )
        if not all(row["is_ok"] for row in rows):
            raise CommandError(_("Not every relay carried a packet."))
