"""What happened to a customer, from every room: one timeline, the same as tables, and both as files to take away.

A `Source` knows one kind of rows. The timeline is a UNION of their moments, of which the database gives one page; only the rows
of that page are then read, so the page costs the same however long the history is.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar

import tablib  # type: ignore[import-untyped]
from django.contrib.auth.decorators import login_required
from django.core.paginator import Paginator
from django.db.models import CharField, F, QuerySet, Value
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext_lazy
from django.views.decorators.http import require_GET

from accounts.models import Notice, OperationLog, User
from accounts.requests import SignedInRequest
from acl.models import AclEvent
from containers.models import Relay
from derpmgmt.lib.limits import consume
from serials.models import Redemption

ROWS = 25
EXPORT_RATE = "30/h"
ALL = "all"
# What spreadsheet programs take for the begin of a formula (OWASP, "CSV Injection"), full-width forms too.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_FILES = {
    "csv": "text/csv; charset=utf-8",
    "xlsx": "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
}

Cell = str | int | datetime | None


class Source(ABC):
    """One kind of rows in the history. `moments` are the columns whose times are entries of the timeline."""

    kind: ClassVar[str]
    label: ClassVar[Any]
    colour: ClassVar[str]
    moments: ClassVar[tuple[str, ...]] = ("at",)
    headings: ClassVar[tuple[Any, ...]]

    @abstractmethod
    def rows(self, reader: User, customer: User) -> QuerySet[Any]:
        """The customer's rows that `reader` may see."""

    @abstractmethod
    def describe(self, row: Any, moment: str) -> tuple[str, str]:
        """What happened at that moment, and the details, in the active language."""

    @abstractmethod
    def cells(self, row: Any) -> tuple[Cell, ...]:
        """The row in the table of its kind, under `headings`."""


class LogSource(Source):
    """What stands in the activity log: these `actions`."""

    actions: ClassVar[tuple[str, ...]]

    def rows(self, reader: User, customer: User) -> QuerySet[OperationLog]:
        return OperationLog.objects.visible_to(reader).filter(subject=customer, action__in=self.actions)


class RentalSource(LogSource):
    """What the rental went through."""

    kind, label, colour = "rental", gettext_lazy("Rental"), "azure"
    headings = (gettext_lazy("time"), gettext_lazy("what happened"), gettext_lazy("reason"))
    actions = (
        "rental.expired",
        "rental.paused",
        "rental.resumed",
        "rental.closed",
        "user.closing",
    )

    def describe(self, row: OperationLog, moment: str) -> tuple[str, str]:
        return row.action_text, self._reason(row)

    def cells(self, row: OperationLog) -> tuple[Cell, ...]:
        return row.at, row.action_text, self._reason(row)

    @staticmethod
    def _reason(row: OperationLog) -> str:
        # Only this one is written for the customer to read.
        return str(row.detail.get("reason", "")) if row.action == "rental.paused" else ""


class DeviceSource(LogSource):
    """What became of the devices, and of who may come in."""

    kind, label, colour = "device", gettext_lazy("Device"), "teal"
    headings = (gettext_lazy("time"), gettext_lazy("what happened"), gettext_lazy("device"))
    actions = (
        "device.added",
        "device.approved",
        "device.enrolled",
        "device.revoked",
        "device.renamed",
        "devices.window_opened",
        "devices.window_closed",
        "devices.checking_off",
        "devices.checking_on",
        "devices.verify_url_set",
        "devices.verify_url_removed",
    )

    def describe(self, row: OperationLog, moment: str) -> tuple[str, str]:
        return row.action_text, self._device(row)

    def cells(self, row: OperationLog) -> tuple[Cell, ...]:
        return row.at, row.action_text, self._device(row)

    @staticmethod
    def _device(row: OperationLog) -> str:
        # The others are about the rental, and name its owner.
        return row.target if row.action.startswith("device.") else ""


class RedemptionSource(Source):
    """What moved the end."""

    kind, label, colour = "redemption", gettext_lazy("Renewal"), "green"
    headings = (
        gettext_lazy("time"),
        gettext_lazy("kind"),
        gettext_lazy("serial number"),
        gettext_lazy("old end"),
        gettext_lazy("new end"),
    )

    def rows(self, reader: User, customer: User) -> QuerySet[Redemption]:
        return Redemption.objects.visible_to(reader).filter(rental__user=customer).select_related("serial")

    def describe(self, row: Redemption, moment: str) -> tuple[str, str]:
        title = " ".join(filter(None, [row.get_kind_display(), row.serial.masked if row.serial else ""]))
        # Given back were perhaps seconds, which no page shows.
        ends = dict.fromkeys(_written(end) for end in (row.old_ends_at, row.new_ends_at) if end)
        return title, " → ".join(ends)

    def cells(self, row: Redemption) -> tuple[Cell, ...]:
        serial = row.serial.masked if row.serial else ""
        return row.at, row.get_kind_display(), serial, row.old_ends_at, row.new_ends_at


class MapSource(Source):
    """Versions of the map, and who took them."""

    kind, label, colour = "map", pgettext_lazy("history", "derpMap"), "blue"
    headings = (
        gettext_lazy("time"),
        gettext_lazy("kind"),
        gettext_lazy("version"),
        gettext_lazy("format"),
        gettext_lazy("times"),
        gettext_lazy("reason"),
        gettext_lazy("IP address"),
    )

    TITLES: ClassVar[dict[str, Any]] = {
        AclEvent.Kind.MADE: gettext_lazy("New version of the map"),
        AclEvent.Kind.WITHDRAWN: gettext_lazy("Map withdrawn"),
        AclEvent.Kind.DOWNLOADED: gettext_lazy("Map downloaded"),
        AclEvent.Kind.REFUSED: gettext_lazy("Map refused"),
        AclEvent.Kind.FETCHED: gettext_lazy("Map fetched by the live URL"),
    }

    def rows(self, reader: User, customer: User) -> QuerySet[AclEvent]:
        return AclEvent.objects.visible_to(reader).filter(rental__user=customer).select_related("rental")

    def describe(self, row: AclEvent, moment: str) -> tuple[str, str]:
        version = f"v{row.version}" if row.version else ""
        times = f"{row.count} ×" if row.count > 1 else ""
        details = [version, row.file_format, times, row.reason_text, self._ip(row)]
        return str(self.TITLES[row.kind]), " · ".join(filter(None, details))

    def cells(self, row: AclEvent) -> tuple[Cell, ...]:
        title = str(self.TITLES[row.kind])
        return row.at, title, row.version, row.file_format, row.count, row.reason_text, self._ip(row)

    @staticmethod
    def _ip(row: AclEvent) -> str:
        # Where an operator sat is no business of the customer's.
        return row.ip or "" if row.by_id in {None, row.rental.user_id} else ""


class RelaySource(Source):
    """The relays that he has or had."""

    kind, label, colour = "relay", gettext_lazy("Relay"), "purple"
    moments = ("proven_at", "released_at")
    headings = (
        gettext_lazy("runs since"),
        gettext_lazy("removed"),
        gettext_lazy("region"),
        gettext_lazy("IP address"),
        gettext_lazy("DERP port (TCP)"),
        gettext_lazy("STUN port (UDP)"),
        gettext_lazy("state"),
    )

    def rows(self, reader: User, customer: User) -> QuerySet[Relay]:
        return Relay.objects.visible_to(reader).filter(rental__user=customer).select_related("server__region")

    def describe(self, row: Relay, moment: str) -> tuple[str, str]:
        title = _("Relay ready") if moment == "proven_at" else _("Relay removed")
        return title, f"{row.server.region.name} · {row.certificate_address}:{row.derp_port}"

    def cells(self, row: Relay) -> tuple[Cell, ...]:
        region, address = row.server.region.name, row.certificate_address
        ports = row.derp_port, row.stun_port
        return row.proven_at, row.released_at, region, address, *ports, row.get_status_display()


class NoticeSource(Source):
    """What he was told."""

    kind, label, colour = "notice", gettext_lazy("Notice"), "orange"
    moments = ("created_at",)
    headings = (
        gettext_lazy("time"),
        gettext_lazy("notice"),
        gettext_lazy("channel"),
        gettext_lazy("state"),
    )

    def rows(self, reader: User, customer: User) -> QuerySet[Notice]:
        return Notice.objects.visible_to(reader).filter(user=customer)

    def describe(self, row: Notice, moment: str) -> tuple[str, str]:
        return row.kind_text, f"{row.get_channel_display()} · {row.get_state_display()}"

    def cells(self, row: Notice) -> tuple[Cell, ...]:
        return row.created_at, row.kind_text, row.get_channel_display(), row.get_state_display()


SOURCES: dict[str, Source] = {
    source.kind: source
    for source in (
        RentalSource(),
        RedemptionSource(),
        MapSource(),
        DeviceSource(),
        RelaySource(),
        NoticeSource(),
    )
}
_TIMELINE_HEADINGS = (
    gettext_lazy("time"),
    gettext_lazy("kind"),
    gettext_lazy("what happened"),
    gettext_lazy("details"),
)


@dataclass(frozen=True)
class Entry:
    """One line of the timeline."""

    at: datetime
    source: Source
    title: str
    text: str

    @property
    def cells(self) -> tuple[Cell, ...]:
        """The line as a row of a table."""
        return self.at, str(self.source.label), self.title, self.text


@dataclass(frozen=True)
class TableCell:
    """One cell of a page's table; on a phone it names its own column."""

    heading: Any
    value: Cell

    @property
    def text(self) -> str:
        """The value as people read it; "" when there is none."""
        return _written(self.value)


def _written(value: Cell) -> str:
    if value is None:
        return ""
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M}" if isinstance(value, datetime) else str(value)


def moments_of(reader: User, customer: User, kinds: Iterable[str]) -> Any:
    """(time, kind, column, primary key) of every entry of those kinds, newest first; nothing is read yet."""
    parts = [
        source.rows(reader, customer)
        .order_by()
        .filter(**{f"{column}__isnull": False})
        .annotate(
            moment=F(column),
            source=Value(kind, CharField()),
            column=Value(column, CharField()),
        )
        .values_list("moment", "source", "column", "pk")
        for kind, source in SOURCES.items()
        if kind in kinds
        for column in source.moments
    ]
    first, *others = parts
    return first.union(*others, all=True).order_by("-moment", "source", "column", "-pk")


def read_entries(reader: User, customer: User, moments: Iterable[tuple[Any, ...]]) -> list[Entry]:
    """The entries at these places of `moments_of`, in their order; a query for each kind that is among them."""
    places = list(moments)
    wanted: dict[str, set[int]] = defaultdict(set)
    for _moment, kind, _column, pk in places:
        wanted[kind].add(pk)
    rows = {kind: SOURCES[kind].rows(reader, customer).in_bulk(pks) for kind, pks in wanted.items()}
    entries = []
    for _moment, kind, column, pk in places:
        if row := rows[kind].get(pk):
            source = SOURCES[kind]
            entries.append(Entry(getattr(row, column), source, *source.describe(row, column)))
    return entries


def _table_rows(reader: User, customer: User, kind: str) -> QuerySet[Any]:
    source = SOURCES[kind]
    first = source.moments[0]
    return source.rows(reader, customer).order_by(F(first).desc(nulls_first=True), "-pk")


@login_required
@require_GET
def history(request: SignedInRequest) -> HttpResponse:
    """One's own history."""
    return _show(request, request.user, reverse("history"))


@require_GET
def customer_history(request: SignedInRequest, pk: int) -> HttpResponse:
    """A customer's history for operators, of a closed account too; served through the admin's door."""
    customer = get_object_or_404(User.objects.visible_to(request.user), pk=pk)
    return _show(request, customer, reverse("customer-history", args=[pk]))


def _show(request: SignedInRequest, customer: User, here: str) -> HttpResponse:
    kind = request.GET.get("kind", "")
    kind = kind if kind in SOURCES else ALL
    is_table = request.GET.get("view") == "table"
    found = (
        _table_rows(request.user, customer, kind)
        if is_table and kind != ALL
        else moments_of(request.user, customer, SOURCES if kind == ALL else [kind])
    )
    page = Paginator(found, ROWS).get_page(request.GET.get("page"))
    context: dict[str, Any] = {
        "customer": customer,
        "is_own": customer.pk == request.user.pk,
        "here": here,
        "kind": kind,
        "view": "table" if is_table else "timeline",
        "sources": SOURCES.values(),
        "page": page,
    }
    if is_table and kind != ALL:
        lines: Iterable[tuple[Cell, ...]] = [SOURCES[kind].cells(row) for row in page]
        context |= _as_table(SOURCES[kind].headings, lines)
    else:
        entries = read_entries(request.user, customer, page.object_list)
        context |= {"entries": entries, **_as_table(_TIMELINE_HEADINGS, [entry.cells for entry in entries])}
    return render(request, "history.html", context)


def _as_table(headings: tuple[Any, ...], lines: Iterable[tuple[Cell, ...]]) -> dict[str, Any]:
    return {
        "headings": headings,
        "lines": [[TableCell(*pair) for pair in zip(headings, line, strict=True)] for line in lines],
    }


def harmless(value: Cell) -> str | int:
    """A cell that no spreadsheet program runs: text that would begin a formula gets an apostrophe before it."""
    if isinstance(value, int):
        return value
    text = f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S}" if isinstance(value, datetime) else value or ""
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA_STARTS) else text


def _exported(reader: User, customer: User, kind: str) -> Iterator[tuple[Cell, ...]]:
    if kind == ALL:
        entries = read_entries(reader, customer, moments_of(reader, customer, SOURCES))
        yield from (entry.cells for entry in entries)
    else:
        yield from map(SOURCES[kind].cells, _table_rows(reader, customer, kind))


@login_required
@require_GET
def history_export(request: SignedInRequest, kind: str, file_format: str) -> HttpResponse:
    """One's own history of a kind, or all of it, as a CSV or Excel file; times in the panel's zone."""
    if file_format not in _FILES or kind not in {ALL, *SOURCES}:
        raise Http404
    consume(request, group="history", key=str(request.user.pk), rate=EXPORT_RATE)
    headings = _TIMELINE_HEADINGS if kind == ALL else SOURCES[kind].headings
    data = tablib.Dataset(headers=[str(heading) for heading in headings], title="derpmgmt")
    for line in _exported(request.user, request.user, kind):
        data.append([harmless(cell) for cell in line])
    content = data.export(file_format)
    if file_format == "csv":
        # The mark lets spreadsheet programs read the headings as UTF-8.
        content = ("\ufeff" + content).encode()
    name = f"derpmgmt-{kind}-{timezone.localdate():%Y%m%d}.{file_format}"
    return HttpResponse(
        content,
        content_type=_FILES[file_format],
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
