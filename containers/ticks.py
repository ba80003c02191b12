"""The last day of relays as rows of ticks: what their tests found, half hour by half hour."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property

from django.utils import timezone
from django.utils.html import format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import get_language, ngettext
from django.utils.translation import gettext as _

from containers.models import RelayHealth
from derpmgmt.lib.kept import Kept

TICK = timedelta(minutes=30)
TICKS = 48


@dataclass(frozen=True)
class Tick:
    """Half an hour: `state` is none (no test), ok, mixed or failed; `title` says it in words."""

    state: str
    title: str


@dataclass(frozen=True)
class Day:
    """24 hours that end now, the oldest tick first, with a sentence that says the same as they show."""

    ticks: list[Tick]
    sentence: str
    passed: int
    tests: int

    @cached_property
    def strip(self) -> SafeString:
        """The ticks as a page has them."""
        return format_html_join(
            "", '<span class="is-{}" title="{}"></span>', ((tick.state, tick.title) for tick in self.ticks)
        )


# A relay's day changes with its last test, and every half hour.
_DAYS: Kept[Day] = Kept(3000)


def relay_days(last_tests: Mapping[int, int | None], now: datetime) -> dict[int, Day]:
    """The last day of each relay, by its primary key; `last_tests` are those of their last tests. One query at most."""
    keys = {pk: (pk, last, _begin(now), get_language()) for pk, last in last_tests.items()}
    known = {pk: day for pk, key in keys.items() if (day := _DAYS.find(key))}
    missing = [pk for pk in last_tests if pk not in known]
    tests: dict[int, list[tuple[datetime, bool]]] = defaultdict(list)
    if missing:
        rows = RelayHealth.objects.filter(relay__in=missing, at__gt=_begin(now), at__lte=now)
        for pk, at, is_ok in rows.order_by().values_list("relay_id", "at", "is_ok"):
            tests[pk].append((at, is_ok))
    for pk in missing:
        known[pk] = day = _day(tests[pk], now)
        if last_tests[pk] is not None:
            _DAYS.keep(keys[pk], day)
    return known


def server_day(server_pk: int, now: datetime) -> Day:
    """The last day of all relays of a server together; one query."""
    rows = RelayHealth.objects.filter(relay__server=server_pk, at__gt=_begin(now), at__lte=now)
    return _day(rows.order_by().values_list("at", "is_ok"), now)


def _begin(now: datetime) -> datetime:
    """Where the oldest tick begins: ticks begin at full and half hours, and the last one holds now."""
    passed = timedelta(seconds=now.timestamp() % TICK.total_seconds())
    return now - passed - (TICKS - 1) * TICK


def _day(tests: Iterable[tuple[datetime, bool]], now: datetime) -> Day:
    begin = _begin(now)
    passed, failed = [0] * TICKS, [0] * TICKS
    for at, is_ok in tests:
        place = min(int((at - begin) / TICK), TICKS - 1)
        (passed if is_ok else failed)[place] += 1
    ticks = [_tick(begin + place * TICK, passed[place], failed[place]) for place in range(TICKS)]
    number, good = sum(passed) + sum(failed), sum(passed)
    sentence = (
        ngettext(
            "Last 24 hours: %(passed)d of %(count)d test passed",
            "Last 24 hours: %(passed)d of %(count)d tests passed",
            number,
        )
        % {"passed": good, "count": number}
        if number
        else _("Last 24 hours: not tested")
    )
    return Day(ticks, sentence, good, number)


def _tick(begin: datetime, passed: int, failed: int) -> Tick:
    span = f"{timezone.localtime(begin):%H:%M}–{timezone.localtime(begin + TICK):%H:%M}"
    if not passed + failed:
        return Tick("none", f"{span} {_('not tested')}")
    state = "ok" if not failed else "mixed" if passed else "failed"
    words = _("%(passed)d passed, %(failed)d failed") % {"passed": passed, "failed": failed}
    return Tick(state, f"{span} {words}")
