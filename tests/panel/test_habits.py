"""What is far above a thing's own habit: by a table, and by whatever shape a day or a week may have."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.alerts.decide import WARNING, Standing, Step, decide
from accounts.alerts.rules import HABIT_SECONDS, RULES
from derpmgmt.lib.habits import (
    DAY,
    ENOUGH,
    KEEP,
    WEEK,
    Past,
    above_habit,
    above_last_day,
    read_suspects,
    same_hours,
)

NOW, FLOOR = 500_000, 100.0
HABIT, JUMP = RULES["customer_habit"], RULES["customer_jump"]
assert HABIT.warning
assert JUMP.warning


def past(shape: Callable[[int], float], hours: int = KEEP) -> dict[int, float]:
    """The hours before now, each with its rate by how many hours ago it was."""
    return {NOW - ago: shape(ago) for ago in range(1, hours + 1)}


STEADY = past(lambda _ago: 1000)
NIGHTLY = past(lambda ago: 50_000 if ago % DAY < 2 else 200)
SUNDAYS = past(lambda ago: 80_000 if ago % WEEK in range(5) else 100)


@pytest.mark.parametrize(
    ("rate", "known", "at", "times"),
    [
        (1000, STEADY, NOW, 1),
        (8000, STEADY, NOW, 8),
        # Of somebody who used nothing, only what is more than nothing.
        (90, past(lambda _ago: 0), NOW, 0.9),
        (1000, past(lambda _ago: 0), NOW, 10),
        # Too little is known.
        (10**9, past(lambda _ago: 0, ENOUGH - 1), NOW, None),
        (10**9, {}, NOW, None),
        # What comes every night is no anomaly then, and not as far above at noon as if it never came.
        (50_000, NIGHTLY, NOW, 1),
        (50_000, NIGHTLY, NOW - 1, 1),
        (50_000, NIGHTLY, NOW + 1, 1),
        (50_000, NIGHTLY, NOW + 12, 2),
        (250_000, NIGHTLY, NOW + 12, 10),
        (80_000, SUNDAYS, NOW, 1),
        # One hour of weeks is no habit; one in a hundred is, by half.
        (9000, past(lambda ago: 9000 if ago == 100 else 100), NOW, 90),
        (9000, past(lambda ago: 9000 if 100 <= ago < 107 else 100), NOW, 2),
        # What began some hours ago is no habit yet.
        (9000, past(lambda ago: 9000 if ago < 12 else 100), NOW, 90),
    ],
)
def test_a_table_of_habits(rate: float, known: Past, at: int, times: float | None) -> None:
    found = above_habit(rate, known, at, FLOOR)
    assert (found and found.times) == (times and pytest.approx(times))


def test_a_jump_is_above_the_whole_last_day() -> None:
    """Also where that hour is usually quiet."""
    busy_yesterday = past(lambda ago: 9000 if ago == 12 else 100)
    assert above_last_day(9000, busy_yesterday, NOW, FLOOR) is not None
    assert above_last_day(9000, busy_yesterday, NOW, FLOOR).times == 1  # type: ignore[union-attr]
    assert above_last_day(9000, STEADY, NOW, FLOOR).times == 9  # type: ignore[union-attr]
    assert above_last_day(9000, {}, NOW, FLOOR) is None


def test_only_those_who_may_be_unusual_are_read_whole() -> None:
    known = {1: STEADY, 2: STEADY, 3: past(lambda _ago: 0)}
    asked = []

    def read(things: object, hours: object) -> dict[int, Past]:
        pks, wanted = set(things), set(hours)  # type: ignore[call-overload]
        asked.append((sorted(pks), len(wanted)))
        return {pk: {at: rate for at, rate in known[pk].items() if at in wanted} for pk in pks}

    assert read_suspects({1: 2000, 2: 900, 3: 50}, read, NOW, floor=FLOOR) == {1: STEADY}
    assert asked == [([1, 2], len(set(same_hours(NOW)))), ([1], KEEP)]
    assert asked[0][1] < KEEP / 7
    assert read_suspects({3: 50}, read, NOW, floor=FLOOR) == {}
    assert len(asked) == 2


START = datetime(2026, 11, 1, tzinfo=UTC)
# As seldom as its readings may come.
LOOK = 3 * HABIT_SECONDS
# A day: bytes a second by quarter of an hour. Most of it is much alike, and a few quarters are far above that.
DAYS = st.builds(
    lambda base, bursts: [bursts.get(quarter, base) for quarter in range(96)],
    st.sampled_from([0.0, 90.0, 1000.0]),
    st.dictionaries(st.integers(0, 95), st.sampled_from([10.0, 5000.0, 30_000.0]), max_size=5),
)


def watch(rate_at: Callable[[int], float], hours: range) -> list[Step]:
    """What becomes of a customer's alert over `hours`, looked at every quarter of an hour; `rate_at` gives the rate of each quarter of an hour."""
    quarters = [rate_at(number) for number in range((hours.start - KEEP) * 4, hours.stop * 4)]
    first = hours.start - KEEP
    means = {first + at: sum(quarters[at * 4 : at * 4 + 4]) / 4 for at in range(len(quarters) // 4)}

    def sent(begin: int, end: int) -> float:
        """In seconds since the first hour of all."""
        total = 0.0
        while begin < end:
            until = min(end, (begin // 900 + 1) * 900)
            total += quarters[begin // 900] * (until - begin)
            begin = until
        return total

    standing: Standing | None = None
    known: Past = {}
    steps = []
    for at in range(KEEP * 3600, len(quarters) * 900, LOOK):
        hour, over = divmod(at, 3600)
        if not over:
            known = {first + ago: means[first + ago] for ago in range(hour - KEEP, hour)}
        sliding = (sent(hour * 3600, at) + means[first + hour - 1] * (3600 - over)) / 3600
        jump = above_last_day(sent(at - 900, at) / 900, known, first + hour, FLOOR)
        habit = above_habit(sliding, known, first + hour, FLOOR)
        assert habit
        assert jump
        is_jump = jump.times >= (JUMP.warning or 0)
        rule = JUMP if is_jump else HABIT
        severity = WARNING if is_jump or habit.times >= (HABIT.warning or 0) else ""
        standing, step = decide(standing, severity, START + timedelta(seconds=at), rule.pace)
        if step not in {Step.NOTHING, Step.BEGIN, Step.FORGET}:
            steps.append(step)
    return steps


@settings(max_examples=3, deadline=None)
@given(DAYS, st.integers(0, 6), st.sampled_from([0.0, 50_000.0]))
def test_a_constant_habit_is_never_unusual_whatever_its_shape(
    day: list[float], backup_on: int, backup: float
) -> None:
    """Also where one day of the week is another."""

    def rate_at(quarter: int) -> float:
        weekday = quarter // 96 % 7
        return day[quarter % 96] + (backup if weekday == backup_on and quarter % 96 < 6 else 0)

    assert watch(rate_at, range(1000 * WEEK, 1000 * WEEK + 2 * DAY)) == []


@settings(max_examples=3, deadline=None)
@given(DAYS, st.integers(0, 95), st.integers(4, 200), st.floats(0.5, 20), st.booleans())
def test_one_jump_is_one_alert_and_it_clears(
    day: list[float], begin: int, quarters: int, by: float, is_added: bool
) -> None:
    """However much was usual then; also one that adds the same at every hour, and so is far above the habit of some hours alone."""
    most = max([*day, FLOOR])
    first = 1000 * WEEK * 4 + begin

    def rate_at(quarter: int) -> float:
        usual = day[quarter % 96]
        if not first <= quarter < first + quarters:
            return usual
        return usual + most * by if is_added else max(usual, most) * by

    hours = range(1000 * WEEK, 1000 * WEEK + 5 * DAY)
    steps = watch(rate_at, hours)
    assert steps == [Step.RAISE, Step.CLEAR] or (by < 11 and not steps)
