"""What the queue and the clock ring for about maps."""

from collections.abc import Iterable
from datetime import timedelta
from functools import partial

from django.utils import timezone

from acl.maps import services
from derpmgmt.lib.sweeps import attempt
from serials.rentals.models import Rental

# The sweep looks at what changed within this time; it runs far more often, and after a longer pause everything is compared.
LOOK_BACK = timedelta(minutes=15)


def refresh_acl(rental_pk: int) -> None:
    """Bring one rental's map, and what its live URL answers, up to date after its relays or its rights changed."""
    rental = Rental.objects.filter(pk=rental_pk).first()
    if rental:
        try:
            services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
        finally:
            # Also when the map is the same: the end of the rental, which the copy carries, may have moved.
            services.publish_live_urls(rental_pk=rental_pk)


def publish_live(rental_pk: int) -> None:
    """Write what the rental's live URL answers now to where it is served from."""
    services.publish_live_urls(rental_pk=rental_pk)


def destroy_maps(user_pk: int) -> None:
    """An account is being closed: destroy its maps once its rental is closed; until then a sweep rings again."""
    rental = Rental.objects.filter(user=user_pk, user__closing_at__isnull=False).first()
    if rental:
        services.destroy_maps(rental=rental)


def sweep_maps() -> None:
    """Bring every map up to date that is not what its relays call for or is about to lapse; tell customers of new versions.

    A rental that cannot be served is logged and does not hold the others up; nor does one part of the sweep another.
    """
    now = timezone.now()
    _refresh(services.due_rentals(now, changed_since=now - LOOK_BACK))
    for config in services.due_lapses(now):
        attempt(
            f"the lapse of map version {config.pk}", partial(services.record_lapse, config=config, now=now)
        )
    for config_pk in services.due_news(now):
        attempt(
            f"the news of map version {config_pk}",
            partial(services.tell_change, config_pk=config_pk, now=now),
        )
    for config_pk in services.due_reminders(now):
        attempt(
            f"telling of map version {config_pk} again",
            partial(services.remind, config_pk=config_pk, now=now),
        )


def check_maps() -> None:
    """Compare every map with its relays: what changed while no sweep ran for longer than `LOOK_BACK` is found here."""
    _refresh(services.due_rentals(timezone.now(), changed_since=None))


def clean_copies() -> None:
    """Remove the copies of live URLs that lead nowhere any more, as far as that was not done when it happened."""
    services.clean_copies(now=timezone.now())


def record_fetches() -> None:
    """Write the fetches of live URLs to the log."""
    services.record_fetches()


def _refresh(rentals: Iterable[Rental]) -> None:
    for rental in rentals:
        attempt(f"the map of rental {rental.pk}", partial(refresh_acl, rental.pk))
