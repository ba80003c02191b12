"""Keeping the books of traffic small."""

from django.utils import timezone

from containers.services import traffic


def prune_traffic() -> None:
    """Forget hours that only days and months are still asked for."""
    traffic.prune_traffic(timezone.now())
