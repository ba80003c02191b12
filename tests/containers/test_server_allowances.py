"""How long a server's traffic lasts, and which relays stop when it does not."""

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.server_allowances import STOP_PERCENT, Pattern, Today, choose_to_stop, runs_out_on

TODAY = date(2026, 11, 30)  # a Monday
END = date(2027, 1, 1)


def pattern(weekday: int = 100, weekend: int = 100, days: int = 28) -> Pattern:
    past = [TODAY - timedelta(days=number) for number in range(1, days + 1)]
    return Pattern({day: weekend if day.weekday() >= 5 else weekday for day in past})


@pytest.mark.parametrize(
    ("left", "made_of", "flowed_today", "expected"),
    [
        (0, pattern(), 0, TODAY),
        (1000, Pattern(), 0, None),
        (50, pattern(), 0, TODAY),
        (50, pattern(), 60, TODAY + timedelta(days=1)),  # 40 of today are left
        (1000, pattern(), 100, TODAY + timedelta(days=10)),
        (3100, pattern(), 100, END - timedelta(days=1)),
        (3101, pattern(), 100, None),
        # Four days of the week left with 100 each, nothing at the weekend, then Monday.
        (450, pattern(weekend=0), 100, TODAY + timedelta(days=7)),
        # Too short to know days of the week: the mean of all.
        (450, pattern(weekday=100, weekend=100, days=3), 100, TODAY + timedelta(days=5)),
    ],
)
def test_the_day_on_which_it_runs_out(left, made_of, flowed_today, expected):
    found = runs_out_on(left=left, pattern=made_of, today=Today(TODAY, flowed_today), end=END)
    assert found == expected


@given(
    left=st.integers(1, 10**5),
    sizes=st.lists(st.integers(0, 5000), min_size=1, max_size=28),
    flowed=st.integers(0, 5000),
    passed=st.floats(0, 1),
)
def test_it_runs_out_exactly_where_more_is_expected_than_is_left(left, sizes, flowed, passed):
    today = Today(TODAY, flowed, passed)
    past = Pattern({TODAY - timedelta(days=number + 1): size for number, size in enumerate(sizes)})
    day = runs_out_on(left=left, pattern=past, today=today, end=END)
    assert past.expect_today(today) >= 0
    if day is None:
        assert past.expect_until(today, END) < left
    else:
        assert TODAY <= day < END
        assert past.expect_until(today, day + timedelta(days=1)) >= left - 1e-6
        assert past.expect_until(today, day) < left


@pytest.mark.parametrize(
    ("flowed", "passed", "expected"),
    [
        (0, 0.9, 100.0),
        (60, 0.6, 40.0),
        (100, 1.0, 0.0),
        (300, 0.5, 300.0),  # as much again
        (300, 0.75, 100.0),
        (100, 0.01, 300.0),  # the first minutes tell no more than a quarter of the day
        (300, 1.5, 0.0),
    ],
)
def test_what_is_expected_of_the_rest_of_today(flowed, passed, expected):
    assert pattern().expect_today(Today(TODAY, flowed, passed)) == pytest.approx(expected)


def test_of_what_has_no_past_each_day_is_as_today():
    today = Today(TODAY, 50, 0.5)
    assert Pattern().or_of(today).expect_until(today, TODAY + timedelta(days=3)) == 50 + 2 * 100
    assert pattern().or_of(today) == pattern()


@pytest.mark.parametrize(
    ("used", "expected", "stopped"),
    [
        (949, {1: 500.0}, []),  # there is time yet
        (950, {1: 50.0}, []),
        (950, {1: 30.0, 2: 20.0}, []),
        (950, {1: 30.0, 2: 60.0, 3: 10.0}, [2]),
        (950, {1: 30.0, 2: 60.0, 3: 25.0}, [2, 1]),
        (1000, {1: 30.0, 2: 0.0, 3: 40.0}, [3, 1]),
        (2000, {2: 0.0}, []),
    ],
)
def test_the_heaviest_stop_and_no_more_than_needed(used, expected, stopped):
    assert choose_to_stop(used=used, limit=1000, expected=expected) == stopped


@given(used=st.integers(0, 2000), expected=st.dictionaries(st.integers(1, 9), st.integers(0, 500).map(float)))
def test_what_goes_on_has_enough_and_none_stopped_in_vain(used, expected):
    stopped = choose_to_stop(used=used, limit=1000, expected=expected)
    left = max(1000 - used, 0)
    going_on = {pk: size for pk, size in expected.items() if pk not in stopped}
    if used * 100 < 1000 * STOP_PERCENT:
        assert stopped == []
        return
    assert sum(going_on.values()) <= left
    if stopped:
        assert sum(going_on.values()) + expected[stopped[-1]] > left
        assert min(expected[pk] for pk in stopped) >= max(going_on.values(), default=0.0)
