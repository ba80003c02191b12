"""Charts on a row's page of the admin, where visits leave samples of such rows: the tab with all of them, and each one's figures."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.functional import Promise
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.tabs import Tab, show_charts
from derpmgmt.lib.charts import Chart, Range, answer
from fleet.graphs import Graph, draw
from fleet.samples import Series

# A chart's title, and what makes it for a range that ends at a moment in seconds since 1970.
Drawn = tuple[str | Promise, Callable[[Range, int], Chart]]


class GraphsMixin:
    """For an admin with tabs: `series` has the samples of its rows, `graphs` says which charts are drawn of them.

    `more_graphs` are of something else.
    """

    series: Series
    graphs: Mapping[str, Graph]
    # Django's admin has these.
    opts: Any
    admin_site: Any

    @property
    def _graph_url(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_graph"

    def more_graphs(self, row: Any) -> Mapping[str, Drawn]:
        """Charts of a row that are not made of its samples; they stand first."""
        return {}

    def _drawn(self, row: Any) -> Mapping[str, Drawn]:
        own = {
            name: (graph.title, partial(draw, self.series, row.pk, graph))
            for name, graph in self.graphs.items()
        }
        return {**self.more_graphs(row), **own}

    def graphs_tab(self, row: Any) -> Tab:
        """The tab with the charts of a row."""
        return Tab("graphs", _("Graphs"), partial(self._show_graphs, row))

    def _show_graphs(self, row: Any, request: HttpRequest) -> SafeString:
        charts = [
            (title, reverse(f"admin:{self._graph_url}", args=[row.pk, name]))
            for name, (title, _make) in self._drawn(row).items()
        ]
        return show_charts(request, charts, tab="graphs")

    def get_urls(self) -> list[Any]:
        """The address of each chart's figures, before those of the page."""
        view = self.admin_site.admin_view(self.graph)
        urls: list[Any] = super().get_urls()  # type: ignore[misc]
        return [path("<int:pk>/graph/<slug:name>/", view, name=self._graph_url), *urls]

    def graph(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        """One chart's figures, as JSON or CSV."""
        row = get_object_or_404(self.get_queryset(request), pk=pk)  # type: ignore[attr-defined]
        if (drawn := self._drawn(row).get(name)) is None:
            raise Http404
        return answer(request, f"{row}-{name}", drawn[1])
