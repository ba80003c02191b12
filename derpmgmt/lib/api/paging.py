"""Pages of lists by a cursor: rows that come in between move nothing, and no page counts the rows before it."""

from collections.abc import Callable
from typing import Any

from django.db.models import QuerySet
from django.utils.translation import gettext_lazy as _
from pydantic import Field

from derpmgmt.lib.api.schemas import Answer, Input
from derpmgmt.lib.refusals import Refusal

MOST_ROWS = 200
ROWS = 50


class WrongCursor(Refusal):
    """The cursor is none that an answer gave."""

    code = "wrong_cursor"
    sentence = _("This cursor is none that an answer gave.")
    field = "cursor"


class PageQuery(Input):
    """Which page of a list; a list's own filters come beside these."""

    page_size: int = Field(default=ROWS, ge=1, le=MOST_ROWS, description="Rows of the page.")
    cursor: str = Field(
        "", max_length=40, description="`next_cursor` of the page before; empty for the first."
    )

    @property
    def is_filtered(self) -> bool:
        """Whether more is asked for than a page of all."""
        own = type(self).model_fields.keys() - PageQuery.model_fields.keys()
        return any(getattr(self, name) for name in own)


class Listed(Answer):
    """A page of a list, the newest first; a list adds its rows under their name."""

    next_cursor: str | None = Field(description="For the next page; null on the last.")


def cut_page(
    rows: QuerySet[Any], query: PageQuery, describe: Callable[[Any], Any] = lambda row: row
) -> tuple[list[Any], str | None]:
    """The described rows of the page, by falling primary key, and the next page's cursor; rows have `pk` or are dictionaries with `id`.

    One query, whatever the page. Raises `WrongCursor`.
    """
    if query.cursor:
        rows = rows.filter(pk__lt=begin_of(query))
    return cut(list(rows.order_by("-pk")[: query.page_size + 1]), query, describe)


def begin_of(query: PageQuery) -> int:
    """The number below which the page's rows have theirs. Raises `WrongCursor`."""
    if not query.cursor:
        return 2**63 - 1
    if not (query.cursor.isascii() and query.cursor.isdecimal() and int(query.cursor) < 2**63):
        raise WrongCursor
    return int(query.cursor)


def cut(
    found: list[Any], query: PageQuery, describe: Callable[[Any], Any] = lambda row: row
) -> tuple[list[Any], str | None]:
    """The same of rows that were read already, one more than the page has where there are more."""
    is_more = len(found) > query.page_size
    found = found[: query.page_size]
    last = found[-1] if found else None
    pk = None if last is None else last["id"] if isinstance(last, dict) else last.pk
    return [describe(row) for row in found], str(pk) if is_more else None
