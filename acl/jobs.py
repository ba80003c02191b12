"""What the queue runs about maps."""

import logging

from django.utils import timezone

from acl import services
from serials.models import Rental

log = logging.getLogger(__name__)


def refresh_acl(rental_pk: int) -> None:
    """Bring one rental's map up to date after its relays or its rights changed."""
    rental = Rental.objects.filter(pk=rental_pk).first()
    if rental:
        services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)


def sweep_maps() -> None:
    """Find every map that has lapsed or is not what the relays call for; two queries when there is none.

    A rental that cannot be served is logged and does not hold the others up.
    """
    for rental in services.due_rentals(timezone.now()):
        try:
            services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        except Exception:
            log.exception("the map of rental %s could not be made", rental.pk)
