"""A relay's charts: which figures of its samples lie together in one, what they are called, and those that are made of its tests."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.utils.translation import gettext_lazy as _

from containers.models import Relay, RelayHealth
from containers.sample_models import ClientLatency
from derpmgmt.lib.charts import Chart, Line, Range, Unit, on_grid
from fleet.graphs import HIGHEST, MEAN, Graph

RELAY_GRAPHS: Mapping[str, Graph] = MappingProxyType(
    {
        "rate": Graph(
            _("Bandwidth"),
            Unit.BYTE_RATE,
            (
                (_("up"), "up_rate"),
                (_("down"), "down_rate"),
                (_("up, highest"), "up_rate_max"),
                (_("down, highest"), "down_rate_max"),
            ),
        ),
        "connections": Graph(
            _("Connections"), Unit.NUMBER, ((MEAN, "connections"), (HIGHEST, "connections_max"))
        ),
        "cpu": Graph(_("Processor"), Unit.SHARE, ((MEAN, "cpu"), (HIGHEST, "cpu_max"))),
        "memory": Graph(_("Memory"), Unit.BYTES, ((HIGHEST, "memory_max"),)),
    }
)

# Of a relay's tests; beside them stand the times from customers' own devices (`_FROM_DEVICES`).
TEST_GRAPHS: Mapping[str, Graph] = MappingProxyType(
    {
        "latency": Graph(
            _("Latency"),
            Unit.MILLISECONDS,
            ((_("handshake"), "handshake_ms"), (_("forwarding"), "packet_ms"), ("STUN", "stun_ms")),
        ),
        "jitter": Graph(
            _("Jitter"), Unit.MILLISECONDS, (("TCP", "tcp_jitter_ms"), ("STUN", "stun_jitter_ms"))
        ),
        "loss": Graph(_("Packets lost"), Unit.SHARE, (("STUN", "stun_loss"),)),
    }
)
_FROM_DEVICES = _("from devices")


def draw_tests(relay: Relay, name: str, chosen: Range, now: int) -> Chart:
    """One of `TEST_GRAPHS`: what the panel's tests of a relay measured, and with the latency how long their customer's own devices take to
    it, as they say. Two queries at most.

    Tests are further apart than the moments of short ranges, and are kept for two days.
    """
    graph = TEST_GRAPHS[name]
    moments = replace(chosen, step=max(chosen.step, 60 * settings.PROOF_MINUTES)).moments(now)
    begin = datetime.fromtimestamp(moments.start, UTC)
    fields = [figure for _name, figure in graph.lines]
    tests = RelayHealth.objects.filter(relay=relay, at__gte=begin).order_by("at").values_list("at", *fields)
    rows = ((int(at.timestamp()), *values) for at, *values in tests)
    columns = on_grid(_means(rows, moments), moments, len(fields))
    lines = [Line(label, values) for (label, _figure), values in zip(graph.lines, columns, strict=True)]
    if name == "latency":
        said = ClientLatency.objects.filter(relay=relay, at__gte=moments.start).order_by("at")
        (times,) = on_grid(_means(said.values_list("at", "ms"), moments), moments, 1)
        lines.append(Line(_FROM_DEVICES, times))
    return Chart(moments, lines, graph.unit)


def _means(rows: Iterable[tuple[Any, ...]], moments: range) -> Iterator[tuple[Any, ...]]:
    """One row for each of `moments` that has any: the mean of those of each column that are known."""
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for at, *values in rows:
        found[(at - moments.start) // moments.step].append(tuple(values))
    for place, together in found.items():
        columns = ([value for value in column if value is not None] for column in zip(*together, strict=True))
        yield moments.start + place * moments.step, *(fmean(column) if column else None for column in columns)
