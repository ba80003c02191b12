"""When an alert is raised and when it is cleared, decided on plain data: nothing here knows a database or a clock.

A thing that is bad has to be seen so for `Pace.raise_after` before its alert is raised, and seen well for `Pace.clear_after` before that is
cleared. Only what was seen counts: where nothing was read for longer than `Pace.gap`, or the clock was set back, the time begins anew.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

INFORMATION, WARNING, CRITICAL = "information", "warning", "critical"
# From the mildest on.
SEVERITIES = (INFORMATION, WARNING, CRITICAL)
# Between two readings that belong together. Sweeps come every ten seconds; one that failed a few times loses nothing.
GAP = timedelta(minutes=2)


class Step(StrEnum):
    """What becomes of a thing's alert with a reading."""

    NOTHING = "nothing"
    BEGIN = "begin"  # bad from now on, but not for long enough
    RAISE = "raise"
    WORSEN = "worsen"
    CLEAR = "clear"
    FORGET = "forget"  # it was never bad for long enough


@dataclass(frozen=True)
class Pace:
    """For how long a thing must be bad until it is told, and well until it is taken back; readings further apart than `gap` prove nothing
    of what was between them."""

    raise_after: timedelta = timedelta(0)
    clear_after: timedelta = timedelta(0)
    gap: timedelta = GAP


@dataclass(frozen=True)
class Standing:
    """What is known of a thing that is or was bad; None stands for one of which nothing is.

    `bad_since` and `well_since` say since when it has been seen so without a break, `seen_at` when it was last seen at all.
    """

    is_raised: bool
    severity: str
    bad_since: datetime
    seen_at: datetime
    well_since: datetime | None = None


def decide(
    standing: Standing | None, severity: str | None, now: datetime, pace: Pace
) -> tuple[Standing | None, Step]:
    """What is known of a thing after a reading, and what becomes of its alert.

    `severity` says how bad the thing is: one of `SEVERITIES`, "" where it is well, None where nobody could tell. An alert's severity
    rises while it is open and never falls, so that what wavers between two is told once.
    """
    if severity is None:
        return standing, Step.NOTHING
    if standing is None:
        if not severity:
            return None, Step.NOTHING
        is_raised = not pace.raise_after
        return Standing(is_raised, severity, now, now), Step.RAISE if is_raised else Step.BEGIN
    is_broken = not timedelta(0) <= now - standing.seen_at <= pace.gap
    seen = replace(standing, seen_at=now)
    return _bad(seen, severity, now, pace, is_broken) if severity else _well(seen, now, pace, is_broken)


def _bad(seen: Standing, severity: str, now: datetime, pace: Pace, is_broken: bool) -> tuple[Standing, Step]:
    worst = max(seen.severity, severity, key=SEVERITIES.index)
    if seen.is_raised:
        step = Step.NOTHING if worst == seen.severity else Step.WORSEN
        return replace(seen, severity=worst, well_since=None), step
    if is_broken:
        # As if it began now: of what was before nobody knows whether it lasted.
        return replace(seen, severity=severity, bad_since=now), Step.BEGIN
    if now - seen.bad_since < pace.raise_after:
        return replace(seen, severity=worst), Step.NOTHING
    return replace(seen, severity=worst, is_raised=True), Step.RAISE


def _well(seen: Standing, now: datetime, pace: Pace, is_broken: bool) -> tuple[Standing | None, Step]:
    if not seen.is_raised:
        return None, Step.FORGET
    since = now if is_broken or seen.well_since is None else seen.well_since
    if now - since < pace.clear_after:
        return replace(seen, well_since=since), Step.NOTHING
    return None, Step.CLEAR
