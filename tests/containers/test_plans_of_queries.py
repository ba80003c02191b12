"""What visits, their sums and charts ask of the growing tables goes by an index, however long these are."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from containers.graphs import RELAY_GRAPHS
from containers.models import (
    ClientLatency,
    RelayHealth,
    RelaySample,
    RelaySampleHour,
    TrafficCounter,
    TrafficDay,
    TrafficError,
    TrafficHour,
    TrafficMonth,
    TrafficServerMonth,
)
from containers.services import client_latency, proving, samples, traffic
from derpmgmt.lib.charts import RANGES
from fleet.graphs import SERVER_GRAPHS, draw
from fleet.sample_models import LoadHour, LoadSample
from fleet.samples import HOUR, LOAD
from tests.containers.metered import World
from tests.factories import RelayFactory, ServerFactory

pytestmark = pytest.mark.django_db

AT = datetime(2026, 11, 30, 12, 0, 10, tzinfo=UTC)
NOW = int(AT.timestamp())
GROWING: tuple[Any, ...] = (
    LoadSample, LoadHour, RelaySample, RelaySampleHour, RelayHealth, ClientLatency, TrafficCounter, TrafficHour, TrafficDay,
    TrafficMonth, TrafficServerMonth, TrafficError,
)  # fmt: skip


@contextmanager
def by_index() -> Iterator[None]:
    """Of what is asked meanwhile nothing looks through a whole table of those that grow."""
    with CaptureQueriesContext(connection) as queries:
        yield
    tables = {f"{quote}{model._meta.db_table}{quote}" for model in GROWING for quote in '"`'}
    asked = [
        query["sql"]
        for query in queries
        if query["sql"].startswith(("SELECT", "UPDATE", "DELETE"))
        and any(table in query["sql"] for table in tables)
    ]
    assert asked
    is_sqlite = connection.vendor == "sqlite"
    with connection.cursor() as cursor:
        for sql in dict.fromkeys(asked):
            cursor.execute(f"EXPLAIN {'QUERY PLAN ' if is_sqlite else ''}{sql}".replace("%", "%%"), [])
            plan = cursor.fetchall()
            if is_sqlite:
                scans = [line for line in plan if str(line[3]).startswith("SCAN")]
            else:
                # Of tables as short as a test's it reads all rows whatever there is: what counts are the keys that it could take.
                scans = [
                    line
                    for line in plan
                    if line[3] in ("ALL", "index") and line[5 if line[3] == "index" else 4] is None
                ]
            assert not scans, (sql, plan)


def test_visits_sums_and_charts_go_by_an_index() -> None:
    server = ServerFactory(healthy=True)
    relays = RelayFactory.create_batch(2, server=server)
    world = World(relays, AT)
    LoadSample.objects.bulk_create(
        LoadSample(server=server, at=NOW - 2 * HOUR + at, cpu=0.5) for at in range(9)
    )
    client_latency.record_client_latency(times={relays[0].pk: 5.0}, now=AT)
    with by_index():
        for _visit in range(2):  # the first of a month, and one after it
            world.flow(0, 10, 20)
            world.flow(1, 5, 6)
            world.visit()
            world.pass_time(15)
    LOAD.record([LoadSample(server=server, at=NOW - 3 * HOUR, cpu=0.5)])
    with by_index():
        samples.prune(NOW)  # which sums up before
        traffic.prune_traffic(AT)
        proving.prune_health(AT + timedelta(days=1))
    assert LoadHour.objects.exists()
    with by_index():
        for chosen in RANGES.values():
            draw(LOAD, server.pk, SERVER_GRAPHS["network"], chosen, NOW)
            draw(samples.RELAYS, relays[0].pk, RELAY_GRAPHS["rate"], chosen, NOW)
