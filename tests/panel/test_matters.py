"""What needs a person: said by each room, read by pages and programs alike, and grouped where there is much of it."""

from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone, translation

from accounts.models import User
from acl.devices.models import DevicePolicy
from containers.models import Gate, Relay, RelayHealth
from containers.services import gates
from derpmgmt.lib.matters import Line, Matter, group_matters, read_matters
from derpmgmt.lib.problems import Problem
from fleet.models import Server
from tests.factories import RegionFactory, SerialBatchFactory, ServerFactory, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def images(settings: Any, tmp_path: Path) -> None:
    for link in ("current", "current-gate"):
        (tmp_path / link).touch()
    settings.IMAGE_DIR = tmp_path


@pytest.fixture
def staff() -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def servers_of(count: int, **fields: Any) -> list[Server]:
    """So many servers in one region."""
    first = ServerFactory(whole=True, **fields)
    credential, account = first.credential, first.provider_account
    more = [
        Server(
            name=f"{first.name}-{number}",
            region=first.region,
            credential=credential,
            provider_account=account,
            address=f"198.18.{first.pk % 250}.{number}",
            last_visit_at=timezone.now(),
            **({"status": Server.Status.HEALTHY, "host_key": first.host_key} | fields),
        )
        for number in range(1, count)
    ]
    return [first, *Server.objects.bulk_create(more)]


def lines(client: Client, cause: str) -> list[Matter]:
    """Lines of one cause on the start page, each link of theirs opened once."""
    found = [
        line
        for line in client.get("/admin/").context["matters"]
        if line.cause and line.cause.code.partition(".")[0] == cause
    ]
    for line in found:
        for one in (line, *getattr(line, "named", ())):
            assert client.get(one.url).status_code == 200, one.url
    return found


def listed(client: Client, line: Matter) -> int:
    """How long the list behind a line is."""
    return int(client.get(line.url).context["cl"].result_count)


@pytest.mark.slow
def test_many_silent_servers_are_a_line_a_region_with_ten_of_them_and_the_rest_behind_a_link(
    staff: Client,
) -> None:
    since = timezone.now() - timedelta(minutes=5)
    silent = {"silent_since": since, "status": Server.Status.UNHEALTHY}
    first, second = servers_of(120, **silent), servers_of(76, **silent)
    servers_of(4)
    oldest = first[50]
    Server.objects.filter(pk=oldest.pk).update(silent_since=since - timedelta(minutes=1))
    found = lines(staff, "server_silent")
    assert [line.title for line in found] == [
        f"{first[0].region.name_en}: 120 servers do not answer",
        f"{second[0].region.name_en}: 76 servers do not answer",
    ]
    assert [listed(staff, line) for line in found] == [120, 76]
    line = found[0]
    assert isinstance(line, Line)
    assert (len(line.named), line.named[0].name) == (10, oldest.name)
    assert line.since == since - timedelta(minutes=1)
    text = staff.get("/admin/").content.decode()
    assert text.count("panel-state is-critical") == 2
    assert text.count("is-critical") < 10
    assert "The list of all 120" in text


@pytest.mark.slow
def test_a_cause_that_is_in_very_many_regions_is_one_line(staff: Client) -> None:
    for _number in range(12):
        servers_of(2, silent_since=timezone.now(), status=Server.Status.UNHEALTHY)
    (line,) = lines(staff, "server_silent")
    assert line.title == "24 servers do not answer"
    assert listed(staff, line) == 24


@pytest.mark.slow
def test_servers_that_are_announced_or_silent_for_other_reasons_are_told_apart(staff: Client) -> None:
    servers_of(3, status=Server.Status.MAINTENANCE, silent_since=timezone.now())
    servers_of(
        2, status=Server.Status.UNHEALTHY, status_code="list_not_taken", status_reason="It takes no list."
    )
    servers_of(2, status=Server.Status.UNHEALTHY, status_reason="Broken.")
    servers_of(2, status=Server.Status.NEW, host_key="")
    servers_of(4, status=Server.Status.NEW)
    assert lines(staff, "server_silent") == []
    found = {
        cause: [(line.level, listed(staff, line)) for line in lines(staff, cause)]
        for cause in ("server_unhealthy", "server_maintenance", "server_without_key", "server_to_check")
    }
    assert found == {
        "server_unhealthy": [("critical", 2), ("critical", 2)],
        "server_maintenance": [("information", 3)],
        "server_without_key": [("warning", 2)],
        "server_to_check": [("warning", 4)],
    }


@pytest.mark.slow
def test_lists_behind_lines_have_what_the_lines_count(staff: Client) -> None:
    now, region = timezone.now(), RegionFactory(new=True)
    customers = WholeRentalFactory.create_batch(5)
    Server.objects.update(region=region)
    relays = Relay.objects.all()
    Gate.objects.update(list_changed_at=now - timedelta(minutes=2), list_delivered_at=None)
    (line,) = lines(staff, "gate_list_late")
    assert (line.title.partition(": ")[2], listed(staff, line)) == (
        "15 gates do not have the newest list of devices",
        15,
    )
    Gate.objects.update(status=Gate.Status.FAILED, list_changed_at=None, failure_code="no_gate_image")
    (line,) = lines(staff, "gate_failed")
    assert listed(staff, line) == 15
    RelayHealth.objects.update(is_ok=False, cause="refused")
    RelayHealth.objects.filter(relay__in=customers[0].relays.all()).update(cause="timeout")
    found = lines(staff, "proof_failed")
    assert sorted(listed(staff, line) for line in found) == [3, 12]
    assert {line.level for line in found} == {"warning"}
    relays.update(status=Relay.Status.FAILED, failed_at=now, failure_code="port_taken")
    assert [listed(staff, line) for line in lines(staff, "relay_failed")] == [15]
    # Those of a server that does not answer stand behind that server.
    Server.objects.filter(pk=customers[0].relays.get(slot=1).server_id).update(silent_since=now)
    assert [listed(staff, line) for line in lines(staff, "relay_failed")] == [14]
    for _number in range(3):
        SerialBatchFactory(is_paid=False)
    (line,) = lines(staff, "batch_unpaid")
    assert (line.level, listed(staff, line), line.text) == ("information", 3, "")
    assert isinstance(line, Line)
    assert {one.text for one in line.named} == {"1 serial number, 0 of them used"}


@pytest.mark.slow
def test_one_that_is_worse_makes_the_line_as_bad_and_stands_first_in_it(staff: Client) -> None:
    batches = SerialBatchFactory.create_batch(12, is_paid=False)
    batches[-1].serials.update(status="used")
    (line,) = lines(staff, "batch_unpaid")
    assert isinstance(line, Line)
    assert line.level == "warning"
    assert line.named[0].key == f"batch_unpaid:{batches[-1].pk}"
    assert line.title == "12 batches are not paid for"


def test_devices_that_could_not_be_cut_off_are_said_after_a_while(staff: Client) -> None:
    rental = WholeRentalFactory()
    owed = DevicePolicy.objects.filter(rental=rental)
    owed.update(cut_owed_at=timezone.now() - timedelta(minutes=1))
    assert lines(staff, "cut_late") == []
    owed.update(cut_owed_at=timezone.now() - timedelta(minutes=6))
    (line,) = lines(staff, "cut_late")
    assert line.level == "warning"


def test_keys_are_each_only_once_and_the_same_in_every_language(staff: Client) -> None:
    for _number in range(2):
        rental = WholeRentalFactory()
        rental.relays.update(status=Relay.Status.FAILED)
        SerialBatchFactory(is_paid=False)
        ServerFactory(whole=True, status=Server.Status.UNHEALTHY)
        ServerFactory(whole=True, status=Server.Status.NEW)
        gates.record_failure(
            gate=gates.gate_of(rental.relays.get(slot=1).server_id),
            problem=Problem("no_gate_image", ""),
            now=timezone.now(),
        )
    keys = {}
    for language in ("en", "zh-hans"):
        with translation.override(language):
            keys[language] = Counter(matter.key for matter in read_matters())
    assert keys["en"] == keys["zh-hans"]
    assert len(keys["en"]) > 10
    assert set(keys["en"].values()) == {1}
    assert keys["en"] == Counter(matter.key for matter in read_matters(timezone.now()))


def test_the_most_urgent_stands_first() -> None:
    SerialBatchFactory(is_paid=False)
    ServerFactory(whole=True, status=Server.Status.MAINTENANCE)
    ServerFactory(whole=True, status=Server.Status.NEW, host_key="")
    ServerFactory(whole=True, silent_since=timezone.now(), status=Server.Status.UNHEALTHY)
    levels = [line.level for line in group_matters(read_matters())]
    assert levels == sorted(levels, key=["critical", "warning", "information"].index)
    assert levels[0] == "critical"
    assert levels[-1] == "information"
