"""One row of the admin on one page: a head with its state and its buttons, and tabs, each under an address of its own.

A tab reads only what it shows, by a fixed number of queries. The rooms above add theirs by the questions "row_tabs" (tabs), "row_says"
(what the head says) and "row_buttons" (their acts), as `accounts.acts` has "row_links" and "row_parts".
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib.admin.utils import unquote
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.html import format_html
from django.utils.http import urlencode
from django.utils.safestring import SafeString

from accounts.acts import ActsMixin, Button, Link
from accounts.requests import staff_of
from derpmgmt.lib import queue
from derpmgmt.lib.charts import describe_around, describe_charts
from derpmgmt.lib.moments import exact, moment
from derpmgmt.lib.paging import page_number

# So many rows a table of a tab has; it is leafed through.
ROWS = 25
_FILTERS = "_changelist_filters"
_NONE = "–"


@dataclass(frozen=True)
class Said:
    """A piece of what the head says; with a colour (green, red, orange, blue, grey) it is a state and stands as a badge."""

    text: str | Promise
    colour: str = ""


@dataclass(frozen=True)
class Tab:
    """A part of a row's page, under `?tab=name`; `show` reads what it shows for whoever asks, as HTML."""

    name: str
    label: str | Promise
    show: Callable[[HttpRequest], str]


@dataclass(frozen=True)
class Cell:
    """One cell of a table; on a phone it names its own column."""

    heading: str
    value: Any

    @property
    def is_empty(self) -> bool:
        """Whether nothing stands in it."""
        return bool(self.value == _NONE)


def written(value: Any) -> Any:
    """A value as a cell shows it: moments in the panel's zone, – where there is none."""
    if isinstance(value, datetime):
        return format_html(
            '<time datetime="{}" title="{}">{}</time>', value.isoformat(), exact(value), moment(value)
        )
    return _NONE if value is None or value == "" else value


def link_to(row: Any, text: Any = None, *, tab: str = "") -> SafeString:
    """The way to the row's page in the admin, and to a tab of it."""
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    return format_html('<a href="{}{}">{}</a>', url, f"?tab={tab}" if tab else "", text or row)


def same_tab(request: HttpRequest) -> dict[str, str]:
    """Of the query that was asked for what leads to the same tab again, and from there back to the list as it was."""
    return {name: request.GET[name] for name in ("tab", _FILTERS) if name in request.GET}


def show_table(
    request: HttpRequest,
    title: str | Promise,
    rows: QuerySet[Any] | Sequence[Any],
    headings: Iterable[str | Promise],
    cells: Callable[[list[Any]], Iterable[Iterable[Any]]],
    *,
    page: str = "page",
    links: Iterable[Link] = (),
    note: Any = "",
) -> SafeString:
    """A table of a tab: `ROWS` of `rows` on a page that the address names by `page`; `cells` says what stands in the lines of those.

    `links` stand below it, `note` above. Costs two queries and those of `cells`.
    """
    names = [str(heading) for heading in headings]
    found = Paginator(rows, ROWS).get_page(page_number(request.GET.get(page, "1")))
    lines = [
        [Cell(name, written(value)) for name, value in zip(names, line, strict=True)]
        for line in cells(list(found.object_list))
    ]
    return render_to_string(
        "admin/_table.html",
        {
            "title": title,
            "id": f"table-{page}",
            "headings": names,
            "lines": lines,
            "page": found,
            "page_url": f"?{urlencode({**same_tab(request), page: ''})}",
            "links": list(links),
            "note": note,
        },
    )


def show_facts(title: str | Promise, facts: Iterable[tuple[str | Promise, Any]]) -> SafeString:
    """What is known of a row, as names and values; those without a value are left out."""
    shown = [(name, written(value)) for name, value in facts if value not in (None, "")]
    return render_to_string("admin/_facts.html", {"title": title, "facts": shown})


def show_charts(request: HttpRequest, charts: Iterable[tuple[str | Promise, str]], *, tab: str) -> SafeString:
    """Charts of a tab, over the range that the address names: titles and the addresses of their data (`derpmgmt.lib.charts.answer`)."""
    kept = {_FILTERS: request.GET[_FILTERS]} if _FILTERS in request.GET else {}
    return render_to_string("partials/charts.html", describe_charts(request, charts, {"tab": tab, **kept}))


def show_around(charts: Iterable[tuple[str | Promise, str]], at: datetime) -> SafeString:
    """Charts of what was around a moment: titles and the addresses of their data."""
    now = int(timezone.now().timestamp())
    return render_to_string("partials/charts.html", describe_around(charts, int(at.timestamp()), now))


class TabsMixin(ActsMixin):
    """A row's change page as one page with tabs; the form is one of them, `form_tab` (name and label)."""

    form_tab: tuple[str, str | Promise]
    change_form_template = "admin/row_form.html"

    def own_says(self, row: Any) -> Iterator[Said]:
        """What this room says in the head, before the others."""
        return iter(())

    def own_tabs(self, row: Any) -> Iterator[Tab]:
        """This room's tabs, after those of the others."""
        return iter(())

    def own_links(self, row: Any) -> Iterator[Link]:
        """This room's ways to other pages about it, before those of the others."""
        return iter(())

    def buttons(self, request: HttpRequest, row: Any) -> list[Button]:
        """Those of the rooms above, and this one's."""
        others = queue.ask("row_buttons", row, staff_of(request)) if row else []
        return [*others, *super().buttons(request, row)]

    def _head(self, request: HttpRequest, row: Any, tabs: Iterable[Tab], current: str) -> dict[str, Any]:
        said = [*self.own_says(row), *queue.ask("row_says", row)]
        kept = {_FILTERS: request.GET[_FILTERS]} if _FILTERS in request.GET else {}
        buttons = self.buttons(request, row)
        names = [(tab.name, tab.label) for tab in tabs] + [self.form_tab]
        return {
            "title": str(row),
            "head": str(row),
            "badges": [piece for piece in said if piece.colour],
            "sentence": " · ".join(str(piece.text) for piece in said if not piece.colour),
            "tabs": [
                (f"?{urlencode({'tab': name, **kept})}", label, name == current) for name, label in names
            ],
            "acts": [button for button in buttons if not button.is_danger],
            "harm": [button for button in buttons if button.is_danger],
            "links": [*self.own_links(row), *queue.ask("row_links", row)],
        }

    def change_view(
        self,
        request: HttpRequest,
        object_id: str,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        row = self.get_object(request, unquote(object_id))
        if row is None or not self.has_view_permission(request, row):
            return super().change_view(request, object_id, form_url, extra_context)
        others = queue.ask("row_tabs", row)
        tabs = {tab.name: tab for tab in [*others, *self.own_tabs(row)]}
        wanted = request.GET.get("tab", "") if request.method == "GET" else self.form_tab[0]
        if wanted not in tabs and wanted != self.form_tab[0] and others:
            wanted = others[0].name
        if wanted not in tabs:
            head = self._head(request, row, tabs.values(), self.form_tab[0])
            head |= {"subtitle": None, "show_save_and_add_another": False, "show_save_and_continue": False}
            return super().change_view(request, object_id, form_url, {**(extra_context or {}), **head})
        tab = tabs[wanted]
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": row,
            "preserved_filters": self.get_preserved_filters(request),
            **self._head(request, row, tabs.values(), tab.name),
            "body": tab.show(request),
        }
        return TemplateResponse(request, "admin/row.html", context)

    def response_post_save_change(self, request: HttpRequest, obj: Any) -> HttpResponseRedirect:
        """Back to the form, as the page goes on with it."""
        return HttpResponseRedirect(f"{self._page_of(obj)}?{urlencode({'tab': self.form_tab[0]})}")
