"""What operators see first: what needs a person, today's figures, and the fleet by region, as the rooms say it.

Few queries, however much there is.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.utils import timezone
from django.utils.http import urlencode
from django.utils.translation import gettext as _

from derpmgmt.lib import queue
from derpmgmt.lib.matters import Matter, group_matters, read_matters

# The start page is to be seen as a whole: so many lines of what needs a person and of regions stand open, the rest folded.
OPEN_LINES = 6
OPEN_REGIONS = 4


def _all_matters(own: Iterable[Matter]) -> list[Matter]:
    """What the rooms say, and what of `own` none of them knows."""
    found = read_matters(timezone.now())
    known = {matter.key for matter in found}
    return found + [matter for matter in own if matter.key not in known]


def admin_overview(own: Iterable[Matter] = ()) -> dict[str, Any]:
    """What the start page of the admin shows; `own` are matters that only the request itself tells."""
    lines = group_matters(_all_matters(own))
    # The worst first; what is alike stays in the order of the rooms.
    regions = sorted(queue.ask("regions"), key=lambda line: line.badness, reverse=True)
    visits = [line.newest_visit_at for line in regions if line.newest_visit_at]
    return {
        "matters": lines,
        "open_matters": lines[:OPEN_LINES],
        "folded_matters": lines[OPEN_LINES:],
        "figures": queue.ask("figures", timezone.now()),
        "regions": regions,
        "open_regions": regions[:OPEN_REGIONS],
        "folded_regions": regions[OPEN_REGIONS:],
        "checked_at": max(visits, default=None),
    }


@dataclass(frozen=True)
class Choice:
    """One value that the alerts can be narrowed down to, with how many there are of it now."""

    word: str
    count: int
    url: str
    is_chosen: bool


# By what the alerts can be narrowed down: the value and its word, None for what has none.
_BY: dict[str, Callable[[Matter], tuple[str, str] | None]] = {
    "level": lambda matter: (matter.level, matter.level_text),
    "room": lambda matter: (matter.topic.code, matter.topic.word) if matter.topic else None,
    "region": lambda matter: (str(matter.region.pk), matter.region.name) if matter.region else None,
}


def admin_alerts(
    own: Iterable[Matter], asked: Mapping[str, str], alert_urls: Mapping[str, str]
) -> dict[str, Any]:
    """The alerts that have the `level`, `room` and `region` of `asked`; what there is none of narrows nothing down.

    `alert_urls` are the pages of those that have become alerts, by the matters' keys.
    """
    matters = [replace(matter, alert_url=alert_urls.get(matter.key, "")) for matter in _all_matters(own)]
    found = {by: Counter(filter(None, map(value_of, matters))) for by, value_of in _BY.items()}
    chosen = {
        by: asked[by] for by, counts in found.items() if asked.get(by) in {value for value, _word in counts}
    }
    shown = [
        matter
        for matter in matters
        if all((_BY[by](matter) or ("",))[0] == value for by, value in chosen.items())
    ]
    titles = {"level": _("Level"), "room": _("About"), "region": _("Region")}
    return {
        "matters": group_matters(shown),
        "count": len(shown),
        "filters": [
            (titles[by], list(_choices(by, counts, chosen, len(matters))))
            for by, counts in found.items()
            if len(counts) > 1 or by in chosen
        ],
    }


def _choices(
    by: str, counts: Mapping[tuple[str, str], int], chosen: Mapping[str, str], total: int
) -> Iterator[Choice]:
    rest = {other: value for other, value in chosen.items() if other != by}
    yield Choice(_("All"), total, f"?{urlencode(rest)}", by not in chosen)
    for (value, word), count in counts.items():
        yield Choice(word, count, f"?{urlencode(rest | {by: value})}", chosen.get(by) == value)
