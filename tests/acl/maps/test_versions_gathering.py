"""Relays that come up together are put into the map together, and nobody waits long for the last one."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from accounts.models import Notice
from acl.maps import derpmap, jobs, services
from acl.maps.models import AclConfig
from containers.models import Relay
from serials.rentals.models import Rental
from tests.factories import RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db


def refresh(rental: Rental, **fields: Any) -> AclConfig | None:
    return services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED, **fields)


def pins(config: AclConfig | None) -> set[str]:
    assert config is not None
    return {way[-1] for way in derpmap.ways(config.derp_map)}


def versions() -> list[int]:
    return list(AclConfig.objects.order_by("version").values_list("version", flat=True))


def come_up(relay: Relay) -> None:
    Relay.objects.filter(pk=relay.pk).update(status="running", proven_at=timezone.now())


@pytest.fixture(params=["first plan", "return"])
def coming(request: pytest.FixtureRequest) -> Iterator[list[Relay]]:
    """Three relays that are being made; the customer has no map yet, or none any more."""
    with time_machine.travel(timezone.now(), tick=False):
        rental = RentalFactory()
        if request.param == "first plan":
            yield [RelayFactory(rental=rental, slot=slot, planned=True) for slot in (1, 2, 3)]
            return
        long_ago = timezone.now() - timedelta(hours=1)
        old = [RelayFactory(rental=rental, slot=slot, proven_at=long_ago) for slot in (1, 2, 3)]
        assert refresh(rental)
        AclConfig.objects.update(version=0, told_at=timezone.now())
        Relay.objects.update(status="released", slot=None, released_at=long_ago)
        assert refresh(rental) is None
        for slot, relay in enumerate(old, 1):
            Relay.objects.filter(pk=relay.pk).update(status="planned", proven_at=None, slot=slot)
        yield old


def rental_of(relays: list[Relay]) -> Rental:
    rental = relays[0].rental
    assert rental
    return rental


def test_one_version_holds_all_when_relays_come_up_one_after_another(coming: list[Relay]) -> None:
    rental = rental_of(coming)
    before = versions()
    for relay in coming:
        assert refresh(rental) is None
        jobs.sweep_maps()
        assert versions() == before
        come_up(relay)
    config = refresh(rental)
    assert config
    assert {relay.certificate_sha256 for relay in coming} <= pins(config)
    assert versions() == [*before, 1]


@pytest.mark.parametrize("end", ["failed", "removing"])
def test_version_is_made_at_once_when_the_last_one_does_not_come_up(coming: list[Relay], end: str) -> None:
    rental = rental_of(coming)
    come_up(coming[0])
    come_up(coming[1])
    assert refresh(rental) is None
    Relay.objects.filter(pk=coming[2].pk).update(status=end)
    config = refresh(rental)
    assert config
    assert coming[2].certificate_sha256 not in pins(config)
    Relay.objects.filter(pk=coming[2].pk).update(status="planned", slot=3)
    come_up(coming[2])
    config = refresh(rental)
    assert config
    assert config.version == 2


def test_nobody_waits_long_when_the_last_one_hangs(coming: list[Relay]) -> None:
    from derpmgmt.flow import CRON

    rental, now = rental_of(coming), timezone.now()
    come_up(coming[0])
    with time_machine.travel(now + timedelta(seconds=6), tick=False):
        come_up(coming[1])
        assert refresh(rental) is None
    (tick,) = (tick for tick in CRON if tick.job is jobs.sweep_maps)
    # Counted from the first, so that a slow second does not prolong it; the sweep finds it without a bell.
    with time_machine.travel(now + timedelta(seconds=20 - tick.seconds), tick=False):
        jobs.sweep_maps()
    config = services.active_config(rental)
    assert config
    assert {coming[0].certificate_sha256, coming[1].certificate_sha256} <= pins(config)
    assert config.version == 1


def test_what_a_person_asks_for_is_made_at_once_while_relays_come_up(coming: list[Relay]) -> None:
    rental = rental_of(coming)
    come_up(coming[0])
    assert refresh(rental) is None
    config = refresh(rental, by=UserFactory())
    assert config
    assert coming[0].certificate_sha256 in pins(config)
    come_up(coming[1])
    assert refresh(rental, is_forced=True)


def test_another_pin_is_told_at_once_while_a_relay_comes_up() -> None:
    rental = RentalFactory()
    relay = RelayFactory(rental=rental, proven_at=timezone.now() - timedelta(hours=1))
    assert refresh(rental)
    RelayFactory(rental=rental, slot=2, planned=True)
    Relay.objects.filter(pk=relay.pk).update(certificate_sha256="0" * 64)
    assert refresh(rental)


def test_nobody_is_written_to_when_his_relays_return_one_by_one() -> None:
    begin, rental = timezone.now(), RentalFactory()
    relays = [RelayFactory(rental=rental, slot=slot) for slot in (1, 2, 3)]
    assert refresh(rental)
    with time_machine.travel(begin + timedelta(minutes=3), tick=False) as clock:
        jobs.sweep_maps()
        Relay.objects.update(status="released", slot=None, released_at=begin)
        assert refresh(rental) is None
        for slot, relay in enumerate(relays, 1):
            Relay.objects.filter(pk=relay.pk).update(status="planned", slot=slot, proven_at=None)
        for relay in relays:
            clock.shift(timedelta(seconds=2))
            come_up(relay)
            refresh(rental)
            jobs.sweep_maps()
        assert versions() == [1, 2]
        for _time in range(2):
            clock.shift(timedelta(minutes=3))
            jobs.sweep_maps()
    # What they may have pasted before leads to the same relays.
    assert not Notice.objects.filter(kind="map_changed").exists()
