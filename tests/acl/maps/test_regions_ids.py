import re
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import OperationLog
from acl.maps import services
from acl.maps.models import AclConfig, AclEvent, MapRegion
from containers.models import Relay
from serials.rentals.models import Rental
from tests.factories import RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    rental = RentalFactory()
    for slot in (1, 2):
        RelayFactory(rental=rental, slot=slot)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


def change(rental: Rental, number: int, region_id: int) -> AclConfig | None:
    row = MapRegion.objects.get(rental=rental, region_id=number)
    return services.change_region_id(
        rental=rental, map_region=row, region_id=region_id, by=rental.user, ip="198.51.100.1"
    )


@pytest.mark.parametrize("number", [900, 999])
def test_new_version_has_the_number_when_changed(rental: Rental, number: int) -> None:
    config = change(rental, 901, number)
    assert config
    assert config.version == 2
    region = config.derp_map["Regions"][str(number)]
    assert (region["RegionID"], region["Nodes"][0]["RegionID"]) == (number, number)
    event = AclEvent.objects.get(version=2)
    assert (event.by, event.reason) == (rental.user, services.REGION_CHANGED)
    logged = OperationLog.objects.get(action="map.region_changed")
    assert (logged.actor, logged.subject, logged.target, logged.ip) == (
        rental.user,
        rental.user,
        f"901 → {number}",
        "198.51.100.1",
    )


def test_nothing_is_made_when_the_number_stays(rental: Rental) -> None:
    assert change(rental, 901, 901) is None
    assert AclConfig.objects.count() == 1


@pytest.mark.parametrize("number", [0, 899, 1000, -1])
def test_number_is_refused_when_out_of_range(rental: Rental, number: int) -> None:
    with pytest.raises(services.RegionIdRefused, match="900"):
        change(rental, 901, number)


def test_number_is_refused_when_another_relay_has_it(rental: Rental) -> None:
    with pytest.raises(services.RegionIdRefused, match="902"):
        change(rental, 901, 902)
    assert sorted(MapRegion.objects.values_list("region_id", flat=True)) == [901, 902]


def test_number_can_be_had_when_its_relay_is_gone(rental: Rental) -> None:
    Relay.objects.filter(map_region__region_id=902).update(status="released", slot=None)
    config = change(rental, 901, 902)
    assert config
    assert list(config.derp_map["Regions"]) == ["902"]


def test_same_number_is_free_when_another_customer_has_it(rental: Rental) -> None:
    other = RentalFactory()
    RelayFactory(rental=other)
    services.refresh_map(rental=other, reason=services.RELAYS_CHANGED)
    assert change(rental, 901, 950)
    assert change(other, 901, 950)


def test_row_of_another_customer_is_refused_when_named(rental: Rental) -> None:
    other = RentalFactory()
    row = MapRegion.objects.get(region_id=901)
    with pytest.raises(services.RegionIdRefused):
        services.change_region_id(rental=other, map_region=row, region_id=950, by=other.user)


def fields(page: Any) -> list[str]:
    """What stands in the fields of the page, from the first relay to the last."""
    return re.findall(r'name="region_id" value="([^"]*)"', page.text)


def test_page_shows_the_reason_beside_the_field_when_refused(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    row = MapRegion.objects.get(region_id=901)
    url = reverse("acl:region-change", args=[row.pk])
    for value in ("902", "899", "x", ""):
        page = client.post(url, {"region_id": value}, headers={"HX-Request": "true"})
        assert page.status_code == 200
        assert 'id="map-region-error"' in page.text
        assert fields(page) == [value, "902"]
    page = client.post(url, {"region_id": "950"}, headers={"HX-Request": "true"})
    assert 'id="map-region-error"' not in page.text
    assert "950" in page.context["version"].config.derp_map["Regions"]
    assert fields(page) == ["902", "950"]


def test_page_without_scripts_says_the_same_when_refused_or_changed(client: Client, rental: Rental) -> None:
    client.force_login(rental.user)
    row = MapRegion.objects.get(region_id=901)
    url = reverse("acl:region-change", args=[row.pk])
    page = client.post(url, {"region_id": "902"})
    assert page.status_code == 200
    assert 'id="map-region-error"' in page.text
    assert fields(page) == ["902", "902"]
    assert 'href="/home/"' in page.text
    assert client.post(url, {"region_id": "950"}).url == reverse("acl:map-history")
    assert MapRegion.objects.get(pk=row.pk).region_id == 950


def test_page_is_not_found_when_the_region_is_another_customers(client: Client, rental: Rental) -> None:
    client.force_login(RentalFactory().user)
    row = MapRegion.objects.get(region_id=901)
    assert client.post(reverse("acl:region-change", args=[row.pk]), {"region_id": "950"}).status_code == 404
    assert client.get(reverse("acl:region-change", args=[row.pk])).status_code == 405
