"""Samples: what a round writes, what hours are made of, whatever dies, comes twice or late."""

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleet.facts import parse_facts
from fleet.readings import UNKNOWN
from fleet.sample_models import LOAD_FIGURES, HourDue, LoadHour, LoadSample
from fleet.samples import HOUR, LOAD, load_sample
from tests.fleet.test_facts import ALPINE

pytestmark = pytest.mark.django_db

BEGIN = 1_800_000_000 // HOUR * HOUR
DAY = 24 * HOUR


class Killed(Exception):
    """The process ended here."""


def sample(server_pk: int, at: int, cpu: float | None, load: float | None = None) -> LoadSample:
    return LoadSample(server_id=server_pk, at=at, cpu=cpu, load=load)


def hours() -> dict[tuple[int, int], tuple[Any, ...]]:
    columns = ("samples", "cpu_min", "cpu", "cpu_max", "load")
    return {(row[0], row[1]): row[2:] for row in LoadHour.objects.values_list("server", "hour", *columns)}


_clock = st.integers(-20 * HOUR, 20 * HOUR)
_value = st.none() | st.integers(0, 8).map(lambda eighths: eighths / 8)
_steps = st.lists(
    st.one_of(
        # A round of some servers, some seconds after the one before; it may be killed before it is written whole.
        st.tuples(st.just("round"), st.integers(0, 1500), st.dictionaries(st.integers(1, 3), _value, min_size=1), st.booleans()),
        # The clock is set to something wrong, or right again.
        st.tuples(st.just("clock"), _clock | st.just(0), st.none(), st.just(False)),
        st.tuples(st.sampled_from(["sum", "prune"]), st.integers(0, 4 * HOUR), st.none(), st.booleans()),
    ),
    max_size=60,
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_steps)
def test_hours_are_of_all_samples_whatever_dies_or_is_done_twice(
    monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, int, dict[int, float | None] | None, bool]]
) -> None:
    for model in (LoadSample, LoadHour, HourDue):
        model.objects.all().delete()
    now, offset = BEGIN, 0
    truth: dict[tuple[int, int], dict[int, float | None]] = defaultdict(dict)
    for kind, number, values, dies in steps:
        with monkeypatch.context() as patch:
            if kind == "clock":
                offset = number
            elif kind == "round":
                assert values is not None
                now += number
                at = now + offset
                if dies:
                    patch.setattr(HourDue.objects, "bulk_create", _die)
                if attempt(lambda at=at, values=values: LOAD.record([sample(pk, at, cpu) for pk, cpu in values.items()])):  # fmt: skip
                    for pk, cpu in values.items():
                        truth[pk, at // HOUR].setdefault(at, cpu)
            else:
                now += number
                if dies:
                    patch.setattr(LoadHour._default_manager, "bulk_create", _die)
                if attempt(partial(LOAD.sum_up, now + offset)) and kind == "prune":
                    LOAD.prune(now + offset)
    now += 2 * DAY
    LOAD.sum_up(now)
    LOAD.sum_up(now)
    assert not HourDue.objects.exists()
    found = hours()
    assert found.keys() == truth.keys()
    for key, samples in truth.items():
        known = [cpu for cpu in samples.values() if cpu is not None]
        expected = (min(known), pytest.approx(fmean(known)), max(known)) if known else (None, None, None)
        assert found[key] == (len(samples), *expected, None)


def attempt(work: Callable[[], object]) -> bool:
    """Whether it went to its end."""
    try:
        work()
    except Killed:
        return False
    return True


def _die(*_args: object, **_options: object) -> None:
    raise Killed


def test_sample_that_comes_twice_in_a_second_is_one() -> None:
    LOAD.record([sample(1, BEGIN, 0.25)])
    LOAD.record([sample(1, BEGIN, 0.75), sample(2, BEGIN, 0.5)])
    assert set(LoadSample.objects.values_list("server", "cpu")) == {(1, 0.25), (2, 0.5)}


def test_round_costs_two_statements_and_more_of_it_no_more() -> None:
    for number in (1, 50):
        with CaptureQueriesContext(
            connection,
        ) as asked:
            LOAD.record([sample(pk, BEGIN + number, 0.5) for pk in range(1, number + 1)])
        assert sum("INSERT" in query["sql"] for query in asked) == 2


def test_sums_of_all_stay_when_one_comes_late_and_the_others_are_gone() -> None:
    LOAD.record([sample(1, BEGIN + second, 0.5) for second in range(10)])
    LOAD.sum_up(BEGIN + 2 * HOUR)
    LOAD.prune(BEGIN + 3 * DAY)
    assert not LoadSample.objects.exists()
    LOAD.record([sample(1, BEGIN + 20, 1.0)])
    LOAD.sum_up(BEGIN + 2 * HOUR)
    assert hours() == {(1, BEGIN // HOUR): (10, 0.5, 0.5, 0.5, None)}


def test_old_ones_go_in_one_statement_a_table() -> None:
    for hour in (0, 1, 50 * 24):
        LOAD.record([sample(pk, BEGIN + hour * HOUR, 0.5) for pk in (1, 2)])
    LOAD.sum_up(BEGIN + 60 * DAY)
    with CaptureQueriesContext(connection) as asked:
        assert LOAD.prune(BEGIN + 53 * DAY) == 6
        assert LOAD.prune(BEGIN + 451 * DAY) == 6
    assert len([query for query in asked if query["sql"].startswith("DELETE")]) == len(asked) == 4
    assert not LoadHour.objects.exists()


@pytest.mark.parametrize(
    ("query", "table"),
    [
        (LoadSample.objects.filter(at__lt=BEGIN), "sample"),
        (LoadSample.objects.filter(server=1, at__gte=BEGIN, at__lte=BEGIN + 5), "sample"),
        (LoadHour.objects.filter(hour__lt=5), "hour"),
        (LoadHour.objects.filter(server=1, hour__gte=5), "hour"),
    ],
)
def test_no_table_is_read_whole(query: Any, table: str) -> None:
    if connection.vendor == "mysql":
        pytest.skip("an empty table has no plan there")
    assert "SEARCH" in (plan := query.order_by().explain())
    assert "SCAN" not in plan


def test_chart_has_means_and_extremes_at_its_moments() -> None:
    LOAD.record([sample(1, BEGIN + second, second / 100) for second in range(0, 60, 15)])
    LOAD.record([sample(2, BEGIN, 0.9)])
    assert LOAD.rows(1, range(BEGIN - 60, BEGIN + 61, 30), ["cpu", "cpu_max", "load"]) == [
        (BEGIN, pytest.approx(0.075), pytest.approx(0.15), None),
        (BEGIN + 30, pytest.approx(0.375), pytest.approx(0.45), None),
    ]
    LOAD.record([sample(1, BEGIN + 3 * HOUR, 1.0)])
    LOAD.sum_up(BEGIN + DAY)
    hourly = LOAD.rows(1, range(BEGIN, BEGIN + 5 * HOUR, HOUR), ["cpu", "cpu_min"])
    assert hourly == [(BEGIN, pytest.approx(0.225), 0.0), (BEGIN + 3 * HOUR, 1.0, 1.0)]
    assert LOAD.rows(1, range(BEGIN, BEGIN + 12 * HOUR, 6 * HOUR), ["cpu_max"]) == [(BEGIN, 1.0)]


def test_sample_has_what_a_visit_found_and_no_nought_for_what_it_did_not() -> None:
    facts = parse_facts(ALPINE, 1795331910.0)
    made = load_sample(
        server_pk=1, at=BEGIN, facts=facts, rates=UNKNOWN, connect_seconds=None, engine_seconds=0.25
    )
    LOAD.record([made])
    found = LoadSample.objects.values(*LOAD_FIGURES).get()
    assert found["load"] == pytest.approx(0.165)
    assert found["memory"] == pytest.approx(1 - 24015624 / 24684084, rel=1e-4)
    assert found["disk"] == pytest.approx(1 - 81228412 / 264212084, rel=1e-4)
    assert (found["engine_ms"], found["clock_ms"], found["containers"]) == (250.0, 8000.0, 0)
    assert [found[name] for name in ("cpu", "swap", "inodes", "root", "receive_rate", "connect_ms")] == [
        None
    ] * 6
