"""When an alert is raised and cleared: by a table, and by whatever readings, gaps, kills and clocks that are set back may come."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accounts.alerts.decide import CRITICAL, GAP, WARNING, Pace, Standing, Step, decide
from accounts.alerts.rules import RULES, Changes, declare, rule_of

START = datetime(2026, 12, 1, tzinfo=UTC)
PACE = Pace(raise_after=timedelta(seconds=30), clear_after=timedelta(seconds=60))


def play(readings: str, *, pace: Pace = PACE, seconds: int = 10) -> list[tuple[int, Step]]:
    """What happens when: one reading every `seconds`; w and c are bad, . is well, ? is unknown, - is none at all."""
    standing: Standing | None = None
    found = []
    for number, sign in enumerate(readings):
        if sign == "-":
            continue
        severity = {"w": WARNING, "c": CRITICAL, ".": "", "?": None}[sign]
        standing, step = decide(standing, severity, START + timedelta(seconds=number * seconds), pace)
        if step is not Step.NOTHING:
            found.append((number, step))
    return found


@pytest.mark.parametrize(
    ("readings", "expected"),
    [
        ("......", []),
        ("??????", []),
        ("w.....", [(0, Step.BEGIN), (1, Step.FORGET)]),
        ("wwwwww", [(0, Step.BEGIN), (3, Step.RAISE)]),
        # What is well in between begins anew.
        ("ww.wwwww", [(0, Step.BEGIN), (2, Step.FORGET), (3, Step.BEGIN), (6, Step.RAISE)]),
        # What nobody could tell, or read, changes nothing.
        ("w??www", [(0, Step.BEGIN), (3, Step.RAISE)]),
        ("w--www", [(0, Step.BEGIN), (3, Step.RAISE)]),
        # But a long gap proves nothing of what was between.
        ("w" + "-" * 13 + "wwww", [(0, Step.BEGIN), (14, Step.BEGIN), (17, Step.RAISE)]),
        ("wwww......", [(0, Step.BEGIN), (3, Step.RAISE)]),
        ("wwww.......", [(0, Step.BEGIN), (3, Step.RAISE), (10, Step.CLEAR)]),
        ("wwww.....w.......", [(0, Step.BEGIN), (3, Step.RAISE), (16, Step.CLEAR)]),
        ("wwww." + "-" * 13 + ".......", [(0, Step.BEGIN), (3, Step.RAISE), (24, Step.CLEAR)]),
        ("wwwwcwcw", [(0, Step.BEGIN), (3, Step.RAISE), (4, Step.WORSEN)]),
        ("wcwww", [(0, Step.BEGIN), (3, Step.RAISE)]),
    ],
)
def test_a_table_of_readings(readings: str, expected: list[tuple[int, Step]]) -> None:
    assert play(readings) == expected


def test_without_durations_one_reading_is_enough() -> None:
    assert play("w.w.", pace=Pace()) == [(0, Step.RAISE), (1, Step.CLEAR), (2, Step.RAISE), (3, Step.CLEAR)]


# What comes: how bad it is read, how many seconds pass, by how many the clock is set back before, whether what was decided is lost.
EVENTS = st.lists(
    st.tuples(
        st.sampled_from([WARNING, CRITICAL, "", None]),
        st.integers(1, 200),
        st.sampled_from([0, 0, 0, 1, 45, 7200]),
        st.booleans(),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(0, 90), st.integers(0, 90))
def test_never_more_than_one_is_open_and_none_flaps(
    events: list[tuple[str | None, int, int, bool]], raise_after: int, clear_after: int
) -> None:
    pace = Pace(timedelta(seconds=raise_after), timedelta(seconds=clear_after))
    standing: Standing | None = None
    true, clock = 0, START
    # Of true seconds: since when what was kept says without a break that it is bad, or well.
    bad_from = well_from = None
    is_open, severity_open = False, ""
    for severity, seconds, back, is_lost in events:
        true += seconds
        clock += timedelta(seconds=seconds - back)
        after, step = decide(standing, severity, clock, pace)
        # Asked twice, it says the same.
        assert decide(standing, severity, clock, pace) == (after, step)
        if is_lost or severity is None:
            assert severity is not None or (after, step) == (standing, Step.NOTHING)
            continue
        standing = after
        if severity:
            bad_from, well_from = true if bad_from is None else bad_from, None
        else:
            well_from, bad_from = true if well_from is None else well_from, None
        if step is Step.RAISE:
            assert not is_open
            assert bad_from is not None
            assert true - bad_from >= raise_after
            is_open, severity_open = True, after.severity if after else ""
        elif step is Step.CLEAR:
            assert is_open
            assert well_from is not None
            assert true - well_from >= clear_after
            is_open = False
        elif step is Step.WORSEN:
            assert is_open
            assert severity_open == WARNING
            severity_open = CRITICAL
        assert is_open == (standing is not None and standing.is_raised)
    # In the end it is told, whatever was before.
    for bad in (True, False):
        for _number in range(12):
            clock += timedelta(seconds=10)
            standing, _step = decide(standing, WARNING if bad else "", clock, pace)
        assert (standing is not None and standing.is_raised) == bad


def test_the_gap_is_longer_than_sweeps_that_fail_a_few_times() -> None:
    assert timedelta(minutes=1) < GAP


@pytest.mark.parametrize(
    ("code", "value", "severity"),
    [("disk", 84.9, ""), ("disk", 85, WARNING), ("disk", 95, CRITICAL), ("disk", None, None)],
)
def test_a_value_is_judged_by_its_rule(code: str, value: float | None, severity: str | None) -> None:
    assert RULES[code].judge(value) == severity


def test_what_operators_change_counts_and_the_rest_stays() -> None:
    changed = Changes(warning=50, raise_seconds=5).apply(RULES["disk"])
    assert (changed.warning, changed.critical) == (50, 95)
    assert (changed.pace.raise_after, changed.pace.clear_after) == (
        timedelta(seconds=5),
        RULES["disk"].pace.clear_after,
    )


def test_a_code_is_declared_once() -> None:
    with pytest.raises(ValueError, match="disk"):
        declare(rule_of("unheard of").__class__(code="disk", kind=RULES["disk"].kind, title=""))
