"""Enrolment played at random: devices of the customer, diagnoses, strangers, silent relays, deaths, and clocks that are set."""

import random
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest
import time_machine
from django.utils import timezone

from acl.devices import cutting
from acl.devices.models import Device
from acl.devices.services import enrolment, places
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.factories import RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db

LIMIT = 12
HOME, OFFICE, STRANGER = "203.0.113.9", "2001:db8::1", "198.51.100.66"


@dataclass
class World:
    """Who is connected (node key to the moment of its end, None = it stays), and the keys of each kind."""

    rental: Rental
    relay: Relay
    now: datetime
    chance: random.Random
    connected: dict[str, float | None] = field(default_factory=dict)
    real: dict[str, str] = field(default_factory=dict)
    throw_away: set[str] = field(default_factory=set)
    strangers: list[str] = field(default_factory=list)
    # Seconds that really went by, whatever the clock says.
    passed: float = 0.0

    def key(self) -> str:
        return f"{self.chance.getrandbits(256):064x}"

    def knock(self, key: str, ip: str, lives_for: float | None) -> bool:
        with time_machine.travel(self.now, tick=False):
            decision = enrolment.knock(rental_pk=self.rental.pk, relay_pk=self.relay.pk, node_key=key, ip=ip)
        if decision.is_allowed:
            self.connected[key] = None if lives_for is None else self.passed + lives_for
        return decision.is_allowed

    def wait(self, seconds: float) -> None:
        self.passed += seconds
        self.now += timedelta(seconds=seconds)
        self.connected = {key: end for key, end in self.connected.items() if end is None or end > self.passed}

    def settle(self) -> None:
        """The sweep; at times relays are silent, or it dies on its way."""
        is_silent, dies = self.chance.random() < 0.1, self.chance.random() < 0.1
        there = set(self.connected)
        with time_machine.travel(self.now, tick=False):
            due = enrolment.due_trials(self.now)
            looks = [0]

            def is_present(device: Device) -> bool | None:
                looks[0] += 1
                if dies and looks[0] > 2:
                    raise InterruptedError
                return True if device.node_key in there else (None if is_silent else False)

            with suppress(InterruptedError):
                enrolment.settle_trials(devices=due, is_present=is_present)
            # What is cut, and comes again where it is a device.
            rule = cutting._rule(self.rental.pk)
        for key in [key for key in self.connected if rule.shuts_out(key)]:
            del self.connected[key]

    def play(self) -> None:
        """Something happens, and some time goes by."""
        match self.chance.choices(range(5), weights=[3, 4, 2, 1, 6])[0]:
            case 0:  # a diagnosis: five connections of one key that goes when it pleases
                key = self.key()
                self.throw_away.add(key)
                for _ in range(5):
                    self.knock(key, self.chance.choice([HOME, OFFICE]), self.chance.uniform(31, 75))
            case 1:  # a stranger, new or again
                if not self.strangers or self.chance.random() < 0.7:
                    self.strangers.append(self.key())
                for key in self.chance.sample(self.strangers, min(3, len(self.strangers))):
                    self.knock(key, STRANGER, self.chance.choice([None, 1, 100]))
            case 2 if len(self.real) < 4:  # a device of the customer's, which stays
                key = self.key()
                self.real[key] = HOME if len(self.real) % 2 else OFFICE
            case 3 if self.chance.random() < 0.3:  # the clock is set
                self.now += timedelta(seconds=self.chance.choice([-600, -30, 30, 200, 400]))
        for key, ip in self.real.items():
            if key not in self.connected:
                self.knock(key, ip, None)
        self.wait(self.chance.uniform(1, 25))
        if self.chance.random() < 0.8:
            self.settle()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(12))
def test_places_are_never_more_than_the_limit_and_go_to_who_stays(seed: int) -> None:
    rental = RentalFactory(days=60)
    RentalSpan.objects.filter(rental=rental).update(device_limit=LIMIT)
    world = World(
        rental, RelayFactory(rental=rental), timezone.now() + timedelta(minutes=15), random.Random(seed)
    )
    for _ in range(60):
        world.play()
        assert places.placed(rental, world.now).count() <= LIMIT
        approved = set(
            Device.objects.filter(status=Device.Status.APPROVED).values_list("node_key", flat=True)
        )
        assert not approved & world.throw_away
        assert len(approved & set(world.strangers)) <= enrolment.ENROLLED_PER_NETWORK
        on_trial = Device.objects.filter(trial_until__isnull=False).count()
        assert on_trial <= enrolment.TRIALS_PER_RENTAL
    # Nobody new comes; the devices that stay are approved, and nothing else holds a place.
    world.strangers.clear()
    world.connected = {key: end for key, end in world.connected.items() if key in world.real}
    for _ in range(80):
        for key, ip in world.real.items():
            if key not in world.connected:
                world.knock(key, ip, None)
        world.wait(10)
        world.settle()
    approved = set(Device.objects.filter(status=Device.Status.APPROVED).values_list("node_key", flat=True))
    assert set(world.real) <= approved
    assert not approved & world.throw_away
    assert places.placed(rental, world.now).count() == len(approved)
    assert not Device.objects.filter(trial_until__isnull=False).exists()
