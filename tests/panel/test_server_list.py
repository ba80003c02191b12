"""The list of servers: what is not known is said so, what the regions come to, the file, and what the page fetches again and again."""

import csv
from datetime import date, timedelta
from io import StringIO
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from containers.models import Relay
from fleet.models import ProviderAccount, Region, Server
from tests.factories import RelayFactory, ServerFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.test_traffic_pages import read, server_month

pytestmark = pytest.mark.django_db
LIST = "/admin/fleet/server/"


@pytest.fixture
def staff() -> Client:
    return world.enter(User.Role.ADMIN, has_factor=True)


def fresh(name: str, **more: Any) -> Server:
    """A healthy server that was visited just now."""
    return ServerFactory(whole=True, name=name, last_visit_at=timezone.now(), **more)


def line(page: str, name: str) -> str:
    """A server's line of the list, from its name to its last visit."""
    return page[page.index(f" {name} ") :].split(" ago ")[0].split(" just now")[0]


def test_a_line_says_what_is_left_and_how_the_server_does_now(staff: Client) -> None:
    account = ProviderAccount.objects.create(provider="Aliyun", name="main", phone="13812345678")
    server = fresh(
        "busy", provider_account=account, load_ratio=0.5, answer_ms=34.6, traffic_limit_bytes=10**12,
        traffic_runs_out_on=date(2031, 2, 3),
    )  # fmt: skip
    server_month(server, 2 * 10**11, 10**11, up_rate=1000, down_rate=2_000_000)
    server_month(server, 10**12, 0, begins_on=date(2026, 1, 1))
    said = line(read(staff, LIST), "busy")
    assert "Aliyun · main 138••••••78" in said
    assert "13812345678" not in said
    assert "8 kbit/s 16 Mbit/s 300 GB 700 GB of 1 TB lasts until 2031-02-03 1.3 TB 0.50 35 ms" in said


def test_of_a_server_that_was_not_visited_lately_load_and_latency_are_unknown(staff: Client) -> None:
    server = fresh("gone", load_ratio=0.9, answer_ms=20)
    Server.objects.filter(pk=server.pk).update(last_visit_at=timezone.now() - timedelta(minutes=3))
    said = line(read(staff, LIST), "gone")
    assert "unlimited 0 B – –" in said
    assert "0.90" not in said


@pytest.mark.parametrize(
    ("column", "wanted"),
    [("left", ["a", "b", "c"]), ("total", ["b", "c", "a"]), ("latency", ["c", "a", "b"])],
)
def test_it_is_sorted_by_figures(staff: Client, column: str, wanted: list[str]) -> None:
    for name, limit, used, latency in (("a", 10, 9, 5), ("b", 10, 2, 7), ("c", 20, 7, 3)):
        server_month(fresh(name, traffic_limit_bytes=limit, answer_ms=latency), used, 0)
    page = staff.get(LIST)
    at = page.context["cl"].list_display.index(column)
    for order, names in (("", wanted), ("-", wanted[::-1])):
        shown = staff.get(f"{LIST}?o={order}{at}").context["cl"].result_list
        assert [server.name for server in shown] == names


def test_regions_are_summed_up_as_far_as_the_list_is_filtered(staff: Client) -> None:
    here, there = Region.objects.create(code="x", name_en="Xi", name_zh="西"), ServerFactory().region
    first = fresh("x1", region=here, load_ratio=0.2, capacity=10)
    second = fresh("x2", region=here, load_ratio=0.6, capacity=10, status=Server.Status.UNHEALTHY)
    old = fresh("x3", region=here, load_ratio=9, capacity=10, silent_since=timezone.now())
    Server.objects.filter(pk=old.pk).update(last_visit_at=timezone.now() - timedelta(hours=1))
    fresh("x4", region=here, load_ratio=9, status=Server.Status.RETIRED)
    rental = WholeRentalFactory()
    for server in (first, first, second):
        RelayFactory(rental=rental, slot=None, server=server, status=Relay.Status.RUNNING)
    totals = {total.region.code: total for total in staff.get(LIST).context["totals"]}
    total = totals["x"]
    assert (total.servers, total.unhealthy, total.customers, total.relays, total.capacity) == (3, 2, 1, 3, 30)
    assert (total.mean_load, total.highest_load) == (pytest.approx(0.4), 0.6)
    assert totals[there.code].mean_load is None
    assert "Xi 3 2 1 3 / 30 0.40 0.60" in read(staff, LIST)
    only = staff.get(f"{LIST}?q=x2").context["totals"]
    assert [(total.servers, total.relays) for total in only] == [(1, 1)]


def test_the_file_has_what_the_list_shows_on_all_its_pages(staff: Client) -> None:
    server_month(fresh("=big", traffic_limit_bytes=100, load_ratio=0.25, provider_account=None), 30, 90)
    for number in range(30):
        ServerFactory(name=f"small {number}")
    response = staff.get(f"{reverse('admin:fleet_server_csv')}?q=small")
    text = b"".join(response.streaming_content).decode()  # type: ignore[attr-defined]
    assert text.startswith("\ufeff")
    assert len(list(csv.DictReader(StringIO(text)))) == 30
    text = b"".join(staff.get(reverse("admin:fleet_server_csv") + "?q=big").streaming_content).decode()  # type: ignore[attr-defined]
    (row,) = csv.DictReader(StringIO(text[1:]))
    assert row["server"] == "'=big"
    assert (row["month_up_bytes"], row["month_left_bytes"], row["load_per_core"]) == ("30", "0", "0.25")
    # Unknown, and not 0.
    assert (row["latency_ms"], row["provider_account"]) == ("", "")
    page = staff.get(f"{LIST}?q=small&p=2").text
    assert 'href="/admin/fleet/server/servers.csv?q=small"' in page
    assert staff.get(reverse("admin:fleet_server_csv") + "?status__nonsense=1").status_code == 302


def test_what_the_page_fetches_again_is_its_tables_alone_and_costs_the_same_for_more(staff: Client) -> None:
    url = f"{LIST}?o=1&q=server"

    def fetch() -> tuple[str, int]:
        with CaptureQueriesContext(connection) as queries:
            response = staff.get(url, headers={"HX-Request": "true"})
        return response.text, len(queries)

    fresh("server 1")
    assert f'hx-get="{url.replace("&", "&amp;")}"' in staff.get(url).text
    text, few = fetch()
    assert "server 1" in text
    assert "<html" not in text
    for number in range(2, 8):
        server_month(fresh(f"server {number}", traffic_limit_bytes=1), 1, 1)
    text, many = fetch()
    assert "server 7" in text
    assert many == few <= 12
