"""Charts on a row's page of the admin, where visits leave samples of such rows: the tab with all of them, and each one's figures."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.tabs import Tab, show_charts
from derpmgmt.lib.charts import answer
from fleet.graphs import Graph, draw
from fleet.samples import Series


class GraphsMixin:
    """For an admin with tabs: `series` has the samples of its rows, `graphs` says which charts are drawn of them."""

    series: Series
    graphs: Mapping[str, Graph]
    # Django's admin has these.
    opts: Any
    admin_site: Any

    @property
    def _graph_url(self) -> str:
        return f"{self.opts.app_label}_{self.opts.model_name}_graph"

    def graphs_tab(self, row: Any) -> Tab:
        """The tab with the charts of a row."""
        return Tab("graphs", _("Graphs"), partial(self._show_graphs, row))

    def _show_graphs(self, row: Any, request: HttpRequest) -> SafeString:
        charts = [
            (graph.title, reverse(f"admin:{self._graph_url}", args=[row.pk, name]))
            for name, graph in self.graphs.items()
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
        if name not in self.graphs:
            raise Http404
        return answer(request, f"{row}-{name}", partial(draw, self.series, row.pk, self.graphs[name]))
