"""`/metrics` as Prometheus reads it: behind a token, whole, and no dearer with more rows."""

import json
import re
from datetime import timedelta
from typing import Any

import pytest
import yaml
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from containers.traffic_models import TrafficServerMonth
from fleet.models import Server
from tests.factories import RelayFactory, ServerFactory, WholeRentalFactory

pytestmark = pytest.mark.django_db
TOKEN = "a-token-of-enough-characters"


@pytest.fixture(autouse=True)
def _token(settings: Any) -> None:
    settings.METRICS_TOKEN = TOKEN


def read(client: Client) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every number by its name and labels."""
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("text/plain; version=0.0.4")
    families = list(text_string_to_metric_families(answer.text))
    assert all(family.name.startswith("derpmgmt_") and family.documentation for family in families)
    return {
        (sample.name.removeprefix("derpmgmt_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def test_there_is_no_page_without_a_token(client: Client, settings: Any) -> None:
    settings.METRICS_TOKEN = ""
    assert client.get("/metrics", headers={"Authorization": "Bearer "}).status_code == 404


@pytest.mark.parametrize("given", ["", "Bearer", f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer ä", TOKEN])
def test_another_token_is_refused(client: Client, given: str) -> None:
    answer = client.get("/metrics", headers={"Authorization": given})
    assert (answer.status_code, answer["WWW-Authenticate"], answer.content) == (401, "Bearer", b"")


def test_what_rooms_count_is_told(client: Client) -> None:
    rental = WholeRentalFactory()
    server = rental.relays.first().server
    now = timezone.now()
    Server.objects.filter(pk=server.pk).update(
        load_ratio=0.25, silent_since=now, last_visit_at=now - timedelta(minutes=1), disk_free_bytes=None
    )
    TrafficServerMonth.objects.create(
        server=server,
        begins_on=now.date(),
        up_bytes=7,
        down_bytes=11,
        up_rate=1.5,
        down_rate=2.5,
        read_at=now,
    )
    numbers = read(client)
    here = (("region", server.region.code), ("server", server.name))
    assert numbers["rentals", (("status", "active"),)] == 1
    assert numbers["rentals_entitled", ()] == 1
    assert numbers["redemptions_total", (("kind", "serial"),)] == 1
    assert numbers["serial_numbers", (("status", "used"),)] == 1
    assert numbers["accounts", (("role", "user"),)] == 1
    assert numbers["relays_wanted", ()] == 3
    assert numbers["relays_carrying", ()] == 2
    assert numbers["server_up", here] == 0
    assert numbers["server_load_per_core", here] == 0.25
    assert numbers["server_last_visit_timestamp_seconds", here] == pytest.approx(now.timestamp() - 60)
    up, down = (
        (("direction", "up"), ("server", server.name)),
        (("direction", "down"), ("server", server.name)),
    )
    assert (numbers["server_month_bytes", up], numbers["server_month_bytes", down]) == (7, 11)
    assert (numbers["server_bytes_per_second", up], numbers["server_bytes_per_second", down]) == (1.5, 2.5)
    assert numbers["matters", (("level", "critical"),)] >= 1
    # Unknown is no number.
    assert ("server_disk_free_bytes", here) not in numbers


def test_queries_do_not_grow_with_the_fleet(client: Client) -> None:
    def queries() -> int:
        with CaptureQueriesContext(connection) as captured:
            read(client)
        return len(captured)

    WholeRentalFactory()
    before = queries()
    for server in ServerFactory.create_batch(10):
        RelayFactory(server=server)
        TrafficServerMonth.objects.create(
            server=server, begins_on=timezone.now().date(), read_at=timezone.now()
        )
    assert queries() == before


def test_queues_are_left_out_while_redis_is_away(client: Client, monkeypatch: Any) -> None:
    import redis

    def away(_name: str) -> Any:
        raise redis.ConnectionError

    monkeypatch.setattr("derpmgmt.metrics.django_rq.get_connection", away)
    numbers = read(client)
    assert numbers["redis_up", ()] == 0
    assert not [name for name, _labels in numbers if name.startswith("queue")]


MONITORING = settings.BASE_DIR / "deploy" / "monitoring"


def test_dashboard_and_rules_ask_for_numbers_that_there_are(client: Client) -> None:
    WholeRentalFactory()
    ServerFactory(load_ratio=0.1, disk_free_bytes=1, last_visit_at=timezone.now())
    TrafficServerMonth.objects.create(
        server=ServerFactory(), begins_on=timezone.now().date(), read_at=timezone.now()
    )
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    told = set(re.findall(r"^(derpmgmt_\w+)", answer.text, re.MULTILINE))
    told |= {
        "derpmgmt_queue_jobs",
        "derpmgmt_queue_oldest_seconds",
        "derpmgmt_redis_up",
    }  # as Redis may be away
    dashboard = json.loads((MONITORING / "grafana.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = yaml.safe_load((MONITORING / "rules.yml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(asked) > 20
    names = {name for expression in asked for name in re.findall(r"derpmgmt_\w+", expression)}
    assert names - told == set()
    scrape = yaml.safe_load((MONITORING / "prometheus.yml").read_text())["scrape_configs"][0]
    assert scrape["metrics_path"] == reverse("metrics")
