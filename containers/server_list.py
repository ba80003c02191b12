"""The list of servers beyond its columns: what its regions come to together, and the list as a file."""

import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, QuerySet
from django.http import StreamingHttpResponse
from django.utils import timezone

from containers.models import Relay
from containers.services.usage import Flow
from derpmgmt.lib.spreadsheets import MARK, Echo, harmless
from fleet.admin import is_silent
from fleet.models import Region, Server


@dataclass
class RegionTotal:
    """The servers of a region that a list shows, those that were removed left out.

    `unhealthy` are those that do not answer or do not do their work; `loads` are of those of which one is known.
    """

    region: Region
    servers: int = 0
    unhealthy: int = 0
    customers: int = 0
    relays: int = 0
    capacity: int = 0
    loads: list[float] = field(default_factory=list)

    @property
    def mean_load(self) -> float | None:
        """By core; None where no server's is known."""
        return sum(self.loads) / len(self.loads) if self.loads else None

    @property
    def highest_load(self) -> float | None:
        """By core; None where no server's is known."""
        return max(self.loads, default=None)


def region_totals(servers: QuerySet[Server]) -> list[RegionTotal]:
    """What `servers` (with `relay_count`) come to by region, by its code. Two queries."""
    totals: dict[int, RegionTotal] = {}
    rows = (
        servers.exclude(status=Server.Status.RETIRED)
        .order_by("region__code", "pk")
        .select_related(None)
        .select_related("region")
    )
    for server in rows:
        total = totals.setdefault(server.region_id, RegionTotal(server.region))
        total.servers += 1
        total.unhealthy += is_silent(server) or server.status == Server.Status.UNHEALTHY
        total.relays += server.relay_count  # type: ignore[attr-defined]
        total.capacity += server.capacity
        if (load := server.fresh(server.load_ratio)) is not None:
            total.loads.append(load)
    customers = Relay.objects.live().filter(server__in=[row.pk for row in rows])
    for region, number in (
        customers.order_by().values_list("server__region").annotate(number=Count("rental", distinct=True))
    ):
        totals[region].customers = number
    return list(totals.values())


_HEADINGS = (
    "server", "state", "no_answer_since", "reason", "region", "provider_account", "address", "relays", "capacity",
    "month_up_bytes", "month_down_bytes", "month_limit_bytes", "month_left_bytes", "total_bytes", "up_bytes_per_second",
    "down_bytes_per_second", "load_per_core", "latency_ms", "last_visit",
)  # fmt: skip


def servers_as_csv(servers: Iterable[Any], flow: Callable[[Any], Flow]) -> StreamingHttpResponse:
    """The servers of a list as a file; what is not known is empty. `flow` gives a server's month that runs now."""
    writer = csv.writer(Echo())

    def content() -> Iterator[str]:
        yield MARK + writer.writerow(_HEADINGS)
        for server in servers:
            month = flow(server)
            limit, account = server.traffic_limit_bytes, server.provider_account
            account = f"{account} {account.phone_masked}".strip() if account else ""
            since = server.silent_since if is_silent(server) else None
            yield writer.writerow(
                [
                    harmless(server.name), server.status, since and since.isoformat(), harmless(server.reason),
                    harmless(server.region.name), harmless(account), server.address, server.relay_count, server.capacity,
                    month.up_bytes, month.down_bytes, limit, None if limit is None else max(limit - month.bytes, 0),
                    server.total_bytes or 0, month.up_rate, month.down_rate, server.fresh(server.load_ratio),
                    server.fresh(server.answer_ms), server.last_visit_at and server.last_visit_at.isoformat(),
                ]
            )  # fmt: skip

    name = f"servers-{timezone.localtime():%Y%m%d-%H%M}.csv"
    return StreamingHttpResponse(
        content(),
        content_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="{name}"',
            "Cache-Control": "private, no-store",
        },
    )
