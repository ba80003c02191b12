"""The books of traffic against what was sent, whatever happens to visits: played at random, on SQLite and MariaDB.

Visits come twice, late and two at a time, and die at any of their writes; containers start anew with and without a last reading, networks
come back, hosts start anew, the panel's clock is set back and forward.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from threading import Barrier, BrokenBarrierError, Thread
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models import Sum
from hypothesis import given, settings
from hypothesis import strategies as st

from containers.models import TrafficDay, TrafficHour, TrafficMonth, TrafficServerMonth
from tests.containers.metered import Look, World
from tests.factories import RelayFactory, ServerFactory

AT = datetime(2026, 11, 30, 12, 0, 10, tzinfo=UTC)
Acts = list[tuple[str, int, int]]

PLANNED = ["flow", "visit", "wait", "look", "late", "pair", "die", "clock", "restart", "remake"]
UNPLANNED = ["kill", "reconnect", "reboot"]


def acts_of(names: list[str]) -> st.SearchStrategy[Acts]:
    return st.lists(st.tuples(st.sampled_from(names), st.integers(0, 1), st.integers(0, 10**6)), max_size=25)


class Died(BaseException):
    """As kill -9: nothing is finished or taken back by the process itself."""


def die_at(write: int) -> Callable[..., Any]:
    """Has the connection end at its nth statement, as the database sees it when the process dies."""
    seen = 0

    def run(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen > write:
            assert connection.connection is not None
            connection.connection.close()
            raise Died
        return execute(sql, params, many, context)

    return run


def meet(both_read: Barrier) -> Callable[..., Any]:
    """Holds a visit before its first write until the other one has read the same; SQLite lets no second one begin."""
    has_met = connection.vendor == "sqlite"

    def run(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal has_met
        if not has_met and sql.startswith(("INSERT", "UPDATE")):
            has_met = True
            with suppress(BrokenBarrierError):
                both_read.wait(1)
        return execute(sql, params, many, context)

    return run


class Play(World):
    """What was read by visits that have not been written down yet, and what may be lost."""

    def __init__(self) -> None:
        server = ServerFactory()
        super().__init__([RelayFactory(server=server), RelayFactory(server=server)], AT)
        self.looks: list[Look] = []
        # By epoch: the most that a visit has written down.
        self.told: dict[tuple[str, str, int], int] = {}
        self.visit()

    def note(self, look: Look) -> None:
        for box in look.containers:
            (interface,) = box.interfaces
            key = (box.container_id, box.epoch, interface.index or 0)
            self.told[key] = max(self.told.get(key, 0), interface.received_bytes + interface.sent_bytes)

    def write(self, look: Look) -> None:
        self.record(look)
        self.note(look)

    def together(self, looks: list[Look]) -> None:
        barrier, both_read = Barrier(len(looks)), Barrier(len(looks))
        failed: list[BaseException] = []

        def run(look: Look) -> None:
            try:
                barrier.wait()
                with connection.execute_wrapper(meet(both_read)):
                    self.record(look)
            except BaseException as error:
                failed.append(error)
            finally:
                connection.close()

        threads = [Thread(target=run, args=(look,)) for look in looks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        for look in looks:
            self.note(look)

    def act(self, name: str, number: int, size: int) -> None:
        self.pass_time(0.01)
        if name == "flow":
            self.flow(number, size, size // 7)
        elif name == "wait":
            self.pass_time(size / 10_000)
        elif name == "visit":
            self.write(self.look())
        elif name == "look":
            self.looks.append(self.look())
        elif name == "late" and self.looks:
            self.write(self.looks[size % len(self.looks)])
        elif name == "pair":
            self.flow(number, size, size // 3)
            self.together([self.looks[size % len(self.looks)] if self.looks else self.look(), self.look()])
        elif name == "die":
            self.die(size % 12)
        elif name == "clock":
            self.at += timedelta(hours=size % 200 - 100)
        elif name in ("restart", "remake"):
            self.write(self.look())
            self.begin_anew(number, is_other=name == "remake")
        elif name == "kill":
            self.begin_anew(number, is_other=bool(size % 2))
        elif name == "reconnect":
            self.reconnect(number)
        elif name == "reboot":
            self.reboot()

    def die(self, statement: int) -> None:
        """A visit whose process ends before its nth statement; whether it was through by then is seen."""
        try:
            with connection.execute_wrapper(die_at(statement)):
                self.visit()
        except Died:
            with suppress(OperationalError):  # MariaDB's says that it is closed
                connection.close()
            connection.connection = None
        else:
            self.note(self.look())

    @property
    def counted(self) -> int:
        """All books say the same: what was counted of these relays."""
        pks = [box.relay.pk for box in self.boxes]
        books = {
            (sums["up"], sums["down"])
            for rows in (
                TrafficHour.objects.filter(relay__in=pks),
                TrafficDay.objects.filter(relay__in=pks),
                TrafficMonth.objects.filter(relay__in=pks),
                TrafficServerMonth.objects.filter(server=self.server_pk),
            )
            if (sums := rows.aggregate(up=Sum("up_bytes", default=0), down=Sum("down_bytes", default=0)))
        }
        assert len(books) == 1, books
        return sum(books.pop())


@pytest.mark.django_db(transaction=True)
@settings(max_examples=40)
@given(acts=acts_of(PLANNED))
def test_every_byte_is_counted_once_when_all_stops_are_planned(acts: Acts) -> None:
    play = Play()
    for act in acts:
        play.act(*act)
        assert play.counted <= play.flowed
    play.visit()
    assert play.counted == play.flowed


@pytest.mark.django_db(transaction=True)
@settings(max_examples=40)
@given(acts=acts_of(PLANNED + UNPLANNED))
def test_only_what_no_visit_told_is_lost_when_containers_die(acts: Acts) -> None:
    play = Play()
    for act in acts:
        play.act(*act)
        assert play.counted <= play.flowed
    play.write(play.look())
    assert play.counted == sum(play.told.values())


@pytest.mark.django_db(transaction=True)
def test_two_visits_that_read_the_same_count_it_once() -> None:
    play = Play()
    play.flow(0, 10, 20)
    play.visit()
    for size in (1000, 30):
        play.flow(0, size, size)
        play.flow(1, size, size)
        play.together([play.look(), play.look()])
        assert play.counted == play.flowed
