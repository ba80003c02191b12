"""How long customers' own devices take to their relays, as they say themselves."""

from collections.abc import Mapping
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F

from containers.models import Relay
from containers.sample_models import ClientLatency

KEEP_CLIENT_LATENCY = timedelta(days=400)


def record_client_latency(*, times: Mapping[int, float], now: datetime) -> None:
    """Keep the milliseconds that a device took to each relay (by primary key), and as what the relay's card shows."""
    at = int(now.timestamp())
    with transaction.atomic():
        for relay_pk, milliseconds in sorted(times.items()):
            ClientLatency.objects.update_or_create(relay_id=relay_pk, at=at, defaults={"ms": milliseconds})
            # Nothing that a map would tell.
            Relay.objects.filter(pk=relay_pk).update(
                client_ms=milliseconds, client_measured_at=now, changed_at=F("changed_at")
            )


def prune_client_latency(now: int) -> None:
    """Forget what was measured long ago; `now` in seconds since 1970."""
    ClientLatency.objects.filter(at__lt=now - int(KEEP_CLIENT_LATENCY.total_seconds())).delete()
