"""What is counted of serial numbers."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count

from derpmgmt.lib.metrics import Metric
from serials.numbers.models import SerialNumber


def metrics(_now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": serial numbers by their state."""
    states = SerialNumber.objects.values_list("status").annotate(Count("pk")).order_by("status")
    yield Metric(
        "serial_numbers", "Serial numbers by their state.", ("status",), [((s,), n) for s, n in states]
    )
