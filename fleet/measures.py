"""What of servers is read as numbers, for alerts: as their last visits found it."""

from collections.abc import Iterator
from datetime import datetime

from django.urls import reverse

from accounts.alerts.services import Reading
from derpmgmt.lib.prepared import Prepared
from fleet.models import FRESH, Server

_FIELDS = (
    "pk",
    "name",
    "region",
    "last_visit_at",
    "disk_share",
    "clock_offset",
    "receive_rate",
    "send_rate",
)


_ROWS = Prepared(lambda: Server.objects.managed().order_by().values(*_FIELDS))


def read_servers(now: datetime) -> Iterator[Reading]:
    """How full each server's disk is (%), by how much its clock is off (s), and what its line carries (Mbit/s); one query."""
    for row in _ROWS.read():
        is_fresh = row["last_visit_at"] is not None and now - row["last_visit_at"] <= FRESH
        rates = [rate for rate in (row["receive_rate"], row["send_rate"]) if rate is not None]
        found = {
            "disk": None if row["disk_share"] is None else 100 * row["disk_share"],
            "clock": None if row["clock_offset"] is None else abs(row["clock_offset"]),
            "speed": 8 * max(rates) / 1e6 if rates else None,
        }
        for rule, value in found.items():
            yield Reading(
                rule=rule,
                thing=f"server:{row['pk']}",
                value=value if is_fresh else None,
                name=row["name"],
                url=reverse("admin:fleet_server_change", args=[row["pk"]]),
                server=row["pk"],
                region=row["region"],
            )


def alert_servers() -> Iterator[tuple[int, str]]:
    """Answer to "alert_servers": the servers in use, by which rules can be changed."""
    yield from Server.objects.exclude(status=Server.Status.RETIRED).order_by("name").values_list("pk", "name")
