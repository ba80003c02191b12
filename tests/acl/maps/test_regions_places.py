"""A region ID is a place of the customer: relays change under it, one place at a time, and none is let go while its relay answers."""

import importlib
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from acl.maps import derpmap, jobs, services
from acl.maps.models import AclConfig, MapRegion
from containers.models import Relay
from containers.services import relays as relay_services
from containers.services import rotation
from serials.rentals.models import Rental
from tests.acl.steps import active
from tests.factories import MapRegionFactory, RelayFactory, ServedRentalFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    rental = ServedRentalFactory(relays=3, days=200)
    # The first version is an hour old.
    Relay.objects.update(proven_at=timezone.now() - timedelta(hours=1))
    return rental


def pins(rental: Rental) -> dict[int, str]:
    """The pin that the active version has for each region."""
    return {way[0]: way[-1] for way in derpmap.ways(active(rental).derp_map)}


def succeed(relay: Relay, **fields: Any) -> Relay:
    """A successor takes the place over; the relay runs on."""
    slot = relay.slot
    Relay.objects.filter(pk=relay.pk).update(slot=None, retiring_since=timezone.now())
    return RelayFactory(rental=relay.rental, slot=slot, replaces=relay, **fields)


def refresh_after(rental: Rental, seconds: float) -> dict[int, str]:
    with time_machine.travel(timezone.now() + timedelta(seconds=seconds), tick=False):
        jobs.refresh_acl(rental.pk)
        return pins(rental)


def relay_in(rental: Rental, slot: int) -> Relay:
    return rental.relays.get(slot=slot)


def test_successor_takes_the_region_over_in_one_version_while_the_old_relay_runs(rental: Rental) -> None:
    before, old = pins(rental), relay_in(rental, 2)
    successor = succeed(old)
    jobs.refresh_acl(rental.pk)
    assert pins(rental) == before | {902: successor.certificate_sha256}
    assert active(rental).derp_map["Regions"]["902"]["RegionName"] == "Shanghai 2"
    assert active(rental).version == 2
    old.refresh_from_db()
    assert old.status == "running"
    # Its going is no change of the map.
    relay_services.give_up(old)
    relay_services.record_released(relay=old, now=timezone.now())
    jobs.refresh_acl(rental.pk)
    assert active(rental).version == 2


def test_two_places_never_change_in_the_same_minute(rental: Rental) -> None:
    before = pins(rental)
    new = {900 + slot: succeed(relay_in(rental, slot)).certificate_sha256 for slot in (1, 2, 3)}
    for by in (None, rental.user):
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED, by=by, is_forced=bool(by))
        assert pins(rental) == before | {901: new[901]}
    assert refresh_after(rental, 59)[902] == before[902]
    assert refresh_after(rental, 61) == before | {901: new[901], 902: new[902]}
    assert refresh_after(rental, 100)[903] == before[903]
    # No bell rings for the next turn: the sweep finds it.
    with time_machine.travel(timezone.now() + timedelta(seconds=125), tick=False):
        jobs.sweep_maps()
        assert pins(rental) == new


def test_places_whose_relays_do_not_work_are_replaced_at_once(rental: Rental) -> None:
    before = pins(rental)
    old = [relay_in(rental, slot) for slot in (1, 2, 3)]
    new = [succeed(relay).certificate_sha256 for relay in old]
    Relay.objects.filter(pk__in=[old[1].pk, old[2].pk]).update(status="failed")
    jobs.refresh_acl(rental.pk)
    assert pins(rental) == {901: new[0], 902: new[1], 903: new[2]}
    assert before.keys() == pins(rental).keys()


def test_successor_that_does_not_run_waits_while_the_old_relay_does(rental: Rental) -> None:
    before = pins(rental)
    successor = succeed(relay_in(rental, 1), status="failed")
    jobs.refresh_acl(rental.pk)
    assert pins(rental) == before
    Relay.objects.filter(pk=successor.pk).update(status="running")
    jobs.refresh_acl(rental.pk)
    assert pins(rental)[901] == successor.certificate_sha256


def test_the_old_relay_stays_while_the_map_leads_to_it(rental: Rental) -> None:
    old = [relay_in(rental, slot) for slot in (1, 2)]
    for relay in old:
        succeed(relay)
    long_ago = timezone.now() - timedelta(days=8)
    Relay.objects.filter(pk__in=[relay.pk for relay in old]).update(retiring_since=long_ago)
    jobs.refresh_acl(rental.pk)
    now = timezone.now()
    for relay in old:
        relay.refresh_from_db()
    assert [rotation.may_go(relay, now) for relay in old] == [True, False]
    refresh_after(rental, 61)
    assert rotation.may_go(old[1], now)
    # A relay whose certificate has ended is refused by every client.
    MapRegion.objects.filter(region_id=902).update(relay=old[1])
    old[1].certificate_ends_at = now
    assert rotation.may_go(old[1], now)


def let_go(relay: Relay, at: datetime) -> None:
    relay_services.give_up(relay)
    relay_services.record_released(relay=relay, now=at)


def test_region_leaves_the_map_twelve_seconds_after_its_ports_closed(rental: Rental) -> None:
    now, relay = timezone.now(), relay_in(rental, 3)
    before = pins(rental)
    with time_machine.travel(now, tick=False) as clock:
        relay_services.give_up(relay)
        jobs.refresh_acl(rental.pk)
        assert pins(rental) == before, "its container may still run"
        relay_services.record_released(relay=relay, now=now)
        clock.shift(timedelta(seconds=11))
        jobs.refresh_acl(rental.pk)
        assert pins(rental) == before
        clock.shift(timedelta(seconds=1))
        jobs.sweep_maps()
        assert pins(rental).keys() == {901, 902}
        # The place keeps its number.
        newest = RelayFactory(rental=rental, slot=3)
        jobs.refresh_acl(rental.pk)
        assert pins(rental)[903] == newest.certificate_sha256


def test_regions_of_relays_that_come_back_stay_while_their_ports_were_closed_for_a_moment_only(
    rental: Rental,
) -> None:
    first, second, third = (relay_in(rental, slot) for slot in (1, 2, 3))
    now = timezone.now()
    with time_machine.travel(now, tick=False) as clock:
        for relay in (first, second, third):
            relay_services.give_up(relay, returns=True)
        let_go(first, now)
        relay_services.record_released(relay=second, now=now - timedelta(minutes=1))
        for slot, relay in enumerate((first, second, third), 1):
            Relay.objects.filter(pk=relay.pk).update(
                status="planned", slot=slot, return_slot=None, proven_at=None
            )
        jobs.refresh_acl(rental.pk)
        assert pins(rental).keys() == {901, 903}, "the third was never stopped"
        clock.shift(timedelta(seconds=12))
        jobs.refresh_acl(rental.pk)
        assert pins(rental).keys() == {903}


def test_a_region_without_a_place_stays_as_long_as_its_relay_does(rental: Rental) -> None:
    """It is from before successors took region IDs over: customers have pasted it."""
    old = RelayFactory(rental=rental, slot=None, retiring_since=timezone.now())
    MapRegionFactory(rental=rental, region_id=950, relay=old)
    jobs.refresh_acl(rental.pk)
    assert pins(rental)[950] == old.certificate_sha256
    assert active(rental).derp_map["Regions"]["950"]["RegionName"] == "Shanghai 950"
    let_go(old, timezone.now())
    assert 950 in refresh_after(rental, 11)
    assert 950 not in refresh_after(rental, 13)
    assert not MapRegion.objects.filter(region_id=950).exists()


def test_versions_that_only_wait_for_their_turn_are_not_due(rental: Rental) -> None:
    for slot in (1, 2):
        succeed(relay_in(rental, slot))
    jobs.refresh_acl(rental.pk)
    now = timezone.now()
    assert services.due_rentals(now, changed_since=None) == []
    assert services.due_rentals(now + timedelta(seconds=61), changed_since=None) == [rental]
    assert AclConfig.objects.filter(is_active=True).count() == 1


def test_first_plan_is_one_version_however_many_places_it_has() -> None:
    rental = ServedRentalFactory(days=60, relays=3)
    assert pins(rental).keys() == {901, 902, 903}
    assert active(rental).version == 1


# From before there were places


def test_regions_from_before_keep_their_numbers_when_they_become_places(rental: Rental) -> None:
    """A successor of each kind: in its place beside the old relay, in the making, and one that left a number free."""
    from django.apps import apps

    give_places: Any = importlib.import_module("acl.migrations.0007_regions").give_places
    retiring = RelayFactory(rental=rental, slot=None, retiring_since=timezone.now())
    gone = RelayFactory(rental=rental, slot=None, status="released")
    MapRegionFactory(rental=rental, relay=retiring, region_id=950)
    MapRegionFactory(rental=rental, relay=gone, region_id=904)
    ended = ServedRentalFactory(days=60, relays=2)
    going = ended.relays.get(slot=2)
    for relay in ended.relays.all():
        relay_services.give_up(relay, returns=True)
    relay_services.record_released(relay=going, now=timezone.now())
    MapRegionFactory(rental=ended, region_id=977)
    MapRegion.objects.update(slot=None)
    before = pins(rental) | {950: retiring.certificate_sha256}

    give_places(apps, None)
    regions = MapRegion.objects.order_by("region_id")
    assert list(regions.filter(rental=rental).values_list("region_id", "slot")) == [
        (901, 1), (902, 2), (903, 3), (950, None)
    ]  # fmt: skip
    assert list(regions.filter(rental=ended).values_list("region_id", "slot")) == [
        (901, 1),
        (902, 2),
        (977, 3),
    ]
    jobs.refresh_acl(rental.pk)
    assert pins(rental) == before


# By hand


def change(rental: Rental, number: int, region_id: int) -> AclConfig | None:
    row = MapRegion.objects.get(rental=rental, region_id=number)
    return services.change_region_id(rental=rental, map_region=row, region_id=region_id, by=rental.user)


def test_numbers_are_changed_one_a_minute_once_devices_may_know_the_map(rental: Rental) -> None:
    assert change(rental, 901, 910)
    assert change(rental, 902, 911), "nobody has taken the map yet"
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.JSON, by=rental.user)
    with pytest.raises(services.RegionIdRefused, match=r"minute|分钟"):
        change(rental, 903, 912)
    assert pins(rental).keys() == {910, 911, 903}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert change(rental, 903, 912)
    # A successor waits for that too.
    succeed(relay_in(rental, 1))
    with time_machine.travel(timezone.now() + timedelta(seconds=70)):
        before = pins(rental)
        jobs.refresh_acl(rental.pk)
        assert pins(rental) == before
