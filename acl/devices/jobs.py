"""What the queue and the clock ring for about devices and who is connected to relays."""

import logging
import time
from concurrent.futures import Future
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.utils import timezone

from acl.devices import cutting, presence, services
from acl.devices.models import Device
from containers.services import gates
from derpmgmt.lib import queue
from derpmgmt.lib.sweeps import attempt
from serials.rentals.models import Rental

log = logging.getLogger(__name__)

# Time that was given within this is new to the gates' lists.
LATELY = timedelta(minutes=1)
# So long old admissions are deleted in one go; the next minute goes on.
TIDY_SECONDS = 2.0

_settling: "Future[None] | None" = None


def destroy_devices(user_pk: int) -> None:
    """An account is being closed: the same for its devices and for who was let in."""
    rental = Rental.objects.filter(user=user_pk, user__closing_at__isnull=False).first()
    if rental and services.destroy_devices(rental=rental):
        attempt("who was connected last", partial(presence.forget_presence, rental.pk))


@queue.on_queue("admission")
def cut_owed(rental_pk: int) -> None:
    """Close the connections of all who have no right to be at a rental's relays; nothing happens when no cut is owed."""
    cutting.cut(rental_pk)


@queue.on_queue("admission")
def enforce_rental(rental_pk: int) -> None:
    """A rental's rights may be others now: without any, everybody is cut off its relays, and the gates' lists follow.

    Much rings for this that changes no right; the gates hear of one that came by what moved the end.
    """
    now = timezone.now()
    rental = Rental.objects.select_related("user").filter(pk=rental_pk).first()
    if rental is None:
        return
    if not rental.has_rights(now):
        cutting.record_loss(rental_pk)
        cutting.cut(rental_pk)
        return
    if rental.redemptions.filter(at__gte=now - LATELY).exists():
        _change_lists(rental_pk)
    # New time may have begun at once.
    services.check_again(rental_pk=rental_pk)


@queue.on_queue("admission")
def enforce_user(user_pk: int) -> None:
    """Somebody was banned, or is no longer: the same for their rental."""
    for rental_pk in Rental.objects.filter(user=user_pk).values_list("pk", flat=True):
        if not cutting.record_loss(rental_pk):
            _change_lists(rental_pk)
        cutting.cut(rental_pk)


@queue.on_queue("admission")
def settle_trials() -> None:
    """Decide about the devices on trial that had time to prove themselves. Relays that hang hold only the next time up."""
    global _settling
    if _settling is not None and not _settling.done():
        return
    devices = services.due_trials(timezone.now())
    _settling = presence.start_apart(partial(_settle, devices)) if devices else None


def _settle(devices: list[Device]) -> None:
    is_present = presence.finder({device.rental_id for device in devices})
    services.settle_trials(devices=devices, is_present=is_present)


def tidy_devices() -> None:
    """Tell customers of devices that wait, forget those that wait no longer and admissions that are old."""
    now = timezone.now()
    attempt("telling of devices that wait", partial(services.tell_waiting, now))
    attempt("devices that wait no longer", partial(services.forget_waiting, now))
    attempt("old admissions", partial(_forget_admissions, now))


def _forget_admissions(now: datetime) -> None:
    deadline = time.monotonic() + TIDY_SECONDS
    while services.forget_admissions(now) and time.monotonic() < deadline:
        pass


@queue.on_queue("admission")
def sweep_cuts() -> None:
    """Ring for the cuts that are still owed, also those whose bell was lost or whose worker died."""
    now = timezone.now()
    recorded = [
        rental_pk
        for rental_pk in cutting.losses(now)
        if attempt(f"the lost rights of rental {rental_pk}", partial(cutting.record_loss, rental_pk))
    ]
    for rental_pk in dict.fromkeys([*recorded, *cutting.due_cuts(now)]):
        queue.enqueue(cut_owed, rental_pk, is_again=True)


@queue.on_queue("admission")
def sweep_checking() -> None:
    """Check devices again where time began that does not allow it to be off."""
    for rental_pk in services.due_checks(timezone.now()):
        attempt(
            f"checking the devices of rental {rental_pk}",
            partial(services.check_again, rental_pk=rental_pk),
        )


@queue.on_queue("admission")
def read_presence(rental_pk: int) -> None:
    """Ask a rental's relays who is connected, for the pages."""
    presence.read_presence(rental_pk)


def _change_lists(rental_pk: int) -> None:
    with transaction.atomic():
        gates.note_list_changed(rental_pk=rental_pk, now=timezone.now())


# What stays in this room: somebody may be connected who has no right to be any more; a page wants to know who is there.
RINGS: dict[str, list[queue.Job]] = {"cut_owed": [cut_owed], "presence_asked": [read_presence]}
TICKS = [
    queue.every(10, sweep_cuts),
    queue.every(5, sweep_checking),
    queue.every(5, settle_trials),
    queue.every(60, tidy_devices),
]
