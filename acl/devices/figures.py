"""What is counted of devices."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count

from acl.devices.models import Device
from derpmgmt.lib.metrics import Metric


def metrics(_now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": devices by their state."""
    states = Device.objects.values_list("status").annotate(Count("pk")).order_by("status")
    yield Metric("devices", "Devices by their state.", ("status",), [((status,), n) for status, n in states])
