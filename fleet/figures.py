"""What is counted of servers: the fleet by region."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.urls import reverse

from derpmgmt.lib import queue
from derpmgmt.lib.metrics import Metric
from fleet.models import Region, Server


@dataclass
class RegionLine:
    """The servers of one region together.

    `load` and `disk_free_bytes` are those of the worst of them, `visited_at` that of whose last visit is the longest ago, and
    `newest_visit_at` the last visit of any.
    """

    region: Region
    url: str
    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    relays: int = 0
    capacity: int = 0
    load: float | None = None
    disk_free_bytes: int | None = None
    visited_at: datetime | None = None
    newest_visit_at: datetime | None = None

    silent: int = 0

    @property
    def badness(self) -> tuple[int, int]:
        """For the order of regions: how many servers do not work, then how many a person holds back."""
        broken = max(self.silent, self.states.get(Server.Status.UNHEALTHY, 0))
        held = sum(self.states.get(status, 0) for status in (Server.Status.MAINTENANCE, Server.Status.NEW))
        return broken, held

    @property
    def state_words(self) -> list[tuple[Server.Status, int]]:
        """States in the order of their definition, with how many servers are in each."""
        return [(status, self.states[status]) for status in Server.Status if self.states.get(status)]


def regions() -> list[RegionLine]:
    """Answer to "regions": a line for each region that has servers in use, by its code."""
    servers = Server.objects.exclude(status=Server.Status.RETIRED).select_related("region")
    relays = dict(queue.ask("relays_by_server"))
    page = reverse("admin:fleet_server_changelist")
    lines: dict[int, RegionLine] = {}
    for server in servers.order_by("region__code", "name"):
        url = f"{page}?region__id__exact={server.region_id}"
        line = lines.setdefault(server.region_id, RegionLine(server.region, url))
        line.states[server.status] += 1
        line.silent += bool(server.silent_since and server.status != Server.Status.NEW)
        line.relays += relays.get(server.pk, 0)
        line.capacity += server.capacity
        line.load = _of(max, line.load, server.load_ratio)
        line.disk_free_bytes = _of(min, line.disk_free_bytes, server.disk_free_bytes)
        line.visited_at = _of(min, line.visited_at, server.last_visit_at)
        line.newest_visit_at = _of(max, line.newest_visit_at, server.last_visit_at)
    return list(lines.values())


def _of(choose: Any, *values: Any) -> Any:
    """The largest or smallest of those that are known."""
    return choose((value for value in values if value is not None), default=None)


def metrics(_now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": the servers in use, each with its region."""
    servers = list(Server.objects.exclude(status=Server.Status.RETIRED).select_related("region"))
    states = Counter((server.region.code, server.status) for server in servers)
    yield Metric("servers", "Servers by region and state.", ("region", "status"), states.items())
    relays = dict(queue.ask("relays_by_server"))

    def each(name: str, text: str, value: Callable[[Server], float | None]) -> Metric:
        samples = [((server.name, server.region.code), value(server)) for server in servers]
        return Metric(f"server_{name}", text, ("server", "region"), samples)

    yield each("up", "Whether the last contact went well.", lambda server: server.silent_since is None)
    yield each("relays", "Relays on the server.", lambda server: relays.get(server.pk, 0))
    yield each("capacity_relays", "Relays it may hold.", lambda server: server.capacity)
    yield each("load_per_core", "The load of the last minute, by core.", lambda server: server.load_ratio)
    yield each("memory_bytes", "Its memory.", lambda server: server.memory_bytes)
    yield each(
        "disk_free_bytes", "Free on the disk with Docker's folder.", lambda server: server.disk_free_bytes
    )
    yield each(
        "last_visit_timestamp_seconds",
        "When it was last visited.",
        lambda server: server.last_visit_at.timestamp() if server.last_visit_at else None,
    )
