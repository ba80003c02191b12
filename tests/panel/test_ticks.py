"""The clock: what each queue does by itself and when, and that doing it once too often does no harm."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models.sql.compiler import SQLCompiler
from django.utils import timezone, translation

from accounts.alerts import feeding
from accounts.alerts.models import Alert
from accounts.models import OperationLog
from derpmgmt import flow
from derpmgmt.lib.queue import Tick
from derpmgmt.lib.workers import Clock
from derpmgmt.panel import worker_processes
from serials.rentals.jobs import sweep_rentals
from serials.rentals.models import Rental
from tests.factories import RentalFactory, ServerFactory


def ticks_of(queue: str) -> list[Tick]:
    return [tick for tick in flow.CRON if tick.queue == queue]


def taken(clock: Clock, now: float) -> list[Tick]:
    """All that are due at `now`."""
    return list(iter(lambda: clock.take(now), None))


@pytest.mark.parametrize("apart", [False, True])
def test_every_tick_is_one_of_a_queue_that_keeps_its_worker(
    apart: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "PROCESS_PER_QUEUE", apart)
    processes = worker_processes()
    served = [queue for queues in processes.values() for queue in queues]
    assert sorted([*served, "slow"]) == sorted(settings.QUEUES)
    assert {tick.queue for tick in flow.CRON} <= set(served)
    assert len(processes) == (len(served) if apart else 1)


def test_ends_are_looked_for_every_second() -> None:
    clock = Clock(ticks_of("admission"), now=100)
    looked = [sum(tick.job is sweep_rentals for tick in taken(clock, 100 + half / 2)) for half in range(8)]
    assert looked == [1, 0] * 4
    assert clock.wait(103.5) == 0.5


def test_what_was_missed_is_done_once() -> None:
    clock = Clock([Tick(sweep_rentals, "admission", 1), Tick(sweep_rentals, "admission", 10, (1,))], now=0)
    assert len(taken(clock, 0)) == 2
    assert [tick.seconds for tick in taken(clock, 5.5)] == [1]
    assert [tick.seconds for tick in taken(clock, 60)] == [1, 10]
    assert clock.wait(60) == 1


def test_who_waits_longest_is_first() -> None:
    clock = Clock([Tick(sweep_rentals, "admission", 5), Tick(sweep_rentals, "admission", 3, (1,))], now=0)
    assert len(taken(clock, 0)) == 2
    assert [tick.seconds for tick in taken(clock, 5)] == [3, 5]


def test_a_clock_without_ticks_waits_for_ever() -> None:
    assert Clock([], now=0).take(1) is None
    assert Clock([], now=0).wait(1) == float("inf")


@pytest.mark.django_db(transaction=True)
def test_an_end_is_recorded_once_when_two_look_for_it() -> None:
    rental = RentalFactory(days=60)
    Rental.objects.update(runs_until=timezone.now() - timedelta(seconds=1))
    for _ in range(20):
        sweep_rentals()
    rental.refresh_from_db()
    assert rental.status == Rental.Status.EXPIRED
    assert OperationLog.objects.filter(action="rental.expired").count() == 1


@pytest.mark.django_db(transaction=True)
def test_what_the_clock_does_again_and_again_costs_little_where_nothing_happens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Making the SQL of a query costs most of what such a beat costs, and what needs a person is read in one language of all."""
    often = [tick for tick in flow.CRON if tick.seconds <= 15]

    def follow() -> None:
        for tick in often:
            tick.job(*tick.args)

    follow()
    follow()
    made: list[str] = []
    read: list[str] = []
    make_sql, read_matters = SQLCompiler.pre_sql_setup, feeding.read_matters

    def count(compiler: SQLCompiler, *args: Any, **options: Any) -> Any:
        made.append(str(compiler.query.model.__name__ if compiler.query.model else ""))
        return make_sql(compiler, *args, **options)

    def listen(now: datetime) -> Any:
        read.append(translation.get_language())
        return read_matters(now)

    monkeypatch.setattr(SQLCompiler, "pre_sql_setup", count)
    monkeypatch.setattr(feeding, "read_matters", listen)
    follow()
    assert len(read) == 1
    assert len(made) <= 12, made
    # What says something new is asked for in all languages.
    ServerFactory()
    follow()
    assert len(read) == 1 + len(settings.LANGUAGES)
    assert set(Alert.objects.get(thing="too_few_servers").values["said"]) == {
        language for language, _name in settings.LANGUAGES
    }
