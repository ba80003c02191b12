"""A server's charts: the figures of its visits, gaps where there were none, for operators alone."""

import time
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from derpmgmt.lib.charts import RANGES
from fleet.graphs import SERVER_GRAPHS, draw
from fleet.models import Server
from fleet.sample_models import LoadHour, LoadSample
from fleet.samples import LOAD
from tests.factories import ServerFactory
from tests.panel import world

pytestmark = pytest.mark.django_db
NOW = 1_800_000_000


@pytest.fixture
def server() -> Server:
    return ServerFactory(name="上海 1")


def values(server: Server, name: str, chosen: str, now: int = NOW) -> list[list[float | None]]:
    chart = draw(LOAD, server.pk, SERVER_GRAPHS[name], RANGES[chosen], now)
    assert len({len(line.values) for line in chart.lines} | {len(chart.moments)}) == 1
    return [list(line.values) for line in chart.lines]


def known(column: list[float | None]) -> list[float]:
    return [value for value in column if value is not None]


def test_each_visit_is_a_point_of_an_hour_and_what_was_missed_is_a_gap(server: Server) -> None:
    LoadSample.objects.bulk_create(
        LoadSample(server=server, at=NOW - 15 * number, cpu=number / 100, swap=None)
        for number in (0, 1, 2, 6)
    )
    mean, highest = values(server, "cpu", "1h")
    assert mean[-7:] == pytest.approx([0.06, None, None, None, 0.02, 0.01, 0.0])
    assert highest == mean
    memory, swap = values(server, "memory", "1h")
    assert known(memory) == known(swap) == []


def test_a_day_has_mean_and_highest_of_its_samples(server: Server) -> None:
    begin = NOW // 180 * 180
    LoadSample.objects.bulk_create(
        LoadSample(server=server, at=begin + at, load=load) for at, load in ((0, 1), (15, 2), (30, 6))
    )
    mean, highest = values(server, "load", "24h", begin + 100)
    assert (known(mean), known(highest)) == (pytest.approx([3]), pytest.approx([6]))


def test_long_ranges_are_made_of_hours(server: Server) -> None:
    hour = NOW // 3600
    LoadHour.objects.bulk_create(
        LoadHour(server=server, hour=hour - ago, samples=240, load=mean, load_max=highest)
        for ago, mean, highest in ((0, 1, 2), (3, 2, 3), (30, 4, 9))
    )
    assert [len(known(column)) for column in values(server, "load", "7d")] == [3, 3]
    mean, highest = values(server, "load", "400d")
    assert sum(value is not None for value in mean) in {2, 3}
    assert max(known(highest)) == 9


@pytest.mark.parametrize("chosen", RANGES)
@pytest.mark.parametrize("name", SERVER_GRAPHS)
def test_a_chart_costs_one_query(server: Server, name: str, chosen: str) -> None:
    with CaptureQueriesContext(connection) as queries:
        assert not any(map(known, values(server, name, chosen)))
    assert len(queries) == 1


def test_operators_get_the_figures_as_json_and_as_a_file(server: Server) -> None:
    LoadSample.objects.create(server=server, at=int(time.time()), receive_rate=1000, send_rate=2000)
    client = world.enter("admin", has_factor=True)
    url = f"/admin/fleet/server/{server.pk}/graph/network/?range=1h"
    said = client.get(url).json()
    assert said["unit"] == "byte_rate"
    assert [known(line["y"]) for line in said["lines"]] == [[1000], [2000], [1000], [2000]]
    text = client.get(f"{url}&format=csv").content.decode()
    assert "1000.0,2000.0" in text
    assert client.get(f"/admin/fleet/server/{server.pk}/graph/nothing/").status_code == 404
    assert client.get("/admin/fleet/server/99999/graph/cpu/").status_code == 404


@pytest.mark.parametrize("role", ["visitor", "user", "distributor"])
def test_nobody_else_gets_them(server: Server, role: str) -> None:
    client: Any = Client() if role == "visitor" else world.enter(role, has_factor=False)
    assert client.get(f"/admin/fleet/server/{server.pk}/graph/cpu/").status_code in {302, 403}


def test_the_page_names_every_chart_in_the_range_that_was_chosen(server: Server) -> None:
    page = world.enter("admin", has_factor=True).get(
        f"/admin/fleet/server/{server.pk}/change/?tab=graphs&range=30d"
    )
    for name in SERVER_GRAPHS:
        assert f'data-chart="/admin/fleet/server/{server.pk}/graph/{name}/?range=30d"' in page.text
    assert 'range=30d" aria-current="true"' in page.text
