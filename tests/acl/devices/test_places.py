"""Where devices and readers of the map were, kept beside their addresses when the operator gave a database of places."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from acl.devices import admission_writer, presence
from acl.devices.models import Admission, Device
from acl.devices.services import device_panel, devices
from acl.maps import copies, services
from acl.maps.derpmap import MapFormat
from acl.maps.models import AclEvent
from containers.models import Relay
from containers.services import gates
from derpmgmt.lib import places
from serials.rentals.models import Rental
from tests.acl.asking import ALLOWED, REFUSED, A, B, approve, knock
from tests.acl.reading import path_of
from tests.factories import RelayFactory, RentalFactory, ServedRentalFactory
from tests.panel.test_places import WORLD, ipdb

pytestmark = pytest.mark.django_db(transaction=True)

SHENZHEN, BEIJING, NOWHERE = "183.60.1.1", "43.255.0.9", "203.0.113.9"


@pytest.fixture(autouse=True)
def _database(tmp_path: Path, settings: Any) -> None:
    path = tmp_path / "qqwry.ipdb"
    path.write_bytes(ipdb(WORLD))
    settings.IP_DATABASE = str(path)


@pytest.fixture
def rental() -> Rental:
    return RentalFactory(days=60)


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


def test_who_asks_is_written_down_with_his_place(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    devices.close_window(rental=rental, by=None)
    for key, ip in ((A, SHENZHEN), (A, NOWHERE), (B, BEIJING)):
        knock(relay, key, ip)
    admission_writer.flush()
    assert dict(Admission.objects.values_list("ip", "place")) == {
        SHENZHEN: "广东 深圳",
        BEIJING: "北京",
        NOWHERE: "",
    }
    assert Device.objects.get(node_key=B).last_place == "北京"
    for key, ip in ((A, BEIJING), (B, SHENZHEN)):
        knock(relay, key, ip)
    admission_writer.flush()
    found = {device.node_key: (device.last_ip, device.last_place) for device in Device.objects.all()}
    assert found == {A: (BEIJING, "北京"), B: (SHENZHEN, "广东 深圳")}
    knock(relay, A, NOWHERE)
    admission_writer.flush()
    assert Device.objects.get(node_key=A).last_place == ""


def test_no_answer_waits_for_a_place(rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(_ip: object) -> str:
        raise AssertionError("asked while a relay waits")

    monkeypatch.setattr(places.Database, "find", look_up)
    monkeypatch.setattr(places, "_open", look_up)
    approve(rental, A)
    assert [knock(relay, key, SHENZHEN) for key in (A, B)] == [ALLOWED] * 2
    devices.close_window(rental=rental, by=None)
    assert knock(relay, "77" * 32, SHENZHEN) == REFUSED


def test_a_device_on_trial_has_a_place_that_is_of_its_address(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    for seconds, ip, place in ((0, SHENZHEN, "广东 深圳"), (10, BEIJING, "北京"), (40, NOWHERE, "")):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=True):
            assert knock(relay, A, ip) == ALLOWED
            device = Device.objects.get()
            # Until it is written down it has none, rather than that of the address before.
            assert (device.last_ip, device.last_place) == (ip, "")
            admission_writer.flush()
        assert Device.objects.get().last_place == place


def test_places_cost_no_query_more(rental: Rental, relay: Relay, settings: Any) -> None:
    approve(rental, A)

    def flush() -> int:
        knock(relay, A, SHENZHEN)
        with CaptureQueriesContext(connection) as queries:
            admission_writer.flush()
        return len(queries)

    with_places = flush()
    settings.IP_DATABASE = ""
    assert flush() == with_places


def test_who_took_the_map_away_is_written_down_with_his_place() -> None:
    rental = ServedRentalFactory(days=60)
    services.hand_out_map(rental=rental, file_format=MapFormat.JSON, by=rental.user, ip=SHENZHEN)
    event = AclEvent.objects.get(kind=AclEvent.Kind.DOWNLOADED)
    assert (event.ip, event.place) == (SHENZHEN, "广东 深圳")
    assert set(AclEvent.objects.filter(ip=None).values_list("place", flat=True)) == {""}


def test_who_reads_the_live_url_is_written_down_with_his_place(
    settings: Any, tmp_path: Path, django_capture_on_commit_callbacks: Callable[..., Any]
) -> None:
    settings.VAR_DIR = tmp_path
    copies.redis_rest.end()
    rental = ServedRentalFactory(days=60)
    path = path_of(services.create_live_url(rental=rental, by=rental.user))
    assert Client().get(path, REMOTE_ADDR=BEIJING).status_code == 200
    services.record_fetches()
    event = AclEvent.objects.get(kind=AclEvent.Kind.FETCHED)
    assert (event.ip, event.place) == (BEIJING, "北京")


def test_a_connected_device_is_shown_where_it_is_now(rental: Rental, relay: Relay) -> None:
    [device] = approve(rental, A)
    Device.objects.update(last_ip=BEIJING, last_place="北京")
    there = presence.Presence(relay.pk, SHENZHEN, timezone.now())
    [line] = device_panel._connected(rental, [device.node_key], {A: there})
    assert (line.ip, line.place) == (SHENZHEN, "广东 深圳")
