"""How much each device may send through a relay: what the row says, and whether the host has it."""

from datetime import datetime

from django.db.models import F

from containers.models import RATE_RETRY, Relay


def due_rates(now: datetime, limit: int = 200) -> list[Relay]:
    """Relays that run and whose host has not got their rate yet, the longest waiting first."""
    owed = Relay.objects.filter(status=Relay.Status.RUNNING, rate_owed_at__isnull=False)
    return list(
        owed.filter(RATE_RETRY.due(now)).only("pk", "server_id").order_by("rate_owed_at", "pk")[:limit]
    )


def record_rate(*, relay: Relay) -> bool:
    """The host has the rate that `relay` had when it was read; False where it has become another one since, which is owed then."""
    same = Relay.objects.filter(pk=relay.pk, rate=relay.rate, rate_owed_at=relay.rate_owed_at)
    # Nothing of this is in a map, or in the spec.
    return bool(same.update(rate_owed_at=None, changed_at=F("changed_at"), **RATE_RETRY.cleared))


def record_rate_failure(*, relay: Relay, now: datetime) -> None:
    """The host did not take the rate: it is tried again later."""
    Relay.objects.filter(pk=relay.pk).update(
        changed_at=F("changed_at"), **RATE_RETRY.failed(relay.rate_failures, now)
    )
