"""How long a server's traffic of the month will last, by its own daily pattern, and what has to stop when it does not: pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

# From this share of a server's traffic on, in percent, relays stop where the rest of the month would need more than is left.
STOP_PERCENT = 95
# A day of the week has a figure of its own once it was seen so often; before that a day is as the mean of all.
_SEEN_OFTEN = 2
# So many days tell the pattern.
PATTERN_DAYS = 28


# What flowed since midnight tells the whole day once this share of it is over; before that it would say too much.
_TELLS_A_DAY = 0.25


@dataclass(frozen=True)
class Today:
    """The day that runs: what flowed on it so far, in bytes, and which share of it is over."""

    day: date
    flowed: int = 0
    passed: float = 1.0

    @property
    def whole(self) -> float:
        """What flows on it altogether, if it goes on like this."""
        return self.flowed / min(max(self.passed, _TELLS_A_DAY), 1.0)


@dataclass(frozen=True)
class Pattern:
    """What flowed on whole days of the past, in bytes; days that are not there were not measured. Empty: nothing is known."""

    days: Mapping[date, float] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        return bool(self.days)

    def or_of(self, today: Today) -> "Pattern":
        """The same, or where nothing is known what flows today."""
        return self if self.is_known else Pattern({today.day: today.whole})

    def expect(self, day: date) -> float:
        """What will flow on a day: the mean of the same days of the week, or of all while there are too few of these."""
        same = [size for known, size in self.days.items() if known.weekday() == day.weekday()]
        found = same if len(same) >= _SEEN_OFTEN else list(self.days.values())
        return sum(found) / len(found) if found else 0.0

    def expect_today(self, today: Today) -> float:
        """What will still flow today: up to what is usual, or more where it goes on as so far."""
        return max(self.expect(today.day), today.whole) - today.flowed

    def expect_until(self, today: Today, end: date) -> float:
        """What will still flow from now on until the day `end`, which does not count."""
        days = (end - today.day).days
        later = sum(self.expect(today.day + timedelta(days=number)) for number in range(1, days))
        return later + (self.expect_today(today) if days > 0 else 0.0)


def runs_out_on(*, left: int, pattern: Pattern, today: Today, end: date) -> date | None:
    """The day on which what is left will be used up; None when it lasts until `end`, when it is counted anew, or nothing is known."""
    if left <= 0:
        return today.day
    if not pattern.is_known:
        return None
    rest = float(left)
    day, expected = today.day, pattern.expect_today(today)
    while day < end:
        rest -= expected
        if rest <= 0:
            return day
        day += timedelta(days=1)
        expected = pattern.expect(day)
    return None


def choose_to_stop(*, used: int, limit: int, expected: Mapping[int, float]) -> list[int]:
    """Which relays (primary keys) have to stop, the heaviest first, and only so many that what the others will need is left.

    `expected` is what each will use until the traffic is counted anew. Before `STOP_PERCENT` none has to; one that is expected to use nothing
    never does.
    """
    if used * 100 < limit * STOP_PERCENT:
        return []
    left, need = max(limit - used, 0), sum(expected.values())
    chosen = []
    for pk in sorted(expected, key=lambda pk: (-expected[pk], pk)):
        if need <= left or expected[pk] <= 0:
            break
        chosen.append(pk)
        need -= expected[pk]
    return chosen
