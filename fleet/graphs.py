"""A server's charts: which figures of its samples lie together in one, and what they are called."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.charts import Chart, Line, Range, Unit, on_grid
from fleet.models import Server
from fleet.samples import LOAD


@dataclass(frozen=True)
class Graph:
    """One chart: its title, what its numbers are, and its lines: name → a figure of `fleet.samples.LOAD`, with `_max` the greatest."""

    title: str | Promise
    unit: Unit
    lines: tuple[tuple[str | Promise, str], ...]


_MEAN, _HIGHEST = _("mean"), _("highest")

GRAPHS: Mapping[str, Graph] = MappingProxyType(
    {
        "cpu": Graph(_("Processors"), Unit.SHARE, ((_MEAN, "cpu"), (_HIGHEST, "cpu_max"))),
        "load": Graph(_("Load per core"), Unit.NUMBER, ((_MEAN, "load"), (_HIGHEST, "load_max"))),
        "memory": Graph(
            _("Memory in use"), Unit.SHARE, ((_("memory"), "memory_max"), (_("swap"), "swap_max"))
        ),
        "disk": Graph(
            _("Disk in use"),
            Unit.SHARE,
            (
                (_("Docker's folder"), "disk_max"),
                (_("files of Docker's folder"), "inodes_max"),
                ("/", "root_max"),
                (_("files of /"), "root_inodes_max"),
            ),
        ),
        "network": Graph(
            _("Bandwidth"),
            Unit.BYTE_RATE,
            (
                (_("received"), "receive_rate"),
                (_("sent"), "send_rate"),
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
            ((_MEAN, "clock_ms"), (_HIGHEST, "clock_ms_max")),
        ),
        "containers": Graph(_("Containers"), Unit.NUMBER, ((_("running"), "containers_max"),)),
    }
)


def draw(server: Server, graph: Graph, chosen: Range, now: int) -> Chart:
    """The chart of a server over a range that ends at `now`: one query, whatever the range."""
    moments = chosen.moments(now)
    rows = LOAD.rows(server.pk, moments, [figure for _name, figure in graph.lines])
    columns = on_grid(rows, moments, len(graph.lines))
    lines = [Line(name, values) for (name, _figure), values in zip(graph.lines, columns, strict=True)]
    return Chart(moments, lines, graph.unit)
