"""Whether a rate is far above what is usual for a thing: decided on plain sums of hours, with no rows and no clock.

Hours are whole numbers since 1970, rates bytes a second. *Usual* at an hour is the median of that hour of the day, or of that hour of the same
weekday, over four weeks, whichever is greater; the hours beside it count as well, so that neither the change to summer time nor what begins
a little early is unusual. What a thing reaches in one of a hundred hours anyway is not far above its habit either. The last day does not count
for that: what began today is no habit yet.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

DAY, WEEK = 24, 7 * 24
KEEP = 4 * WEEK
# Less is known of new things than a week has, and nobody can tell what is usual for them.
ENOUGH = WEEK
# A rate that is reached in so many of all hours counts, by half.
_SELDOM = 100
_OFTEN_WEIGHT = 0.5

# A thing's mean rate by hour; hours of which nothing is known are left out.
Past = Mapping[int, float]


@dataclass(frozen=True)
class Unusual:
    """A rate by its usual one: how many times that is. `usual` is at least the floor below which nothing is unusual."""

    rate: float
    usual: float

    @property
    def times(self) -> float:
        """How many times the usual rate it is."""
        return self.rate / self.usual


def same_hours(hour: int) -> list[int]:
    """The hours of which `usual_at` makes what is usual at an hour."""
    return [hour - DAY * days + beside for days in range(1, KEEP // DAY + 1) for beside in (-1, 0, 1)]


def usual_at(past: Past, hour: int) -> float:
    """What is usual at an hour; 0 where nothing is known."""
    return max(_median_at(past, hour + beside) for beside in (-1, 0, 1))


def _median_at(past: Past, hour: int) -> float:
    def middle(step: int) -> float:
        known = [past[at] for at in range(hour - step, hour - KEEP - 1, -step) if at in past]
        return median(known) if known else 0.0

    return max(middle(DAY), middle(WEEK))


def usual_by(past: Past, hours: Iterable[int]) -> dict[int, float]:
    """What is usual at each of several hours, for a chart; those before which too little is known are left out."""
    first = min(past, default=0)
    return {hour: usual_at(past, hour) for hour in hours if past and hour - first >= ENOUGH}


def reached_often(past: Past, hour: int) -> float:
    """The rate that is reached in one of a hundred hours before the last day."""
    known = sorted((rate for at, rate in past.items() if at < hour - DAY), reverse=True)
    return known[math.ceil(len(known) / _SELDOM) - 1] if known else 0.0


def above_habit(rate: float, past: Past, hour: int, floor: float) -> Unusual | None:
    """The mean rate of about an hour, by the thing's habit; None where too little is known of it."""
    if len(past) < ENOUGH:
        return None
    often = _OFTEN_WEIGHT * reached_often(past, hour)
    return Unusual(rate, max(usual_at(past, hour), often, floor))


def above_last_day(rate: float, past: Past, hour: int, floor: float) -> Unusual | None:
    """The mean rate of some minutes, by the highest hour of the last 24 as well: what that is far above is a jump."""
    found = above_habit(rate, past, hour, floor)
    if found is None:
        return None
    highest = max((past.get(at, 0.0) for at in range(hour - DAY, hour)), default=0.0)
    return Unusual(rate, max(found.usual, highest))


# Reads the hours `at` of the things (primary keys), by thing.
Reader = Callable[[Collection[int], Iterable[int]], Mapping[int, Past]]


def read_suspects(bounds: Mapping[int, float], read: Reader, hour: int, *, floor: float) -> dict[int, Past]:
    """The past of those things whose usual rate is below their bound, as all that may be unusual is: their rate by the times that count.

    What is usual needs a tenth of the hours, so those come first; two readings, none where no bound is above the floor.
    """
    for hours in (same_hours(hour), range(hour - KEEP, hour)):
        suspects = {pk for pk, bound in bounds.items() if bound >= floor}
        if not suspects:
            return {}
        past = read(suspects, hours)
        bounds = {pk: bounds[pk] for pk in suspects if bounds[pk] >= usual_at(past.get(pk, {}), hour)}
    return {pk: past.get(pk, {}) for pk in bounds}
