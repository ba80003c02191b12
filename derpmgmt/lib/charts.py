"""Charts: lines over time on a grid of moments, as the page's script (static/charts.js) draws them and as a table.

Whatever is not known is None, and a gap in the drawing: never 0, and never a line from one end of the gap to the other.
"""

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.http import content_disposition_header, urlencode
from django.utils.translation import gettext_lazy as _

_HOUR, _DAY = 3600, 86400


class Unit(Enum):
    """What a chart's numbers are; the script says them so (`units` in static/charts.js)."""

    SHARE = "share"  # of 1, shown as per cent
    BYTES = "bytes"
    BYTE_RATE = "byte_rate"  # bytes a second, shown as bits a second, as lines are sold
    MILLISECONDS = "ms"
    SECONDS = "s"
    NUMBER = "number"


@dataclass(frozen=True)
class Range:
    """A time that ends now: how long it is, and how far apart its moments are, in seconds."""

    name: str
    label: str | Promise
    seconds: int
    step: int

    def begin(self, now: int) -> int:
        """Its first moment, a multiple of the step."""
        return (now - self.seconds) // self.step * self.step + self.step

    def moments(self, now: int) -> range:
        """All its moments, the last one before or at `now`."""
        return range(self.begin(now), now + 1, self.step)


# Each step is a multiple of the one before, so that what is shown moves by whole steps as time goes on.
RANGES = {
    each.name: each
    for each in (
        Range("1h", _("1 hour"), _HOUR, 15),
        Range("6h", _("6 hours"), 6 * _HOUR, 60),
        Range("24h", _("24 hours"), _DAY, 180),
        Range("7d", _("7 days"), 7 * _DAY, _HOUR),
        Range("30d", _("30 days"), 30 * _DAY, _HOUR),
        Range("90d", _("90 days"), 90 * _DAY, 6 * _HOUR),
        Range("400d", _("400 days"), 400 * _DAY, _DAY),
    )
}
USUAL = RANGES["24h"]


def asked_range(request: HttpRequest) -> Range:
    """The range that the address names; the usual one where it names none that there is."""
    return RANGES.get(request.GET.get("range", ""), USUAL)


def asked_end(request: HttpRequest, now: int) -> int:
    """When the range ends: at the moment `until` that the address names, where that is over, else now."""
    given = request.GET.get("until", "")
    return min(int(given), now) if given.isascii() and given.isdecimal() and len(given) < 12 else now


def range_around(at: int, now: int) -> tuple[Range, int]:
    """The range that shows a moment best, and when it ends: the moment in its middle where that is long ago enough.

    Shorter ranges are made of samples, which are kept for 48 hours; what began earlier is drawn by hours.
    """
    chosen = RANGES["24h"] if now - at < _DAY else RANGES["7d"]
    return chosen, min(now, at + chosen.seconds // 2)


@dataclass(frozen=True)
class Line:
    """One line: its name, and a value for each of the chart's moments.

    A peak is the highest of what another line has the mean of, or a limit: its own highest value says nothing.
    """

    label: str | Promise
    values: Sequence[float | None]
    is_peak: bool = False


@dataclass(frozen=True)
class Chart:
    """Lines over the same moments (seconds since 1970)."""

    moments: Sequence[int]
    lines: Sequence[Line]
    unit: Unit

    def to_json(self) -> dict[str, Any]:
        """As static/charts.js reads it."""
        return {
            "x": list(self.moments),
            "unit": self.unit.value,
            "zone": timezone.get_current_timezone_name(),
            "lines": [
                {
                    "label": str(line.label),
                    "y": list(line.values),
                    "isPeak": line.is_peak,
                }
                for line in self.lines
            ],
        }


def on_grid(rows: Iterable[Sequence[Any]], moments: range, width: int) -> list[list[float | None]]:
    """The `width` columns after the first of `rows`, each with a value for every one of `moments`.

    A row's first column is a time; it counts for the moment whose step holds it. Rows beyond the moments are passed over; of two at one
    moment the later counts. Values may be Decimals, as databases give means.
    """
    columns: list[list[float | None]] = [[None] * len(moments) for _column in range(width)]
    for at, *values in rows:
        place, _rest = divmod(int(at) - moments.start, moments.step)
        if 0 <= place < len(moments):
            for column, value in zip(columns, values, strict=True):
                column[place] = None if value is None else float(value)
    return columns


def describe_charts(
    request: HttpRequest, charts: Iterable[tuple[str | Promise, str]], kept: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """What `partials/charts.html` shows: charts (titles and the addresses of their data) over the range that the address names, which has
    also what is `kept` of the query."""
    chosen = asked_range(request)
    return {
        "charts": [(title, f"{url}?{urlencode({'range': chosen.name})}") for title, url in charts],
        "ranges": RANGES.values(),
        "chosen": chosen,
        "here": f"?{urlencode({**(kept or {}), 'range': ''})}",
    }


def describe_around(charts: Iterable[tuple[str | Promise, str]], at: int, now: int) -> dict[str, Any]:
    """The same for charts that show what was around a moment, and nothing else."""
    chosen, until = range_around(at, now)
    query = urlencode({"range": chosen.name, "until": str(until)})
    return {"charts": [(title, f"{url}?{query}") for title, url in charts], "ranges": ()}


def answer(request: HttpRequest, name: str, make: Callable[[Range, int], Chart]) -> HttpResponse:
    """The chart for the range that the address names: JSON for the page's script, a CSV file with `format=csv`."""
    chosen = asked_range(request)
    chart = make(chosen, asked_end(request, int(timezone.now().timestamp())))
    if request.GET.get("format") != "csv":
        return JsonResponse(chart.to_json())
    response = HttpResponse(content_type="text/csv; charset=utf-8")
    disposition = content_disposition_header(as_attachment=True, filename=f"{name}-{chosen.name}.csv")
    response["Content-Disposition"] = disposition
    response.write("\ufeff")  # or Excel takes it for another encoding
    writer = csv.writer(response)
    writer.writerow(["time", *(f"{line.label} ({chart.unit.value})" for line in chart.lines)])
    for place, at in enumerate(chart.moments):
        values = ["" if line.values[place] is None else line.values[place] for line in chart.lines]
        writer.writerow([datetime.fromtimestamp(at, UTC).isoformat(), *values])
    return response
