"""What is wrong becomes alerts: one of each thing, none of one lost visit, and one alone where the panel itself is cut off."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.test import Client
from django.urls import reverse
from django.utils import timezone, translation

from accounts.alerts import jobs
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertRoute
from accounts.alerts.services import Reading, change_rule
from accounts.models import Notice, PutOff, User
from containers.models import Relay, RelayHealth
from derpmgmt import flow, watch
from derpmgmt.lib import workers
from derpmgmt.lib.queue import Tick
from fleet.models import Server
from fleet.services import record_contact, record_failed_contact
from fleet.ssh import TimedOut
from tests.factories import ServerFactory, UserFactory, WholeRentalFactory
from tests.panel.test_matters import images  # noqa: F401 — there are images of relays and gates

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


MEASURED = ["disk", "clock", "speed"]


@pytest.fixture
def clock() -> Iterator[time_machine.Traveller]:
    with time_machine.travel(timezone.now(), tick=False) as traveller:
        yield traveller


@pytest.fixture(autouse=True)
def no_readings(db: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read, and alerts are told to nobody."""
    AlertRoute.objects.all().delete()
    monkeypatch.setattr(flow, "READINGS", [])


def sweep(clock: time_machine.Traveller, seconds: int = 0) -> None:
    """Time goes on, with sweeps in between; the servers that answer are visited."""
    for step in [0, *[30] * (seconds // 30), seconds % 30]:
        clock.shift(step)
        now = timezone.now()
        Server.objects.filter(silent_since=None).update(last_visit_at=now, last_contact_at=now)
        jobs.sweep_alerts()


def alerts(**wanted: Any) -> list[tuple[str, str]]:
    """Thing and state of each that was raised."""
    rows = Alert.objects.filter(raised_at__isnull=False, **wanted).exclude(kind__in=["task"])
    return sorted(rows.exclude(thing="too_few_servers").values_list("thing", "state"))


def fail(*servers: Server) -> None:
    for server in servers:
        record_failed_contact(server_pk=server.pk, error=TimedOut("no answer"))


def fleet(count: int) -> list[Server]:
    return [ServerFactory(whole=True, last_visit_at=timezone.now()) for _number in range(count)]


def test_one_lost_visit_raises_none_and_a_second_one_at_once(clock: time_machine.Traveller) -> None:
    servers = fleet(4)
    fail(servers[0])
    sweep(clock, 10)
    assert alerts() == []
    record_contact(server_pk=servers[0].pk)
    fail(servers[0])
    sweep(clock, 10)
    fail(servers[0])
    jobs.sweep_alerts()
    thing = f"server_silent:{servers[0].pk}"
    assert alerts() == [(thing, "active")]
    alert = Alert.objects.get(thing=thing)
    assert (alert.kind, alert.server, alert.name, alert.severity) == (
        "server_error",
        servers[0].pk,
        servers[0].name,
        "critical",
    )
    assert alert.since == servers[0].__class__.objects.get(pk=servers[0].pk).silent_since
    record_contact(server_pk=servers[0].pk)
    sweep(clock, 20)
    assert alerts() == [(thing, "active")]
    sweep(clock, 20)
    assert alerts() == [(thing, "cleared")]


def test_five_in_a_hundred_lost_visits_raise_none_for_ten_minutes(clock: time_machine.Traveller) -> None:
    servers = fleet(4)
    for round_ in range(40):
        for number, server in enumerate(servers):
            if (round_ * 4 + number) % 20 == 7:
                fail(server)
            else:
                record_contact(server_pk=server.pk)
        sweep(clock, 15)
    assert alerts() == []


def test_where_most_are_gone_at_once_the_panel_says_once_that_it_is_cut_off(
    clock: time_machine.Traveller,
) -> None:
    servers = fleet(10)
    for _number in range(3):
        fail(*servers)
        sweep(clock, 20)
    assert alerts() == [("panel_cut_off", "active")]
    with translation.override("en"):
        assert "10 of 10 servers" in Alert.objects.get(thing="panel_cut_off").text
    # For as long as it lasts.
    sweep(clock, 900)
    assert alerts() == [("panel_cut_off", "active")]
    for server in servers:
        record_contact(server_pk=server.pk)
    sweep(clock, 60)
    assert alerts() == [("panel_cut_off", "cleared")]


def test_most_servers_that_stay_away_while_others_answer_are_told_each(clock: time_machine.Traveller) -> None:
    servers = fleet(5)
    for _number in range(2):
        fail(*servers[:3])
        sweep(clock, 20)
    assert alerts() == [("panel_cut_off", "active")]
    for server in servers[3:]:
        record_contact(server_pk=server.pk)
    sweep(clock, 360)
    silent = sorted((f"server_silent:{server.pk}", "active") for server in servers[:3])
    assert alerts() == [("panel_cut_off", "cleared"), *silent]


def test_servers_that_go_one_after_another_are_no_cut(clock: time_machine.Traveller) -> None:
    servers = fleet(4)
    for server in servers[:3]:
        fail(server)
        sweep(clock, 20)
        fail(server)
        sweep(clock, 400)
    assert [state for _thing, state in alerts(kind="server_error")] == ["active"] * 3
    assert alerts(kind="panel") == []


def test_announced_maintenance_is_none(clock: time_machine.Traveller) -> None:
    fleet(3)
    ServerFactory(whole=True, status=Server.Status.MAINTENANCE)
    sweep(clock, 120)
    assert alerts() == []


def test_what_the_engine_lacks_is_dockers(clock: time_machine.Traveller) -> None:
    server = fleet(4)[0]
    Server.objects.filter(pk=server.pk).update(status=Server.Status.UNHEALTHY, status_code="daemon_down")
    sweep(clock)
    assert alerts(kind="docker_error") == [(f"server_unhealthy:{server.pk}", "active")]


def test_a_relay_that_is_repaired_within_a_minute_is_none_and_one_that_is_not_concerns_its_customer(
    clock: time_machine.Traveller,
) -> None:
    rental = WholeRentalFactory()
    relay = rental.relays.get(slot=1)
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.FAILED, failed_at=timezone.now())
    sweep(clock, 40)
    assert alerts(kind="relay") == []
    sweep(clock, 30)
    (alert,) = Alert.objects.filter(kind="relay", state="active")
    assert (alert.state, alert.customer, alert.server) == ("active", rental.user, relay.server_id)
    assert alert in Alert.objects.visible_to(rental.user)
    assert not Alert.objects.visible_to(UserFactory())


def test_a_customers_page_says_what_concerns_them_and_no_more(clock: time_machine.Traveller) -> None:
    rental, other = WholeRentalFactory(), WholeRentalFactory()
    relay = rental.relays.select_related("server__region").get(slot=1)

    def noticed(user: User, language: str = "en") -> str:
        User.objects.filter(pk=user.pk).update(language=language)
        client = Client(headers={"accept-language": language})
        client.force_login(User.objects.get(pk=user.pk))
        page = client.get(reverse("home-relays")).content.decode()
        return page.partition('id="relays-concerns"')[2].partition("</ul>")[0]

    sweep(clock, 90)
    assert noticed(rental.user) == ""
    row = Relay.objects.filter(pk=relay.pk)
    row.update(status=Relay.Status.FAILED, failed_at=timezone.now())
    sweep(clock, 90)
    text = noticed(rental.user)
    assert f"{relay.server.region.name_en} 1 does not run; it is started again by itself." in text
    assert "lasts" in text
    assert relay.server.name not in text
    assert f"{relay.server.region.name_zh} 1 未在运行" in noticed(rental.user, "zh-hans")
    assert noticed(other.user) == ""
    row.update(status=Relay.Status.RUNNING)
    sweep(clock, 120)
    assert "over" in noticed(rental.user)
    clock.shift(timedelta(days=1, minutes=1))
    assert noticed(rental.user) == ""


def test_each_reads_it_in_their_own_language(clock: time_machine.Traveller) -> None:
    server = fleet(4)[0]
    Server.objects.filter(pk=server.pk).update(status=Server.Status.UNHEALTHY)
    sweep(clock)
    alert = Alert.objects.get(server=server.pk)
    titles = set()
    for language in ("en", "zh-hans"):
        with translation.override(language):
            titles.add(alert.title)
    assert titles == {f"{server.name} · unhealthy", f"{server.name} · 异常"}


def test_what_changes_in_what_a_room_says_is_read_in_the_alert(clock: time_machine.Traveller) -> None:
    user = UserFactory()
    for number in range(2):
        Notice.objects.create(
            user=user, kind="message", key=str(number), language="en", state=Notice.State.FAILED
        )
        sweep(clock)
        with translation.override("en"):
            assert Alert.objects.get(thing="notices_failed").title.startswith(str(number + 1))


def test_a_sweep_that_costs_the_same_however_much_is_wrong(
    clock: time_machine.Traveller, django_assert_max_num_queries: Any
) -> None:
    fleet(2)
    for number in range(30):
        PutOff.objects.create(work="nothing", row=number)
    sweep(clock, 60)
    assert len(alerts()) == 30
    with django_assert_max_num_queries(60) as asked:
        jobs.sweep_alerts()
    for number in range(30, 60):
        PutOff.objects.create(work="nothing", row=number)
    sweep(clock, 60)
    with django_assert_max_num_queries(len(asked)):
        jobs.sweep_alerts()


def test_what_one_room_cannot_read_keeps_nobody_from_the_others(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(now: Any) -> Iterator[Reading]:
        raise RuntimeError

    def full(now: Any) -> Iterator[Reading]:
        yield Reading(rule="disk", thing="server:1", value=99, name="web-1", server=1)

    monkeypatch.setattr(flow, "READINGS", [broken, full])
    sweep(clock, 70)
    assert alerts() == [("server:1", "active")]


def test_slow_answers_of_a_server_are_an_alert(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    rental = WholeRentalFactory()
    RelayHealth.objects.update(tcp_ms=20)
    RelayHealth.objects.filter(relay__in=rental.relays.filter(slot=1)).update(tcp_ms=450)
    monkeypatch.setattr(flow, "READINGS", [flow.read_latency])
    sweep(clock, 400)
    (alert,) = Alert.objects.filter(kind="latency")
    with translation.override("en"):
        assert alert.text == f"{rental.relays.get(slot=1).server.name} answers after 450 ms."


def test_disk_clock_and_line_of_servers_are_judged_as_their_last_visit_found_them(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, wrong, busy, _well = fleet(4)
    monkeypatch.setattr(flow, "READINGS", [flow.read_servers])
    # A line of 100 Mbit/s among those of a gigabit.
    change_rule(
        row=AlertRule(rule="speed", server=busy.pk, warning=80, critical=95), by=UserFactory(role="admin")
    )
    Server.objects.filter(pk=full.pk).update(disk_share=0.96)
    Server.objects.filter(pk=wrong.pk).update(clock_offset=-61.0)
    Server.objects.update(send_rate=11_000_000, receive_rate=2_000_000)
    sweep(clock, 330)
    found = {
        (alert.rule, alert.server, alert.severity)
        for alert in Alert.objects.filter(state="active", kind__in=MEASURED)
    }
    assert found == {
        ("disk", full.pk, "critical"),
        ("clock", wrong.pk, "critical"),
        ("speed", busy.pk, "warning"),
    }
    # Nobody knows how a server is that is not visited any more.
    Server.objects.update(
        disk_share=0, silent_since=timezone.now(), last_visit_at=timezone.now() - timedelta(minutes=5)
    )
    sweep(clock, 330)
    clock.shift(4000)
    sweep(clock)
    assert Alert.objects.filter(state="active", kind="disk").exists()


def test_a_servers_traffic_that_will_not_last_is_one_alert_and_worse_once_it_is_used_up(
    clock: time_machine.Traveller,
) -> None:
    server = fleet(3)[0]
    row = Server.objects.filter(pk=server.pk)
    row.update(traffic_runs_out_on="2026-12-24")
    sweep(clock, 90)
    (alert,) = Alert.objects.filter(kind="traffic_error")
    with translation.override("en"):
        assert alert.title == f"The traffic of {server.name} runs out on 2026-12-24"
    assert (alert.state, alert.severity, alert.server) == ("active", "warning", server.pk)
    row.update(traffic_over_at=timezone.now())
    sweep(clock, 90)
    (alert,) = Alert.objects.filter(kind="traffic_error")
    with translation.override("en"):
        assert (alert.severity, alert.title) == ("critical", f"The traffic of {server.name} is used up")
    row.update(traffic_over_at=None, traffic_runs_out_on=None)
    sweep(clock, 90)
    assert alerts(kind="traffic_error") == [(f"server_traffic:{server.pk}", "cleared")]


def fail_for_good() -> None:
    raise RuntimeError


def test_the_panel_looks_at_itself_and_at_how_it_is_well_again(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody serves queues, a job waits and others fail, a sweep was done long ago, mail does not leave, the disk is full."""
    import django_rq
    from rq.registry import FailedJobRegistry

    notice = Notice.objects.create(user=UserFactory(), kind="message", key="x", language="en", tries=3)
    Notice.objects.filter(pk=notice.pk).update(created_at=timezone.now() - timedelta(minutes=20))
    tick: Tick = flow.CRON[0]
    late, used = 1000, 96
    monkeypatch.setattr(watch, "ticks_done", lambda: {workers.tick_name(tick): clock_now() - late})
    monkeypatch.setattr(
        watch.shutil, "disk_usage", lambda _path: watch.shutil._ntuple_diskusage(100, used, 100 - used)
    )
    monkeypatch.setattr(
        flow, "READINGS", [flow.read_notices, watch.read_queues, watch.read_sweeps, watch.read_disk]
    )

    def found(state: str) -> set[tuple[str, str]]:
        rows = Alert.objects.filter(source="reading", state=state)
        return {(alert.rule, alert.severity) for alert in rows}

    with django_rq.get_connection("default") as client:
        queue = django_rq.get_queue("default", connection=client)
        waiting = queue.enqueue(fail_for_good)
        failing = queue.enqueue(fail_for_good)
        registry = FailedJobRegistry(queue=queue)
        for _number in range(6):
            registry.add(failing, ttl=60)
            sweep(clock, 30)
        assert found("active") == {
            ("panel_workers", "critical"),
            ("panel_queue", "warning"),
            ("panel_jobs", "warning"),
            ("panel_sweeps", "critical"),
            ("panel_mail", "warning"),
            ("panel_disk", "critical"),
        }
        with translation.override("en"):
            text = Alert.objects.get(rule="panel_jobs").text
        assert text.startswith(
            "Jobs of the queue default that ended with an internal error within a minute: 1."
        )
        late, used = 0, 50
        Notice.objects.update(state=Notice.State.SENT)
        queue.remove(waiting)
        queue.remove(failing)
        registry.remove(failing)
        lanes = [workers._Lane(name, [], client) for name in settings.QUEUES]
        for lane in lanes:
            lane._keep_worker()
        try:
            for _number in range(13):
                sweep(clock, 30)
                for lane in lanes:
                    lane._keep_worker()
        finally:
            for lane in lanes:
                lane.leave()
        assert found("active") == set()
        assert len(found("cleared")) == 6


def clock_now() -> float:
    return timezone.now().timestamp()


def test_a_worker_lives_while_its_thread_is_at_a_long_piece_of_work() -> None:
    import django_rq

    with django_rq.get_connection("default") as client:
        lane = workers._Lane("default", [], client)
        worker = lane._keep_worker()
        try:
            for is_busy in (False, True):
                before = worker.last_heartbeat = workers.rq_now() - timedelta(seconds=95)
                lane.is_busy = is_busy
                lane.beat()
                assert (worker.last_heartbeat != before) == is_busy
        finally:
            lane.leave()


def test_a_tick_that_is_done_is_noted_and_one_that_fails_is_not() -> None:
    def well() -> None:
        pass

    def ill() -> None:
        raise RuntimeError

    import django_rq

    with django_rq.get_connection("default") as client:
        lane = workers._Lane("default", [], client)
        ticks = [Tick(job, "default", 10) for job in (well, ill)]
        for tick in ticks:
            lane._follow(tick)
    assert [workers.tick_name(tick) in workers.ticks_done() for tick in ticks] == [True, False]
