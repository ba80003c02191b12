"""Successors for relays whose certificate is near its end: which come first, and whom those without room hold up."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from django.utils import timezone

from tests.containers.rentals import DAY
from tests.factories import RelayFactory, RentalFactory, ServerFactory

if TYPE_CHECKING:
    from containers.models import Relay
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db


def near_its_end(relay: Relay, days: float) -> Relay:
    from containers.models import Relay

    Relay.objects.filter(pk=relay.pk).update(certificate_ends_at=timezone.now() + days * DAY)
    return relay


def stuck(server: Server, days: float) -> Relay:
    """A relay whose customer's time is bound to a server on which nothing new is placed."""

    rental = RentalFactory()
    rental.spans.get().servers.set([server])
    return near_its_end(RelayFactory(rental=rental, server=server), days)


def rotate(moment: datetime | None = None) -> None:
    from containers import jobs

    with time_machine.travel(moment or timezone.now(), tick=False):
        jobs.rotate_certificates()


def has_successor(relay: Relay) -> bool:
    return relay.successors.exists()


@pytest.fixture
def closed(servers: list[Server]) -> Server:
    """A server in maintenance on which none of the customer's relays stands."""
    from fleet.models import Server

    server = ServerFactory()
    Server.objects.filter(pk=server.pk).update(status=Server.Status.MAINTENANCE, host_key="ssh-ed25519 AAAA")
    return Server.objects.get(pk=server.pk)


@pytest.mark.slow
def test_relays_without_room_for_a_successor_hold_no_other_up(rental: Rental, closed: Server) -> None:
    from fleet.models import Server

    without_room = [stuck(closed, 10) for _ in range(51)]
    other = near_its_end(rental.relays.get(slot=1), 11)
    began = timezone.now()
    rotate(began)
    assert not has_successor(other)
    rotate(began + DAY / 1440)
    assert has_successor(other)
    rotate(began + DAY / 720)
    assert not any(map(has_successor, without_room))
    Server.objects.filter(pk=closed.pk).update(status=Server.Status.HEALTHY, capacity=200)
    for minute in (11, 12):
        rotate(began + minute * DAY / 1440)
    assert all(map(has_successor, without_room))


def test_one_that_runs_into_a_mistake_holds_no_other_up(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    from containers.services import rotation

    first, second = rental.relays.filter(slot__lt=3).order_by("slot")
    near_its_end(first, 10)
    near_its_end(second, 11)
    rotate_relay = rotation.rotate_relay

    def rotate_or_fail(*, relay: Relay, now: datetime) -> Relay | None:
        if relay.pk == first.pk:
            raise RuntimeError("a mistake")
        return rotate_relay(relay=relay, now=now)

    monkeypatch.setattr(rotation, "rotate_relay", rotate_or_fail)
    rotate()
    assert has_successor(second)
    assert f"successor of relay {first.pk}" in caplog.text
    assert list(rotation.waiting_rotations(timezone.now() + rotation.CERTIFICATE_RESERVE)) == [first]
