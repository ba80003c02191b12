"""The timeline: a UNION of the moments of every kind, of which the database gives one page.

Only the rows of that page are then read, so the page costs the same however long the history is.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import CharField, F, Q, QuerySet, Value

from accounts.models import User
from derpmgmt.history.sources import SOURCES, Cell, Source


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


# Where an entry stands in the timeline: its time, its kind, the column of the time, its row's primary key.
Place = tuple[datetime, str, str, int]


def moments_of(
    reader: User,
    customer: User,
    kinds: Iterable[str],
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    after: Place | None = None,
) -> Any:
    """The places of every entry of those kinds, newest first; nothing is read yet.

    With `since` those at that time or later, with `until` those before it, with `after` those that come after this place.
    """
    parts = [
        source.rows(reader, customer)
        .order_by()
        .filter(_within(kind, column, since, until, after), **{f"{column}__isnull": False})
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


def _within(kind: str, column: str, since: datetime | None, until: datetime | None, after: Place | None) -> Q:
    """The condition on the rows of one kind that one of its columns gives."""
    wanted = Q()
    if since is not None:
        wanted &= Q(**{f"{column}__gte": since})
    if until is not None:
        wanted &= Q(**{f"{column}__lt": until})
    if after is not None:
        moment, *name, pk = after
        earlier, same = Q(**{f"{column}__lt": moment}), Q(**{column: moment})
        # Of the same time the kinds follow one another by their names, and one kind's rows by falling keys.
        if [kind, column] == name:
            wanted &= earlier | same & Q(pk__lt=pk)
        else:
            wanted &= earlier | same if [kind, column] > name else earlier
    return wanted


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


def table_rows(reader: User, customer: User, kind: str) -> QuerySet[Any]:
    """The rows of the table of that kind, newest first."""
    source = SOURCES[kind]
    first = source.moments[0]
    return source.rows(reader, customer).order_by(F(first).desc(nulls_first=True), "-pk")
