"""Charts of samples: which figures lie together in one, and what they are called; those of a server."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from derpmgmt.lib.charts import Chart, Line, Range, Unit, on_grid
from fleet.samples import Series


@dataclass(frozen=True)
class Graph:
    """One chart: its title, what its numbers are, and its lines: name → a figure of the samples, with `_max` the greatest."""

    title: str | Promise
    unit: Unit
    lines: tuple[tuple[str | Promise, str], ...]


MEAN, HIGHEST = _("mean"), _("highest")

SERVER_GRAPHS: Mapping[str, Graph] = MappingProxyType(
    {
        "cpu": Graph(_("Processors"), Unit.SHARE, ((MEAN, "cpu"), (HIGHEST, "cpu_max"))),
        "load": Graph(_("Load per core"), Unit.NUMBER, ((MEAN, "load"), (HIGHEST, "load_max"))),
        "memory": Graph(
            _("Memory in use"), Unit.SHARE, ((_("memory"), "memory_max"), (_("swap"), "swap_max"))
        ),
        "disk": Graph(
            _("Disk in use"),
            Unit.SHARE,
            (
                (_("Docker's folder"), "disk_max"),
                (_("files of Docker's folder"), "inodes_max"),
                (_("folder /"), "root_max"),
                (_("files of /"), "root_inodes_max"),
            ),
        ),
        "network": Graph(
            _("Bandwidth"),
            Unit.BYTE_RATE,
            (
                (pgettext_lazy("network", "received"), "receive_rate"),
                (pgettext_lazy("network", "sent"), "send_rate"),
                (_("received, highest"), "receive_rate_max"),
                (_("sent, highest"), "send_rate_max"),
            ),
        ),
        "latency": Graph(
            _("Answering the panel"),
            Unit.MILLISECONDS,
            (
                (_("connecting by SSH"), "connect_ms"),
                (_("the shell"), "answer_ms"),
                (_("the Docker Engine"), "engine_ms"),
            ),
        ),
        "clock": Graph(
            _("Clock ahead of the panel's"),
            Unit.MILLISECONDS,
            ((MEAN, "clock_ms"), (HIGHEST, "clock_ms_max")),
        ),
        "containers": Graph(_("Containers"), Unit.NUMBER, ((_("running"), "containers_max"),)),
    }
)


def draw(series: Series, pk: int, graph: Graph, chosen: Range, now: int) -> Chart:
    """The chart of one thing that `series` has samples of, over a range that ends at `now`: one query, whatever the range."""
    moments = chosen.moments(now)
    rows = series.rows(pk, moments, [figure for _name, figure in graph.lines])
    columns = on_grid(rows, moments, len(graph.lines))
    figures = {figure for _name, figure in graph.lines}
    lines = [
        Line(name, values, is_peak=figure.removesuffix("_max") in figures - {figure})
        for (name, figure), values in zip(graph.lines, columns, strict=True)
    ]
    return Chart(moments, lines, graph.unit)
