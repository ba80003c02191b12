"""Charts of traffic and latency: a month's sum beside what is allowed, for operators and for the customer whose it is; nobody else's."""

import time
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone, translation

from accounts.models import User
from containers.graphs import draw_tests
from containers.models import Relay, TrafficDay, TrafficHour
from containers.sample_models import ClientLatency, RelaySample
from containers.traffic_graphs import relay_month, rental_month, server_month
from derpmgmt.lib.charts import RANGES, Chart
from serials.rentals.models import Rental
from tests.factories import RelayHealthFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.test_query_counts import count
from tests.panel.test_traffic_pages import month, read

pytestmark = pytest.mark.django_db
# Noon in the panel's zone, and the hours since 1970 of that day's begin.
NOW = int(datetime(2027, 3, 10, 4, tzinfo=UTC).timestamp())
MIDNIGHT = NOW // 3600 - 12


@pytest.fixture
def rental() -> Rental:
    """A customer whose months begin on the 9th."""
    rental = WholeRentalFactory()
    Rental.objects.filter(pk=rental.pk).update(created_at=datetime(2026, 12, 9, 4, tzinfo=UTC))
    rental.spans.update(
        quota_bytes=1000,
        starts_at=datetime(2026, 12, 9, tzinfo=UTC),
        ends_at=datetime(2090, 1, 1, tzinfo=UTC),
    )
    rental.refresh_from_db()
    return rental


def flowed(relay: Relay, hour: int, up: int, down: int) -> None:
    """Within an hour (since 1970), and on its day."""
    TrafficHour.objects.create(relay=relay, hour=hour, up_bytes=up, down_bytes=down)
    day = timezone.localdate(datetime.fromtimestamp(hour * 3600, UTC))
    made, _new = TrafficDay.objects.get_or_create(relay=relay, day=day)
    TrafficDay.objects.filter(relay=relay, day=day).update(
        up_bytes=made.up_bytes + up, down_bytes=made.down_bytes + down
    )


def lines(chart: Chart) -> dict[str, dict[int, Any]]:
    """The values of each line by the hour at whose end they stand, counted from the day's begin."""
    hours = [(at + 3599) // 3600 - MIDNIGHT for at in chart.moments]
    with translation.override("en"):
        return {str(line.label): dict(zip(hours, line.values, strict=True)) for line in chart.lines}


def test_a_customers_month_grows_hour_by_hour_and_begins_anew_on_their_day(rental: Rental) -> None:
    first, second, _third = rental.relays.wanted()
    flowed(first, MIDNIGHT - 25, 100, 200)  # the last hour of their month before
    flowed(first, MIDNIGHT - 24, 1, 2)
    flowed(second, MIDNIGHT - 20, 10, 20)
    flowed(first, MIDNIGHT + 12, 5, 5)  # the hour that goes on
    chart = rental_month(rental, RANGES["7d"], NOW + 60)
    found = lines(chart)
    together = found["together"]
    assert (together[-24], together[-23], together[-20], together[-19]) == (300, 3, 3, 33)
    assert (together[12], together[13]) == (33, 43)
    assert (found["up"][13], found["down"][13]) == (16, 27)
    assert chart.moments[-1] == NOW + 60
    # What was before anything was counted is not known.
    assert together[-25] is None
    assert set(found["allowance"].values()) == {1000}
    assert "allowance, up" not in found


def test_a_long_range_is_made_of_days_and_says_the_same(rental: Rental) -> None:
    first = rental.relays.wanted()[0]
    flowed(first, MIDNIGHT - 24 * 40, 100, 200)
    flowed(first, MIDNIGHT - 25, 1, 2)
    flowed(first, MIDNIGHT, 7, 8)
    chart = rental_month(rental, RANGES["90d"], NOW)
    assert 88 <= len(chart.moments) <= 91
    assert chart.moments[-1] == NOW
    assert [line.values[-1] for line in chart.lines] == [15, 7, 8, 1000]
    assert lines(chart)["together"][-24] == 3


def test_a_servers_month_begins_on_its_own_day(rental: Rental) -> None:
    relay = rental.relays.wanted()[0]
    relay.server.traffic_reset_day, relay.server.traffic_limit_bytes = 10, 5000
    flowed(relay, MIDNIGHT - 1, 100, 200)
    flowed(relay, MIDNIGHT, 1, 2)
    found = lines(server_month(relay.server, RANGES["24h"], NOW))
    assert (found["together"][0], found["together"][1]) == (300, 3)
    assert set(found["allowance"].values()) == {5000}
    assert "allowance" not in lines(server_month(rental.relays.wanted()[1].server, RANGES["24h"], NOW))


def test_a_relays_month_has_its_own_allowance_alone(rental: Rental) -> None:
    first, second, _third = rental.relays.wanted()
    flowed(first, MIDNIGHT, 1, 2)
    flowed(second, MIDNIGHT, 50, 50)
    Relay.objects.filter(pk=first.pk).update(cap_up_bytes=70)
    first.refresh_from_db()
    found = lines(relay_month(first, RANGES["24h"], NOW))
    assert found["together"][12] == 3
    assert set(found["allowance, up"].values()) == {70}
    assert "allowance" not in found


def test_latency_is_the_mean_of_tests_with_gaps_and_what_devices_say_beside_it(rental: Rental) -> None:
    relay = rental.relays.wanted()[0]
    relay.health.all().delete()
    now = timezone.now()
    chosen = RANGES["6h"]
    begin = chosen.begin(int(now.timestamp())) // 900 * 900 + 1800
    for at, packet in ((10, 4), (20, 6), (2 * 900 + 1, None), (3 * 900 + 1, 8)):
        at_time = datetime.fromtimestamp(begin + at, UTC)
        RelayHealthFactory(relay=relay, at=at_time, packet_ms=packet, is_ok=packet is not None)
    ClientLatency.objects.create(relay=relay, at=begin + 900, ms=40)
    chart = draw_tests(relay, "latency", chosen, int(now.timestamp()))
    at = list(chart.moments).index(begin)
    assert list(chart.lines[1].values)[at : at + 4] == [5, None, None, 8]
    assert list(chart.lines[3].values)[at : at + 4] == [None, 40, None, None]


@pytest.mark.parametrize("chosen", RANGES)
def test_charts_cost_the_same_for_more_relays_and_more_history(rental: Rental, chosen: str) -> None:
    server = rental.relays.wanted()[0].server
    for number in range(60):
        for relay in rental.relays.wanted():
            flowed(relay, MIDNIGHT - 24 * number, 1, 1)
    with CaptureQueriesContext(connection) as queries:
        rental_month(rental, RANGES[chosen], NOW)
        server_month(server, RANGES[chosen], NOW)
        draw_tests(rental.relays.wanted()[0], "latency", RANGES[chosen], NOW)
    assert len(queries) == 2 + 1 + 1 + 2


def test_operators_see_them_on_the_pages_of_server_relay_and_customer() -> None:
    rental = WholeRentalFactory()
    relay = rental.relays.wanted()[0]
    TrafficHour.objects.create(relay=relay, hour=int(time.time()) // 3600, up_bytes=3, down_bytes=4)
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    for page, url in (
        (reverse("admin:fleet_server_change", args=[relay.server_id]), f"/admin/fleet/server/{relay.server_id}/graph/traffic/"),
        (reverse("admin:containers_relay_change", args=[relay.pk]), f"/admin/containers/relay/{relay.pk}/graph/traffic/"),
        (reverse("admin:accounts_user_change", args=[rental.user_id]), f"/admin/containers/relay/rental/{rental.pk}/graph/"),
    ):  # fmt: skip
        assert f'data-chart="{url}?range=1h"' in staff.get(f"{page}?tab=graphs&range=1h").text
        said = staff.get(f"{url}?range=1h").json()
        assert [line["y"][-1] for line in said["lines"][:3]] == [7, 3, 4]


def test_a_relays_page_has_its_months_alerts_and_log() -> None:
    rental = WholeRentalFactory()
    relay = rental.relays.wanted()[0]
    month(relay, 10**9, 2 * 10**9)
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    page = reverse("admin:containers_relay_change", args=[relay.pk])
    assert "1 GB 2 GB 3 GB" in read(staff, f"{page}?tab=traffic")
    for tab in ("alerts", "log", "graphs"):
        assert staff.get(f"{page}?tab={tab}").status_code == 200


def test_a_customer_sees_their_own_traffic_and_has_it_as_a_file() -> None:
    rental = WholeRentalFactory()
    rental.spans.update(quota_bytes=100 * 10**9)
    relay = rental.relays.wanted()[0]
    month(relay, 10**9, 2 * 10**9, up_rate=80_000, down_rate=2_500_000)
    client = world.sign_in(rental.user)
    page = read(client, reverse("containers:traffic"))
    assert "3 GB of 100 GB used this month, 97 GB left" in page
    assert "1 GB 2 GB 3 GB 640 kbit/s 20 Mbit/s" in page
    # Of a relay that was not read nobody knows how much flows now.
    assert "0 B 0 B 0 B – –" in page
    assert f"{relay.pk},203.0." in client.get(reverse("containers:traffic-csv")).content.decode()
    RelaySample.objects.create(relay=relay, at=int(time.time()), up_rate=1000, down_rate=2000)
    url = reverse("containers:relay-graph", args=[relay.pk, "rate"])
    said = client.get(f"{url}?range=1h").json()
    assert [[value for value in line["y"] if value is not None] for line in said["lines"][:2]] == [
        [1000],
        [2000],
    ]
    assert client.get(reverse("containers:relay-graph", args=[relay.pk, "cpu"])).status_code == 404
    assert client.get(reverse("containers:traffic-graph") + "?format=csv").content.startswith(
        b"\xef\xbb\xbftime,"
    )


def test_a_customer_sees_nobody_elses_traffic() -> None:
    own, other = WholeRentalFactory(), WholeRentalFactory()
    month(other.relays.wanted()[0], 10**9, 0)
    client = world.sign_in(own.user)
    url = reverse("containers:relay-graph", args=[other.relays.wanted()[0].pk, "rate"])
    assert client.get(url).status_code == 404
    assert client.get(reverse("containers:traffic-csv")).content.count(b"\n") == 1
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    assert staff.get(url).status_code == 404
    assert staff.get(reverse("containers:traffic")).status_code == 302
    assert Client().get(url).status_code == 302


def test_the_traffic_page_costs_the_same_after_years() -> None:
    rental = WholeRentalFactory()
    client = world.sign_in(rental.user)
    few = count(client, reverse("containers:traffic"))
    for number in range(30):
        begins_on = date(2022, 1, 1) + timedelta(days=31 * number)
        for relay in rental.relays.wanted():
            month(relay, 1, 1, begins_on=begins_on)
    assert count(client, reverse("containers:traffic")) == few <= 12
