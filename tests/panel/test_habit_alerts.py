"""What is unusual becomes alerts: customers and servers by their stored sums, and strangers in numbers."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone, translation

from accounts.alerts import jobs
from accounts.alerts.models import Alert, AlertRule
from acl.devices.models import Admission
from containers.models import Relay
from containers.sample_models import RelaySample
from containers.services import habits
from containers.traffic_models import TrafficHour
from derpmgmt import flow
from fleet.models import Server
from fleet.sample_models import LoadHour, LoadSample
from tests.factories import AdmissionFactory, RelayFactory, ServerFactory
from tests.panel import world

pytestmark = pytest.mark.django_db

HOUR = 500_000
# A quarter past the hour; four weeks are known before.
NOW = datetime.fromtimestamp(HOUR * 3600 + 900, UTC)
MBIT = 125_000


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(NOW, tick=False) as traveller:
        yield traveller


def relay(usual: float = MBIT, days: int = 28) -> Relay:
    """A customer's relay through which so many bytes a second flowed for some days, up and down together."""
    made: Relay = RelayFactory(metered_since=NOW - timedelta(days=days, hours=2))
    hours = range(HOUR - days * 24, HOUR)
    TrafficHour.objects.bulk_create(
        TrafficHour(relay=made, hour=hour, up_bytes=usual * 2400, down_bytes=usual * 1200) for hour in hours
    )
    return made


def flow_now(of: Relay, rate: float) -> None:
    """What flowed in the last 15 minutes, in the books and in the samples."""
    now = int(timezone.now().timestamp())
    TrafficHour.objects.update_or_create(
        relay=of, hour=now // 3600, defaults={"up_bytes": rate * (now % 3600 or 1), "down_bytes": 0}
    )
    samples = [RelaySample(relay=of, at=now - 60 * ago, up_rate=rate, down_rate=0) for ago in range(15)]
    RelaySample.objects.bulk_create(samples, ignore_conflicts=True)


def look(clock: time_machine.Traveller, times: int = 1) -> list[tuple[str, str]]:
    for _time in range(times):
        clock.shift(300)
        jobs.sweep_habits()
    return sorted(Alert.objects.exclude(raised_at=None).values_list("rule", "state"))


def test_a_customer_far_above_their_habit_is_one_alert_that_clears(clock: time_machine.Traveller) -> None:
    one, steady, new, small = relay(), relay(40 * MBIT), relay(days=5), relay(usual=10)
    for each, rate in ((one, 40), (steady, 45), (new, 40), (small, 0.8)):
        flow_now(each, rate * MBIT)
    clock.shift(-300)
    assert look(clock) == []
    assert look(clock) == [("customer_jump", "active")]
    alert = Alert.objects.exclude(raised_at=None).get()
    customer = one.rental.user
    assert (alert.thing, alert.customer, alert.severity, alert.kind) == (
        f"customer:{customer.pk}", customer, "warning", "anomaly",
    )  # fmt: skip
    with translation.override("en"):
        assert "Mbit/s in the last 15 minutes" in alert.text
        assert "× what they have had at most (1\u00a0Mbit/s)" in alert.text
    # An hour that is over belongs to the last day: no jump any more, but far above the habit, and the same alert.
    clock.shift(3600)
    TrafficHour.objects.update_or_create(relay=one, hour=HOUR, defaults={"up_bytes": 40 * MBIT * 3600})
    flow_now(one, 40 * MBIT)
    assert look(clock) == [("customer_habit", "active")]
    # Nothing flows: over after a day, or as soon as operators say.
    AlertRule.objects.create(rule="customer_habit", clear_seconds=1200)
    clock.shift(2 * 3600)
    assert look(clock, 4) == [("customer_habit", "active")]
    assert look(clock) == [("customer_habit", "cleared")]
    assert Alert.objects.count() == 1


def test_operators_say_from_how_many_times_on(clock: time_machine.Traveller) -> None:
    flow_now(relay(), 40 * MBIT)
    AlertRule.objects.create(rule="customer_jump", warning=50)
    AlertRule.objects.create(rule="customer_habit", is_on=False)
    assert look(clock, 3) == []
    AlertRule.objects.all().delete()
    flow_now(Relay.objects.get(), 40 * MBIT)
    assert look(clock, 2) == [("customer_jump", "active")]


def server_at(rate: float) -> Server:
    """A server that carried 20 Mbit/s for four weeks, and so much in the last 15 minutes."""
    server: Server = ServerFactory(healthy=True)
    hours = range(HOUR - 28 * 24, HOUR)
    LoadHour.objects.bulk_create(
        LoadHour(server=server, hour=hour, samples=240, receive_rate=12 * MBIT, send_rate=8 * MBIT) for hour in hours
    )  # fmt: skip
    carry(server, rate)
    return server


def carry(server: Server, rate: float) -> None:
    now = int(timezone.now().timestamp())
    LoadSample.objects.bulk_create(
        LoadSample(server=server, at=now + 30 * number, receive_rate=rate / 2, send_rate=rate / 2)
        for number in range(-29, 20)
    )


def test_a_servers_jump_is_an_alert_and_over_when_it_is_back(clock: time_machine.Traveller) -> None:
    jumped, _steady = server_at(300 * MBIT), server_at(100 * MBIT)
    assert look(clock, 2) == [("server_jump", "active")]
    alert = Alert.objects.get()
    assert (alert.server, alert.region) == (jumped.pk, jumped.region_id)
    # Nobody can tell how a server does that is not visited.
    LoadSample.objects.all().delete()
    look(clock, 4)
    assert Alert.objects.get().well_since is None
    AlertRule.objects.create(rule="server_jump", clear_seconds=300)
    carry(jumped, 20 * MBIT)
    assert look(clock) == [("server_jump", "active")]
    assert look(clock) == [("server_jump", "cleared")]


def test_strangers_in_numbers_are_an_alert_and_one_device_that_insists_is_none(
    clock: time_machine.Traveller,
) -> None:
    AlertRule.objects.create(rule="strangers", warning=5)
    at = NOW + timedelta(minutes=2)
    one, other, third = RelayFactory(), RelayFactory(), RelayFactory()
    AdmissionFactory.create_batch(5, relay=one, at=at)
    AdmissionFactory.create_batch(9, relay=other, node_key="a" * 64, count=50, at=at)
    AdmissionFactory.create_batch(9, relay=other, is_allowed=True, reason=Admission.Reason.APPROVED, at=at)
    AdmissionFactory.create_batch(9, relay=other, reason=Admission.Reason.REVOKED, at=at)
    # So many that they are counted together.
    AdmissionFactory(relay=third, node_key="", count=400, at=at)
    assert look(clock) == [("strangers", "active")] * 2
    by = {alert.customer: alert for alert in Alert.objects.all()}
    assert by.keys() == {one.rental.user, third.rental.user}
    with translation.override("en"):
        assert "400 strange devices" in by[third.rental.user].text
    clock.shift(3600)
    AlertRule.objects.filter(rule="strangers").update(clear_seconds=300)
    assert look(clock, 2) == [("strangers", "cleared")] * 2


def test_it_costs_the_same_however_many_there_are(clock: time_machine.Traveller) -> None:
    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            for read in flow.HABITS:
                list(read(timezone.now()))
        return len(queries)

    flow_now(relay(), 40 * MBIT)
    server_at(300 * MBIT)
    before = cost()
    for _number in range(2):
        flow_now(relay(), 40 * MBIT)
        server_at(300 * MBIT)
    assert cost() == before


def test_hours_and_samples_are_found_by_their_indexes(clock: time_machine.Traveller) -> None:
    """No table is read whole."""
    flow_now(relay(), 40 * MBIT)
    server_at(300 * MBIT)
    with CaptureQueriesContext(connection) as queries:
        for read in (habits.read_customers, habits.read_servers):
            list(read(timezone.now()))
    big = ("traffichour", "relaysample", "loadhour", "loadsample")
    for query in queries.captured_queries:
        sql = query["sql"]
        if not any(f"_{name}" in sql for name in big):
            continue
        with connection.cursor() as cursor:
            prefix = "EXPLAIN QUERY PLAN " if connection.vendor == "sqlite" else "EXPLAIN "
            cursor.execute(prefix + sql)
            plan = [str(row) for row in cursor.fetchall()]
        for line in plan:
            if any(f"_{name}" in line for name in big):
                assert "SCAN" not in line, (sql, plan)
                assert "'ALL'" not in line, (sql, plan)


def test_an_alert_shows_the_graph_that_shows_it(clock: time_machine.Traveller) -> None:
    AlertRule.objects.create(rule="strangers", warning=3)
    one = relay()
    server = server_at(300 * MBIT)
    flow_now(one, 40 * MBIT)
    AdmissionFactory.create_batch(3, relay=one, count=2, at=NOW + timedelta(minutes=2))
    look(clock, 2)
    by = {alert.rule: alert for alert in Alert.objects.all()}
    customer = one.rental.user_id
    staff = world.enter("admin", has_factor=True)
    until = int(timezone.now().timestamp())

    def drawn(rule: str, url: str) -> list[list[float]]:
        page = staff.get(f"/admin/accounts/alert/{by[rule].pk}/change/").text
        wanted = f"{url}?range=24h&amp;until={until}"
        assert f'data-chart="{wanted}"' in page
        lines = staff.get(wanted.replace("&amp;", "&")).json()["lines"]
        return [[value for value in line["y"] if value is not None] for line in lines]

    rate, usual = drawn("customer_jump", f"/admin/containers/relay/customers/{customer}/rate/")
    assert set(rate) == {40 * MBIT}
    assert set(usual) == {MBIT}
    received, *_others = drawn("server_jump", f"/admin/fleet/server/{server.pk}/graph/network/")
    assert max(received) == 150 * MBIT
    (refused,) = drawn("strangers", f"/admin/acl/admission/strangers/{customer}/")
    assert sum(refused) == 6
    tab = staff.get(f"/admin/accounts/user/{customer}/change/?tab=graphs").text
    assert f'data-chart="/admin/containers/relay/customers/{customer}/rate/' in tab
    # Long after it the same is found around its moment.
    clock.shift(10 * 86400)
    ended = int(by["customer_jump"].since.timestamp()) + 7 * 43200
    page = staff.get(f"/admin/accounts/alert/{by['customer_jump'].pk}/change/").text
    assert f"range=7d&amp;until={ended}" in page
    own = world.sign_in(one.rental.user)
    assert own.get(f"/admin/containers/relay/customers/{customer}/rate/").status_code in {302, 403}
