"""Servers that stop answering and answer again, as operators hear of them: by alerts, of several together, and by nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from accounts.alerts import jobs
from accounts.alerts.models import Alert
from accounts.alerts.route_models import AlertDelivery, AlertRoute
from accounts.jobs import send_notice, sweep_notices
from accounts.models import Notice, User
from accounts.services import notices
from derpmgmt import flow
from derpmgmt.lib import queue
from fleet.models import Server
from fleet.services import record_contact, record_failed_contact
from fleet.ssh import AuthenticationFailed, TimedOut
from tests.factories import ServerFactory, UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[time_machine.Traveller]:
    """Nothing but servers is wrong, and every admin is told of it."""
    monkeypatch.setattr(flow, "READINGS", [])
    monkeypatch.setitem(queue._answers, "matters", [flow.server_matters])
    with time_machine.travel(timezone.now(), tick=False) as traveller:
        UserFactory(role=User.Role.ADMIN, language="en")
        AlertRoute.objects.update(digest_at=None, created_at=timezone.now())
        yield traveller


def fleet(count: int) -> list[Server]:
    now = timezone.now()
    return [ServerFactory(whole=True, last_visit_at=now, last_contact_at=now) for _number in range(count)]


def fail(*servers: Server, times: int = 1) -> None:
    for server in servers * times:
        record_failed_contact(server_pk=server.pk, error=TimedOut("no answer"))


def answer(*servers: Server) -> None:
    for server in servers:
        record_contact(server_pk=server.pk)
    Server.objects.filter(silent_since=None).update(last_visit_at=timezone.now())


def go_on(clock: time_machine.Traveller, seconds: int, *, sends: bool = True) -> None:
    """Sweeps every ten seconds; what may be sent is sent."""
    for _step in range(seconds // 10):
        clock.shift(10)
        jobs.sweep_alerts()
        if sends:
            sweep_notices()
            for pk in notices.due_notices(timezone.now()):
                send_notice(pk)


def open_of(*servers: Server) -> list[int]:
    """Which of these have an active alert, by their place."""
    rows = Alert.objects.active().filter(kind="server_error").values_list("server", flat=True)
    return [place for place, server in enumerate(servers) if server.pk in set(rows)]


def told() -> list[str]:
    """Subjects of the mails to the admin."""
    return [
        notice.context["alert_subject"]
        for notice in Notice.objects.exclude(state=Notice.State.DROPPED).order_by("pk")
    ]


def test_servers_that_go_together_are_one_message_and_so_is_their_return(
    clock: time_machine.Traveller,
) -> None:
    servers = fleet(8)
    clock.shift(5)
    fail(*servers[:3], times=2)
    go_on(clock, 10)
    # Of five nobody knows yet whether they answer, so it may be the panel that is cut off.
    assert open_of(*servers) == []
    answer(*servers[3:])
    go_on(clock, 20)
    assert open_of(*servers) == [0, 1, 2]
    assert told() == ["3 alerts"]
    go_on(clock, 120)
    answer(*servers)
    go_on(clock, 120)
    assert open_of(*servers) == []
    assert told() == ["3 alerts", "3 alerts are over"]
    assert set(AlertDelivery.objects.values_list("state", flat=True)) == {"sent"}


def test_nobody_waits_for_long_for_servers_of_which_nothing_is_known(clock: time_machine.Traveller) -> None:
    servers = fleet(4)
    clock.shift(1)
    fail(servers[0], times=2)
    go_on(clock, 40)
    assert open_of(*servers) == [0]
    assert told() == [f"[critical] {servers[0].name} does not answer"]


def test_what_is_over_before_it_left_is_told_to_nobody(clock: time_machine.Traveller) -> None:
    servers = fleet(4)
    clock.shift(1)
    fail(servers[0], times=2)
    answer(*servers[1:])
    go_on(clock, 20, sends=False)
    assert Notice.objects.get().state == "waiting"
    answer(servers[0])
    go_on(clock, 60, sends=False)
    go_on(clock, 60)
    assert told() == []
    assert AlertDelivery.objects.get().state == "dropped"


@pytest.mark.parametrize("dies", [False, True])
def test_after_a_cut_only_those_are_told_that_stay_away(
    clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch, dies: bool
) -> None:
    servers = fleet(12)
    clock.shift(1)
    for _time in range(8):
        fail(*servers)
        go_on(clock, 60)
    assert open_of(*servers) == []
    assert told() == [
        "[critical] Most servers have stopped answering at once: the panel itself may be cut off"
    ]
    if dies:
        from fleet import outages

        def die(*_given: Any) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(outages.queue, "announce", die)
            with pytest.raises(SystemExit):
                answer(servers[0])
    answer(servers[0])
    # The others rest no more, however often they had failed.
    assert Server.objects.due_for_contact(timezone.now()).count() == 12
    go_on(clock, 20)
    fail(*servers[10:])
    answer(*servers[:10])
    go_on(clock, 20)
    assert open_of(*servers) == []
    fail(*servers[10:])
    go_on(clock, 60)
    assert open_of(*servers) == [10, 11]
    assert [subject.split("]")[0] for subject in told()[1:]] == ["[cleared", "2 alerts"]


def test_servers_that_answer_with_a_refusal_show_that_the_network_works(
    clock: time_machine.Traveller,
) -> None:
    servers = fleet(3)
    clock.shift(1)
    fail(*servers[1:], times=2)
    for _time in range(2):
        record_failed_contact(server_pk=servers[0].pk, error=AuthenticationFailed())
    go_on(clock, 400)
    assert open_of(*servers) == [0, 1, 2]
