"""How servers do, by the JSON API: figures with their units, null for what nobody knows, and nothing where nothing was measured."""

import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from fleet import services
from fleet.models import Server
from fleet.sample_models import LoadHour, LoadSample
from tests.api import Api
from tests.factories import ServerFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def server() -> Server:
    return ServerFactory(status=Server.Status.HEALTHY)


@pytest.fixture
def operator() -> Api:
    return Api(UserFactory(role="admin"))


def test_the_last_visit_is_told_in_per_cent_and_what_it_did_not_measure_is_null(
    server: Server, operator: Api
) -> None:
    now = int(time.time())
    LoadSample.objects.create(server=server, at=now - 15, cpu=0.9)
    LoadSample.objects.create(server=server, at=now, cpu=0.12345, memory=0.5, answer_ms=35.5, load=0.25)
    said = operator.get(f"monitoring/health/{server.pk}").json()
    assert (said["cpu_usage"], said["memory_usage"]) == (pytest.approx(12.35, abs=0.01), 50)
    assert (said["ping_latency"], said["load_per_core"]) == (35.5, 0.25)
    assert said["swap_usage"] is None
    assert said["disk_usage"] is None
    assert said["is_answering"] is True
    assert said["measured_at"].startswith(time.strftime("%Y-%m-%dT%H:%M", time.gmtime(now)))


def test_a_server_that_was_never_visited_has_no_figures(server: Server, operator: Api) -> None:
    Server.objects.filter(pk=server.pk).update(silent_since=timezone.now())
    said = operator.get(f"monitoring/health/{server.pk}").json()
    assert said["measured_at"] is None
    assert said["cpu_usage"] is None
    assert said["is_answering"] is False


def test_a_time_is_told_in_equal_steps_without_those_of_which_nothing_is_known(
    server: Server, operator: Api
) -> None:
    hour = int(time.time()) // 3600
    for ago in (1, 2, 5):
        LoadHour.objects.create(
            server=server, hour=hour - ago, samples=9, cpu=0.1 * ago, cpu_max=0.5, load=ago, load_max=9
        )
    said = operator.get(f"monitoring/health/{server.pk}/load_analysis", {"range": "7d"}).json()
    assert said["step_seconds"] == 3600
    entries = said["load_analysis"]
    assert [entry["load_per_core"] for entry in entries] == [5, 2, 1]
    assert [entry["cpu_usage"] for entry in entries] == pytest.approx([50, 20, 10], abs=0.01)
    assert {entry["cpu_usage_max"] for entry in entries} == {50}
    assert {entry["load_per_core_max"] for entry in entries} == {9}
    assert entries[0]["memory_usage"] is None
    assert entries[0]["at"] < entries[1]["at"]


@pytest.mark.parametrize("asked", ["1y", "", "24H", "-1h"])
def test_a_range_that_there_is_not_is_refused(server: Server, operator: Api, asked: str) -> None:
    answer = operator.get(f"monitoring/health/{server.pk}/load_analysis", {"range": asked})
    assert answer.status_code == 422
    assert answer.json()["success"] is False


def test_what_was_done_with_the_server_is_told_a_page_at_a_time(server: Server, operator: Api) -> None:
    services.start_maintenance(server=server, by=None, reason="new disk")
    services.end_maintenance(server=server, by=None)
    services.start_maintenance(server=ServerFactory(status=Server.Status.HEALTHY), by=None, reason="another")
    url = f"monitoring/health/{server.pk}/logs"
    first = operator.get(url, {"page_size": 1}).json()
    assert [line["action"] for line in first["logs"]] == ["server.maintenance_ended"]
    second = operator.get(url, {"page_size": 1, "cursor": first["next_cursor"]}).json()
    assert [(line["action"], line["reason"]) for line in second["logs"]] == [
        ("server.maintenance_started", "new disk")
    ]


@pytest.mark.parametrize("path", ["", "/load_analysis", "/logs"])
@pytest.mark.parametrize("role", ["user", "distributor"])
def test_servers_are_nobodys_business_but_operators(server: Server, role: str, path: str) -> None:
    assert Api(UserFactory(role=role)).get(f"monitoring/health/{server.pk}{path}").status_code == 403


def test_queries_do_not_grow_with_what_was_measured(server: Server, operator: Api) -> None:
    def queries(**asked: Any) -> int:
        with CaptureQueriesContext(connection) as captured:
            assert operator.get(f"monitoring/health/{server.pk}/load_analysis", asked).status_code == 200
        return len(captured)

    queries()  # the token is known from then on
    before = queries(range="1h")
    now = int(time.time())
    LoadSample.objects.bulk_create(LoadSample(server=server, at=now - 15 * n, cpu=0.1) for n in range(200))
    assert queries(range="1h") == before
