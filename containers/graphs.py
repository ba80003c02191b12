"""A relay's charts: which figures of its samples lie together in one, what they are called, and those that are made of its tests."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from statistics import fmean
from types import MappingProxyType
from typing import Any

from django.conf import settings
from django.utils.functional import Promise
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

LATENCY = _("Latency")
_TIMES = ("handshake_ms", "packet_ms", "stun_ms")


def draw_latency(relay: Relay, chosen: Range, now: int) -> Chart:
    """What the panel's tests of a relay took, and how long their customer's own devices take to it, as they say. Two queries.

    Tests are further apart than the moments of short ranges, and are kept for two days.
    """
    moments = replace(chosen, step=max(chosen.step, 60 * settings.PROOF_MINUTES)).moments(now)
    begin = datetime.fromtimestamp(moments.start, UTC)
    tests = RelayHealth.objects.filter(relay=relay, at__gte=begin).order_by("at").values_list("at", *_TIMES)
    said = ClientLatency.objects.filter(relay=relay, at__gte=moments.start).order_by("at")
    times = on_grid(
        _means(((int(at.timestamp()), *row) for at, *row in tests), moments), moments, len(_TIMES)
    )
    clients = on_grid(_means(said.values_list("at", "ms"), moments), moments, 1)
    names: tuple[str | Promise, ...] = (
        _("handshake"),
        _("forwarding"),
        "STUN",
        _("from devices"),
    )
    lines = [Line(name, values) for name, values in zip(names, [*times, *clients], strict=True)]
    return Chart(moments, lines, Unit.MILLISECONDS)


def _means(rows: Iterable[tuple[Any, ...]], moments: range) -> Iterator[tuple[Any, ...]]:
    """One row for each of `moments` that has any: the mean of those of each column that are known."""
    found: dict[int, list[tuple[Any, ...]]] = defaultdict(list)
    for at, *values in rows:
        found[(at - moments.start) // moments.step].append(tuple(values))
    for place, together in found.items():
        columns = ([value for value in column if value is not None] for column in zip(*together, strict=True))
        yield moments.start + place * moments.step, *(fmean(column) if column else None for column in columns)
