"""How relays are proven: what a test compares with, and what came of it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from django.db.models import Min

from containers.derp import source
from containers.derp.probe import ProbeTarget
from containers.models import Relay
from containers.services.relays import target_of
from fleet.models import Server

# What a server saw of us is compared with for so long; with a longer one every address of ours is known that others saw.
SEEN_FOR = timedelta(minutes=10)
KNOWN_FOR = timedelta(days=1)
# So many relays on other servers are asked in doubt.
WITNESSES = 3


def proof_targets(relays: Sequence[Relay], now: datetime) -> list[ProbeTarget]:
    """How to prove these relays, with what their servers and others see of us; two queries however many they are."""
    pks = {relay.server_id for relay in relays}
    seen = {
        server.pk: server
        for server in Server.objects.filter(last_visit_at__gt=now - KNOWN_FOR, panel_seen_as__isnull=False)
    }
    ours = sorted({row.panel_seen_as for row in seen.values() if source.is_public(row.panel_seen_as)})
    # One of each of the servers visited last; one more than are asked, in case it is the relay's own.
    latest = sorted(seen.values(), key=lambda row: row.last_visit_at, reverse=True)[
        : len(pks) + WITNESSES + 1
    ]
    witnesses = list(
        Relay.objects.filter(server__in=latest, status=Relay.Status.RUNNING, last_health__is_ok=True)
        .values("server_id", "server__address")
        .annotate(port=Min("stun_port"))
        .order_by("server_id")
    )
    targets = []
    for relay in relays:
        target = target_of(relay)
        server = seen.get(relay.server_id)
        if server is not None and server.address == target.host:
            if source.is_beside(seen=server.panel_seen_as, host=server.address):
                targets.append(replace(target, judges_source=False))
                continue
            if server.last_visit_at > now - SEEN_FOR:
                others = [row for row in witnesses if row["server__address"] != target.host]
                target = replace(
                    target,
                    expect_source=server.panel_seen_as,
                    also_seen=tuple(ours),
                    witnesses=tuple((row["server__address"], row["port"]) for row in others[:WITNESSES]),
                )
        targets.append(target)
    return targets


def proof_target(relay: Relay, now: datetime) -> ProbeTarget:
    """How to prove one relay."""
    return proof_targets([relay], now)[0]
