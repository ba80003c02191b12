"""Devices that knock at a rental that was activated just now, at moments of their own."""

from datetime import datetime, timedelta

import pytest
import time_machine

from acl.devices import admission_writer
from acl.devices.models import Device
from acl.devices.services import enrolment
from containers.models import Relay
from containers.services import gates
from serials.rentals.models import Rental, RentalSpan
from tests.acl.asking import REFUSED, knock
from tests.factories import RelayFactory, RentalFactory


@pytest.fixture
def rental() -> Rental:
    """A rental that was activated just now: its window is open for an hour."""
    rental = RentalFactory(days=60)
    limit(rental, 3)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


def limit(rental: Rental, places: int) -> None:
    RentalSpan.objects.filter(rental=rental).update(device_limit=places)


def settle(now: datetime, present: set[str] | None) -> None:
    """The sweep's part, with the relays' word taken from `present` (None: no relay can be asked)."""
    with time_machine.travel(now, tick=False):
        enrolment.settle_trials(
            devices=enrolment.due_trials(now),
            is_present=lambda device: None if present is None else device.node_key in present,
        )


def knock_at(moment: datetime, relay: Relay, key: str, ip: str = "203.0.113.9") -> tuple[int, bool]:
    with time_machine.travel(moment, tick=False):
        return knock(relay, key, ip)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def state_of(key: str) -> tuple[str, bool]:
    """The device's state, and whether it has a provisional place."""
    device = Device.objects.get(node_key=key)
    return device.status, device.stayed_at is not None


def refused_at(relay: Relay, key: str, *moments: datetime) -> None:
    for moment in moments:
        with time_machine.travel(moment, tick=False):
            assert knock(relay, key) == REFUSED
            admission_writer.flush()
