"""What the clock rings for about serial numbers."""

from django.utils import timezone

from derpmgmt.lib import queue
from serials.numbers import services


def expire_serials() -> None:
    """Record the unused serial numbers whose last day is over."""
    services.expire_serials(now=timezone.now())


TICKS = [queue.every(60, expire_serials)]
