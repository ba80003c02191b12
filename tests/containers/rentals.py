"""What planning and the workers do to the rows of a rental's relays, and what a device knows a relay by."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.utils import timezone

if TYPE_CHECKING:
    from containers.models import Relay
    from serials.rentals.models import Rental

DAY = timedelta(days=1)


def plan(rental: Rental) -> None:
    from containers.services.planning import plan_relays

    plan_relays(rental_pk=rental.pk)


def prove(rental: Rental) -> None:
    """What the workers do: whatever is planned carries a packet, whatever is to go is gone."""
    from containers.models import Relay
    from containers.services import relays

    for relay in rental.relays.live():
        if relay.status == Relay.Status.REMOVING:
            relays.record_released(relay=relay, now=timezone.now())
        elif relay.status != Relay.Status.RUNNING:
            relays.record_running(relay=relay, image="derpmgmt/derper:0123456789ab", now=timezone.now())


def set_end(rental: Rental, moment: Any) -> None:
    from serials.rentals.models import Rental

    Rental.objects.filter(pk=rental.pk).update(ends_at=moment, runs_until=moment)


def end(rental: Rental) -> None:
    set_end(rental, timezone.now() - DAY)
    plan(rental)
    prove(rental)
    assert not rental.relays.live().exists()


def way(relay: Relay) -> tuple[Any, ...]:
    """All that a customer's device knows a relay by."""
    return relay.pk, relay.slot, relay.server_id, relay.derp_port, relay.stun_port, relay.certificate_sha256, relay.public_key  # fmt: skip


def ways(rental: Rental) -> list[tuple[Any, ...]]:
    return [way(relay) for relay in rental.relays.wanted().order_by("slot")]
