"""The history's page and its files: one timeline, the same as tables, and both to take away."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import Any

import tablib  # type: ignore[import-untyped]
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy
from django.views.decorators.http import require_GET

from accounts.models import User
from accounts.requests import SignedInRequest
from derpmgmt.history.sources import SOURCES, Cell, written
from derpmgmt.history.timeline import Entry, moments_of, read_entries, table_rows
from derpmgmt.lib.limits import consume
from derpmgmt.lib.spreadsheets import MARK, harmless

ROWS = 25
EXPORT_RATE = "30/h"
# Lines of a file; making a table of so many takes a second or two.
MOST_EXPORTED = 5_000
ALL = "all"
_FILES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}
_TIMELINE_HEADINGS = (
    gettext_lazy("time"),
    gettext_lazy("kind"),
    gettext_lazy("what happened"),
    gettext_lazy("details"),
)


@dataclass(frozen=True)
class TableCell:
    """One cell of a page's table; on a phone it names its own column."""

    heading: Any
    value: Cell

    @property
    def text(self) -> str:
        """The value as people read it; "" when there is none."""
        return written(self.value)


@login_required
@require_GET
def history(request: SignedInRequest) -> HttpResponse:
    """One's own history."""
    return render(request, "history.html", read_history(request, request.user, request.user))


def read_history(request: HttpRequest, reader: User, customer: User) -> dict[str, Any]:
    """What `history.html` and `admin/history.html` show of `customer` to `reader`, as the address says: kind, view and page."""
    kind = request.GET.get("kind", "")
    kind = kind if kind in SOURCES else ALL
    is_table = request.GET.get("view") == "table"
    found = (
        table_rows(reader, customer, kind)
        if is_table and kind != ALL
        else moments_of(reader, customer, SOURCES if kind == ALL else [kind])
    )
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    context: dict[str, Any] = {
        "kind": kind,
        "view": "table" if is_table else "timeline",
        "sources": SOURCES.values(),
        "page": page,
    }
    if is_table and kind != ALL:
        lines: Iterable[tuple[Cell, ...]] = [SOURCES[kind].cells(row) for row in page]
        context |= _as_table(SOURCES[kind].headings, lines)
    else:
        entries = read_entries(reader, customer, page.object_list)
        context |= {
            "entries": entries,
            "days": _by_day(entries),
            **_as_table(_TIMELINE_HEADINGS, [entry.cells for entry in entries]),
        }
    return context


def _by_day(entries: Iterable[Entry]) -> list[tuple[date, str, list[Entry]]]:
    """The entries of each day in the panel's zone, with what the day is called: today and yesterday have no other name."""
    today = timezone.localdate()
    names = {today: gettext("Today"), today - timedelta(days=1): gettext("Yesterday")}
    days = groupby(entries, key=lambda entry: timezone.localdate(entry.at))
    return [(day, names.get(day, ""), list(found)) for day, found in days]


def _as_table(headings: tuple[Any, ...], lines: Iterable[tuple[Cell, ...]]) -> dict[str, Any]:
    return {
        "headings": headings,
        "lines": [[TableCell(*pair) for pair in zip(headings, line, strict=True)] for line in lines],
    }


def _exportable(value: Cell) -> str | int:
    """A cell of a file."""
    if isinstance(value, int):
        return value
    if isinstance(value, datetime):
        return f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S}"
    return harmless(value or "")


def _exported(reader: User, customer: User, kind: str) -> Iterator[tuple[Cell, ...]]:
    """The newest lines, one more than a file holds where there are more."""
    if kind == ALL:
        moments = moments_of(reader, customer, SOURCES)[: MOST_EXPORTED + 1]
        yield from (entry.cells for entry in read_entries(reader, customer, moments))
    else:
        yield from map(SOURCES[kind].cells, table_rows(reader, customer, kind)[: MOST_EXPORTED + 1])


@login_required
@require_GET
def history_export(request: SignedInRequest, kind: str, file_format: str) -> HttpResponse:
    """One's own history of a kind, or all of it, as a CSV or Excel file; times in the panel's zone."""
    if file_format not in _FILES or kind not in {ALL, *SOURCES}:
        raise Http404
    consume(request, group="history", key=str(request.user.pk), rate=EXPORT_RATE)
    headings = _TIMELINE_HEADINGS if kind == ALL else SOURCES[kind].headings
    data = tablib.Dataset(headers=[str(heading) for heading in headings], title="history")
    for number, line in enumerate(_exported(request.user, request.user, kind)):
        if number == MOST_EXPORTED:
            text = gettext("What is older is left out: a file holds %(count)d lines.") % {"count": number}
            data.append([text, *[""] * (len(headings) - 1)])
        else:
            data.append([_exportable(cell) for cell in line])
    content = data.export(file_format)
    if file_format == "csv":
        content = (MARK + content).encode()
    name = f"history-{kind}-{timezone.localdate():%Y%m%d}.{file_format}"
    return HttpResponse(
        content,
        content_type=_FILES[file_format],
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
