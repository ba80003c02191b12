"""Pages of lists: their size is the panel's choice, and any page number that is asked for leads to a page that is there."""

from typing import Any

from django.core.paginator import EmptyPage, PageNotAnInteger, Paginator
from django.http import HttpRequest
from django_tables2 import Table

# No list shows more rows than these on one page, whoever asks.
MOST_ROWS = 100
# Pages that exist in no list: their first row's number would be none of a database's.
_BEYOND = 10**9


def page_number(text: object) -> int:
    """The page that `text` asks for: what is no number means the first, what is beyond any list a very late one."""
    try:
        number = int(str(text))
    except ValueError:  # Python reads no number of more than 4,300 digits
        return 1
    return max(1, min(number, _BEYOND))


def show_page(
    request: HttpRequest, table: Table, *, rows: int, paginator_class: type[Paginator] = Paginator
) -> None:
    """Give `table` the order and the page that `request` asks for, of `rows` rows; the last page where that one is not there."""
    assert rows <= MOST_ROWS
    table.request = request
    if order := request.GET.getlist(table.prefixed_order_by_field)[:10]:
        table.order_by = order
    number = page_number(request.GET.get(table.prefixed_page_field, 1))
    options: dict[str, Any] = {"per_page": rows}
    try:
        table.paginate(paginator_class=paginator_class, page=number, **options)
    except (EmptyPage, PageNotAnInteger):
        # One that does not count its rows does not know its last page; counting is dear, and rarely asked for.
        last = Paginator(table.rows, rows).num_pages
        table.paginate(paginator_class=paginator_class, page=last, **options)
