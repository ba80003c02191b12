"""A relay's charts: which figures of its samples lie together in one, and what they are called."""

from collections.abc import Mapping
from types import MappingProxyType

from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.charts import Unit
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
