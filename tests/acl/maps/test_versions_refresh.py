import threading
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, connections
from django.utils import timezone, translation

from acl.maps import derpmap, jobs, services
from acl.maps.models import VALID_FOR, AclConfig, AclEvent, MapRegion
from containers.models import Relay
from serials.rentals.models import Rental
from tests.factories import MapRegionFactory, RelayFactory, RentalFactory, ServerFactory, UserFactory

pytestmark = pytest.mark.django_db


def refresh(rental: Rental, **fields: Any) -> AclConfig | None:
    return services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED, **fields)


def region_ids(config: AclConfig | None) -> dict[str, int]:
    """Region ID of each pin in the map."""
    assert config is not None
    return {way[4]: way[0] for way in derpmap.ways(config.derp_map)}


def test_first_version_holds_every_proven_relay_when_made() -> None:
    rental, server = RentalFactory(), ServerFactory()
    relay = RelayFactory(rental=rental, server=server)
    RelayFactory(rental=rental, slot=2, server=ServerFactory(region__code="gz"), status="planned")
    RelayFactory(rental=rental, slot=3, status="failed", proven_at=None)
    RelayFactory(rental=RentalFactory())
    config = refresh(rental)
    assert config
    assert (config.version, config.is_active, config.ends_at - config.created_at) == (1, True, VALID_FOR)
    assert {region["RegionName"] for region in config.derp_map["Regions"].values()} == {
        "Shanghai 1",
        "Guangzhou 2",
    }
    assert (901, server.address, relay.derp_port, relay.stun_port, relay.certificate_sha256) in derpmap.ways(
        config.derp_map
    )
    event = AclEvent.objects.get(rental=rental)
    assert (event.kind, event.version, event.by, event.reason) == ("made", 1, None, services.RELAYS_CHANGED)


def test_regions_are_named_in_the_customers_language_when_the_page_has_another() -> None:
    rental = RentalFactory(user=UserFactory(language="zh-hans"))
    RelayFactory(rental=rental)
    with translation.override("en"):
        config = refresh(rental)
    assert config
    assert config.derp_map["Regions"]["901"]["RegionName"] == "上海 1"


def test_nothing_is_made_when_nothing_changed() -> None:
    rental = RentalFactory()
    RelayFactory(rental=rental)
    assert refresh(rental)
    assert refresh(rental) is None
    rental.user.language = "zh-hans"
    rental.user.save()
    assert refresh(rental) is None  # a name alone is not worth pasting again
    assert AclConfig.objects.count() == AclEvent.objects.count() == 1


@pytest.mark.parametrize("field", ["certificate_sha256", "derp_port", "stun_port"])
def test_new_version_follows_when_a_relay_changed(field: str) -> None:
    rental, person = RentalFactory(), UserFactory()
    relay = RelayFactory(rental=rental)
    first = refresh(rental)
    Relay.objects.filter(pk=relay.pk).update(**{field: "0" * 64 if field == "certificate_sha256" else 4242})
    second = refresh(rental, by=person)
    assert first
    assert second
    first.refresh_from_db()
    assert (first.is_active, second.is_active, second.version) == (None, True, 2)
    assert AclEvent.objects.get(version=2).by == person


def test_same_map_gets_a_new_version_when_the_old_one_lapsed() -> None:
    rental = RentalFactory(days=60)
    RelayFactory(rental=rental)
    first = refresh(rental)
    AclConfig.objects.update(ends_at=timezone.now())
    second = refresh(rental, by=UserFactory())
    assert first
    assert second
    assert (second.version, second.derp_map) == (2, first.derp_map)
    event = AclEvent.objects.get(version=2)
    assert (event.reason, event.by) == (services.LAPSED, None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"paused_at": timezone.now()}, services.NOT_ENTITLED),
        ({"closed_at": timezone.now()}, services.NOT_ENTITLED),
        ({"runs_until": timezone.now()}, services.NOT_ENTITLED),
        ({}, services.NO_RELAY),
    ],
)
def test_map_is_withdrawn_once_when_its_ground_is_gone(change: dict[str, Any], reason: str) -> None:
    rental = RentalFactory()
    relay = RelayFactory(rental=rental)
    refresh(rental)
    if change:
        Rental.objects.filter(pk=rental.pk).update(**change)
    else:
        Relay.objects.filter(pk=relay.pk).update(status="released", slot=None)
    assert refresh(rental) is None
    assert refresh(rental) is None
    assert services.active_config(rental) is None
    events = list(AclEvent.objects.order_by("pk").values_list("kind", "version", "reason"))
    assert events[1:] == [("withdrawn", 1, reason)]


def test_next_version_follows_when_a_withdrawn_map_comes_back() -> None:
    rental = RentalFactory()
    RelayFactory(rental=rental)
    refresh(rental)
    Rental.objects.update(paused_at=timezone.now())
    refresh(rental)
    Rental.objects.update(paused_at=None)
    config = refresh(rental)
    assert config
    assert config.version == 2


def test_new_relay_takes_the_number_of_its_place_over_when_one_is_gone() -> None:
    rental = RentalFactory()
    relays = [RelayFactory(rental=rental, slot=slot) for slot in (1, 2, 3)]
    refresh(rental)
    Relay.objects.filter(pk__in=[relays[1].pk, relays[2].pk]).update(status="released", slot=None)
    newest = RelayFactory(rental=rental, slot=3)
    assert region_ids(refresh(rental)) == {
        relays[0].certificate_sha256: 901,
        newest.certificate_sha256: 903,
    }


def test_chosen_number_is_taken_over_when_its_relay_row_is_deleted() -> None:
    rental = RentalFactory()
    relay = RelayFactory(rental=rental)
    refresh(rental)
    MapRegion.objects.update(region_id=950)
    relay.delete()
    successor = RelayFactory(rental=rental)
    assert region_ids(refresh(rental)) == {successor.certificate_sha256: 950}


def test_number_is_kept_when_a_released_relay_comes_back() -> None:
    rental = RentalFactory()
    relays = [RelayFactory(rental=rental, slot=slot) for slot in (1, 2)]
    before = region_ids(refresh(rental))
    Relay.objects.filter(rental=rental).update(status="released", slot=None)
    refresh(rental)
    for slot, relay in ((2, relays[1]), (1, relays[0])):
        Relay.objects.filter(pk=relay.pk).update(status="running", slot=slot)
        after = region_ids(refresh(rental))
    assert after == before


def test_lowest_free_number_is_taken_when_others_are_chosen() -> None:
    rental = RentalFactory()
    for slot, number in ((1, 901), (2, 903)):
        MapRegionFactory(
            rental=rental, slot=slot, relay=RelayFactory(rental=rental, slot=slot), region_id=number
        )
    third, fourth = RelayFactory(rental=rental, slot=3), RelayFactory(rental=rental, slot=4)
    ids = region_ids(refresh(rental))
    assert (ids[third.certificate_sha256], ids[fourth.certificate_sha256]) == (902, 904)


@pytest.mark.django_db(transaction=True)
def test_one_version_is_made_when_many_refresh_at_once() -> None:
    rental = RentalFactory()
    for slot in (1, 2, 3):
        RelayFactory(rental=rental, slot=slot)
    results: list[AclConfig | None] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        barrier.wait()
        try:
            results.append(refresh(rental))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    assert [config.version for config in results if config] == [1]
    assert AclEvent.objects.count() == 1
    assert sorted(MapRegion.objects.values_list("region_id", flat=True)) == [901, 902, 903]


def test_job_does_nothing_when_the_rental_is_gone() -> None:
    jobs.refresh_acl(4711)


def test_job_makes_the_map_when_rung() -> None:
    rental = RentalFactory()
    RelayFactory(rental=rental)
    jobs.refresh_acl(rental.pk)
    assert services.active_config(rental)


def due() -> set[int]:
    return {rental.pk for rental in services.due_rentals(timezone.now(), changed_since=None)}


def test_sweep_looks_at_no_map_when_nothing_changed_lately(django_assert_num_queries: Any) -> None:
    for _ in range(5):
        rental = RentalFactory()
        for slot in (1, 2, 3):
            RelayFactory(rental=rental, slot=slot)
        refresh(rental)
    RelayFactory(planned=True)
    RelayFactory(rental=RentalFactory(days=-1))
    Relay.objects.update(changed_at=timezone.now() - jobs.LOOK_BACK)
    with django_assert_num_queries(5) as asked:
        jobs.sweep_maps()
    # Relays are not compared with maps: that would read their pins.
    assert not any("certificate_sha256" in query["sql"] for query in asked)


def test_a_change_that_no_sweep_saw_in_time_is_found_by_the_comparison_of_all() -> None:
    rental = RentalFactory()
    RelayFactory(rental=rental)
    refresh(rental)
    Relay.objects.update(certificate_sha256="0" * 64, changed_at=timezone.now() - 2 * jobs.LOOK_BACK)
    jobs.sweep_maps()
    assert due() == {rental.pk}
    jobs.check_maps()
    assert due() == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda _rental: AclConfig.objects.update(ends_at=timezone.now()),
        lambda _rental: Rental.objects.update(runs_until=timezone.now() - timedelta(seconds=1)),
        lambda _rental: Rental.objects.update(paused_at=timezone.now()),
        lambda _rental: Relay.objects.update(certificate_sha256="0" * 64),
        lambda _rental: Relay.objects.update(status="released", slot=None),
        lambda rental: (
            type(ServerFactory()).objects.filter(relays__rental=rental).update(address="203.0.113.77")
        ),
        lambda rental: RelayFactory(rental=rental, slot=2),
        lambda _rental: MapRegion.objects.update(region_id=977),
        lambda _rental: AclConfig.objects.update(is_active=None),
    ],
)
def test_sweep_brings_the_map_up_to_date_when_anything_differs(change: Any) -> None:
    rental = RentalFactory(days=60)
    RelayFactory(rental=rental)
    refresh(rental)
    assert due() == set()
    change(rental)
    assert due() == {rental.pk}
    jobs.sweep_maps()
    assert due() == set()


def test_sweep_serves_the_others_when_one_map_cannot_be_made(caplog: pytest.LogCaptureFixture) -> None:
    broken, well = RentalFactory(), RentalFactory()
    RelayFactory(rental=broken, certificate_sha256="no pin")
    RelayFactory(rental=well)
    jobs.sweep_maps()
    assert services.active_config(well)
    assert services.active_config(broken) is None
    assert f"rental {broken.pk}" in caplog.text


@pytest.mark.django_db(transaction=True)
def test_database_forbids_a_second_active_version_and_a_doubled_number() -> None:
    from django.db import IntegrityError, transaction

    rental = RentalFactory()
    RelayFactory(rental=rental)
    refresh(rental)
    ends_at = timezone.now()
    for fields in ({"version": 2}, {"version": 1, "is_active": None}):
        with pytest.raises(IntegrityError), transaction.atomic():
            AclConfig.objects.create(rental=rental, derp_map={}, ends_at=ends_at, reason="", **fields)
    with pytest.raises(IntegrityError), transaction.atomic():
        MapRegionFactory(rental=rental, region_id=901)
    with pytest.raises(IntegrityError), transaction.atomic():
        MapRegionFactory(rental=rental, region_id=911, slot=1)
    with pytest.raises(IntegrityError), transaction.atomic():
        MapRegionFactory(rental=rental, region_id=899)
    assert connection.is_usable()
