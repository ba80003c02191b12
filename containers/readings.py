"""What of relays is read as numbers."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Min
from django.urls import reverse

from accounts.alerts.services import Reading
from containers.models import Relay
from derpmgmt.lib.prepared import Prepared

_LATENCIES = Prepared(
    lambda: (
        Relay.objects.to_prove()
        .filter(server__silent_since=None, last_health__is_ok=True)
        .values("server", "server__name", "server__region")
        .annotate(tcp_ms=Min("last_health__tcp_ms"))
        .order_by()
    )
)


def read_latency(now: datetime) -> Iterator[Reading]:
    """How long each server takes to answer the panel: the quickest of its relays by their last tests; one query."""
    for row in _LATENCIES.read():
        yield Reading(
            rule="latency",
            thing=f"server:{row['server']}",
            value=row["tcp_ms"],
            name=row["server__name"],
            url=reverse("admin:fleet_server_change", args=[row["server"]]),
            server=row["server"],
            region=row["server__region"],
        )
