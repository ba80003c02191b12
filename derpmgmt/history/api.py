"""A customer's history by the JSON API: what the timeline's page shows."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, cast

from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from accounts.access.subjects import find_person
from derpmgmt.history.sources import SOURCES
from derpmgmt.history.timeline import Place, moments_of, read_entries
from derpmgmt.lib.api import Listed, Moment, Output, PageQuery, Pk
from derpmgmt.lib.api.paging import WrongCursor

user = Room("user")

# The keys of `SOURCES`.
Kind = Literal["rental", "redemption", "map", "device", "relay", "notice"]

# Time in microseconds since 1970, which kind, which of its columns, primary key.
_CURSOR = re.compile(r"(\d{1,17})\.(\d)\.(\d)\.(\d{1,19})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class EntryShown(Output):
    """One line of the history."""

    at: Moment = Field(examples=["2026-11-30T08:00:00Z"])
    kind: Kind
    title: str = Field(description="What happened, in the language that was asked for.")
    text: str = Field(description="Details, likewise; may be empty.")


class HistoryQuery(PageQuery):
    """Which entries."""

    kind: Kind | None = Field(None, description="Only those of this kind.")
    since: Moment | None = Field(None, description="Only those at this time or later.")
    until: Moment | None = Field(None, description="Only those before this time.")


class History(Listed):
    """What happened to a customer, the newest first."""

    user_id: Pk = Field(examples=[7])
    entries: list[EntryShown] = Field(description="The page's lines.")


@user.reads("/history/{user_id}", History)
def user_history(request: ApiRequest, user_id: Pk, query: Annotated[HistoryQuery, Query()]) -> History:
    """What happened to somebody's rental, map, devices and relays, and what they were told: one's own, or for operators anybody's."""
    customer = find_person(request, user_id)
    kinds = SOURCES if query.kind is None else [query.kind]
    after = _read_cursor(query.cursor) if query.cursor else None
    moments = moments_of(request.user, customer, kinds, since=query.since, until=query.until, after=after)
    places = list(moments[: query.page_size + 1])
    is_more = len(places) > query.page_size
    places = places[: query.page_size]
    entries = read_entries(request.user, customer, places)
    return History(
        user_id=customer.pk,
        entries=[
            EntryShown(at=entry.at, kind=cast(Kind, entry.source.kind), title=entry.title, text=entry.text)
            for entry in entries
        ],
        next_cursor=_write_cursor(places[-1]) if is_more else None,
    )


def _write_cursor(place: Place) -> str:
    moment, kind, column, pk = place
    number = list(SOURCES).index(kind)
    micros = (moment - _EPOCH) // _MICROSECOND
    return f"{micros}.{number}.{SOURCES[kind].moments.index(column)}.{pk}"


def _read_cursor(text: str) -> Place:
    """Raises `WrongCursor`."""
    match = _CURSOR.fullmatch(text)
    if match is None:
        raise WrongCursor
    micros, number, column, pk = (int(part) for part in match.groups())
    try:
        kind = list(SOURCES)[number]
        moment = _EPOCH + micros * _MICROSECOND
        name = SOURCES[kind].moments[column]
    except IndexError as error:
        raise WrongCursor from error
    if pk >= 2**63:
        raise WrongCursor
    return moment, kind, name, pk
