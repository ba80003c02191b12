"""What needs a person: each room says its own (the question "matters"); pages and alerts read the same list."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import urlencode

from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _

from derpmgmt.lib import queue

CRITICAL, WARNING, INFORMATION = "critical", "warning", "information"
_LEVELS = (CRITICAL, WARNING, INFORMATION)

# Of the matters of one line so many are named, or so many regions.
SHOWN = 10
# A cause in more regions than that is one line.
MOST_REGIONS = 3


@dataclass(frozen=True)
class Place:
    """A region as matters are grouped by it."""

    pk: int
    name: str


@dataclass(frozen=True)
class Topic:
    """What matters are about, as one can ask for them: those of one room."""

    code: str
    word: str


@dataclass(frozen=True)
class Cause:
    """What several matters have in common.

    `heading` says it of so many of them, `url` is the list that has them all and `by_region` the parameter that narrows the list
    to one region ("" where it has none). With `is_each_told` a text stands at each name even where all have the same: what is
    counted in it is the one's own.
    """

    code: str
    heading: Callable[[int], str]
    url: str
    by_region: str = ""
    is_each_told: bool = False

    def list_url(self, region: Place | None) -> str:
        """The list of those of one region, else of all."""
        if region is None or not self.by_region:
            return self.url
        return f"{self.url}{'&' if '?' in self.url else '?'}{urlencode({self.by_region: region.pk})}"


@dataclass(frozen=True)
class Matter:
    """Something that needs a person, in the language that is active when it is read.

    `url` is the place where it is done and `since` when it began, if that is known. `key` is the same as long as it is the same
    matter, whatever its level and words: what was told once is told apart by it. `name` is what it is called among others of
    the same `cause` and `region`. `topic` says which room's it is (`about`).

    `rule` is that by which it becomes an alert ("" for none: what somebody announced, and alerts themselves), about which `server` and
    `customer` (primary keys). Before it `is_certain` it is shown and raises none. `own` is what that customer reads of it on their own page ("" = nothing).
    """

    level: str
    title: str
    text: str
    url: str
    key: str
    since: datetime | None = None
    name: str = ""
    cause: Cause | None = None
    region: Place | None = None
    topic: Topic | None = None
    rule: str = "task"
    server: int | None = None
    customer: int | None = None
    own: str = ""
    is_certain: bool = True
    # The page of its alert, where it has become one.
    alert_url: str = ""

    @property
    def level_text(self) -> str:
        """The level as a word."""
        return {CRITICAL: _("critical"), WARNING: _("warning"), INFORMATION: _("information")}[self.level]


@dataclass(frozen=True)
class Share:
    """How many of a line's matters are in one region; `url` is the list of those."""

    name: str
    count: int
    url: str


@dataclass(frozen=True)
class Line(Matter):
    """Matters of one cause together: `named` are the first of them, `count` says how many there are.

    Where they are in several regions, `shares` are the regions with the most of them.
    """

    count: int = 1
    named: tuple[Matter, ...] = ()
    shares: tuple[Share, ...] = ()


def about(
    code: str, word: Promise, answer: Callable[[datetime], Iterable[Matter]]
) -> Callable[[datetime], Iterator[Matter]]:
    """A room's answer to "matters" with its topic on each of them."""

    def say(now: datetime) -> Iterator[Matter]:
        topic = Topic(code, str(word))
        for matter in answer(now):
            yield replace(matter, topic=topic)

    return say


def read_matters(now: datetime | None = None) -> list[Matter]:
    """All that needs a person now, as the rooms say it, the most urgent first. Needs no request."""
    found = queue.ask("matters", now or timezone.now())
    return sorted(found, key=lambda matter: _LEVELS.index(matter.level))


def group_matters(matters: Iterable[Matter]) -> list[Matter]:
    """One line for each cause and region, the most urgent first; what is alone stays as it is.

    Among lines of one level the rooms stay in their order; of one room what has no cause stands first, then what there is most of.

    Within a line the most urgent matters come first, and among these the oldest. A cause that is in more than
    `MOST_REGIONS` regions is one line for all of them.
    """
    matters = list(matters)
    regions: dict[str, set[Place | None]] = {}
    for matter in matters:
        if matter.cause:
            regions.setdefault(matter.cause.code, set()).add(matter.region)
    groups: dict[tuple[str, Place | None], list[Matter]] = {}
    for matter in matters:
        if matter.cause is None:
            groups[matter.key, None] = [matter]
            continue
        is_everywhere = len(regions[matter.cause.code]) > MOST_REGIONS
        groups.setdefault((matter.cause.code, None if is_everywhere else matter.region), []).append(matter)
    lines = [_line(members, region) for (_key, region), members in groups.items()]
    rooms = list(dict.fromkeys(line.topic for line in lines))
    return sorted(
        lines,
        key=lambda line: (
            _LEVELS.index(line.level),
            rooms.index(line.topic),
            line.cause is not None,
            -getattr(line, "count", 1),
        ),
    )


def _line(members: list[Matter], region: Place | None) -> Matter:
    first, cause = members[0], members[0].cause
    if len(members) == 1 or cause is None:
        return first
    members = sorted(
        members,
        key=lambda matter: (
            _LEVELS.index(matter.level),
            matter.since.timestamp() if matter.since else float("inf"),
        ),
    )
    title = cause.heading(len(members))
    texts = {matter.text for matter in members}
    is_same = len(texts) == 1 and not cause.is_each_told
    return Line(
        level=members[0].level,
        title=_("%(region)s: %(what)s") % {"region": region.name, "what": title} if region else title,
        text=members[0].text if is_same else "",
        url=cause.list_url(region),
        key=f"{cause.code}@{region.pk if region else ''}",
        since=min((matter.since for matter in members if matter.since), default=None),
        cause=cause,
        region=region,
        count=len(members),
        topic=members[0].topic,
        shares=_shares(members, cause) if region is None else (),
        named=tuple(replace(matter, text="") if is_same else matter for matter in members[:SHOWN]),
    )


def _shares(members: list[Matter], cause: Cause) -> tuple[Share, ...]:
    counts = Counter(matter.region for matter in members if matter.region)
    if len(counts) < 2 or not cause.by_region:
        return ()
    return tuple(
        Share(place.name, count, cause.list_url(place)) for place, count in counts.most_common(SHOWN)
    )
