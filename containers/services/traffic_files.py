"""Months of relays' traffic as a file that spreadsheets open."""

import csv
from collections.abc import Iterator

from django.db.models import QuerySet

from containers.traffic_models import TrafficMonth
from derpmgmt.lib.spreadsheets import MARK, Echo, harmless

_HEADINGS = ("month_from", "customer", "relay", "server", "up_bytes", "down_bytes")


def csv_lines(rows: QuerySet[TrafficMonth]) -> Iterator[str]:
    """The lines of the file; bytes are whole numbers. Rows are read as lines are taken."""
    writer = csv.writer(Echo())
    found = rows.values_list(
        "begins_on", "rental__user__email", "relay_id", "relay__server__name", "up_bytes", "down_bytes"
    )
    yield MARK + writer.writerow(_HEADINGS)
    for begins_on, email, relay, server, up, down in found.iterator(chunk_size=2000):
        yield writer.writerow([begins_on, harmless(email or ""), relay, harmless(server), up, down])
