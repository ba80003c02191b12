"""What the clock rings for about serial numbers."""

from django.utils import timezone

from serials import services


def sweep_serials() -> None:
    """Record the unused serial numbers whose last day is over as expired."""
    services.expire_serials(now=timezone.now())
