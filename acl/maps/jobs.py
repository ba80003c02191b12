"""What the queue and the clock ring for about maps."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.sweeps import sweep
from accounts.works import Work, declare
from acl.maps import services
from acl.maps.models import AclConfig
from derpmgmt.lib import queue
from derpmgmt.lib.sweeps import attempt
from serials.rentals.models import Rental

# The sweep looks at what changed within this time; it runs far more often, and after a longer pause everything is compared.
LOOK_BACK = timedelta(minutes=15)
# So many lapsed versions are looked at in one go, and so many customers told.
LAPSES_AT_ONCE = 1000
TOLD_AT_ONCE = 200


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
    for work in WORKS:
        sweep(work, now=now)


def _record(pks: Sequence[int], now: datetime) -> int:
    lapsed = services.due_lapses(now).filter(pk__in=pks)
    return sum(services.record_lapse(config=config, now=now) for config in lapsed)


WORKS = [
    declare(
        Work(
            name=name, title=title, model=AclConfig, whose="rental__user__email", due=due, do=do, limit=limit
        )
    )
    for name, title, due, do, limit in (
        (
            "lapses of map versions",
            _("Recording that map versions lapsed"),
            services.due_lapses,
            _record,
            LAPSES_AT_ONCE,
        ),
        (
            "news of map versions",
            _("Telling of new map versions"),
            services.due_news,
            lambda pks, now: sum(services.tell_change(config_pk=pk, now=now) for pk in pks),
            TOLD_AT_ONCE,
        ),
        (
            "telling of map versions again",
            _("Telling of new map versions again"),
            services.due_reminders,
            lambda pks, now: sum(services.remind(config_pk=pk, now=now) for pk in pks),
            TOLD_AT_ONCE,
        ),
    )
]


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


# What stays in this room: a rental has another version of its map, or none any more.
RINGS: dict[str, list[queue.Job]] = {"map_changed": [publish_live]}
TICKS = [
    queue.every(10, sweep_maps),
    # Also with the start of the panel, so after every pause of it.
    queue.every(3600, check_maps),
    queue.every(3600, clean_copies),
    queue.every(15, record_fetches),
]
