"""Devices that knock without being approved: places on trial while a window is open, and the list of those who wait.

Clients' own diagnosis (`tailscale debug derp`) knocks with keys that live for a second. So a new key gets a place on trial
only, which counts against the limit; the device keeps it by staying connected, or by knocking again later.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.urls import reverse
from django.utils import timezone, translation

from accounts.services import notify
from acl.models import Admission, Device, DevicePolicy
from acl.services.device_panel import relay_names
from acl.services.devices import (
    approve_placed,
    device_limit,
    enforce,
    placed,
    places_left,
    window_until,
)
from serials.models import Rental
from serials.services import lock_rental

# How long a place on trial is kept, and how long a device must have been there to keep it for good.
PLACE_FOR = timedelta(seconds=90)
PROVEN_AFTER = timedelta(seconds=30)
# Devices that wait, for one customer; whoever knocked only once goes first, and after this time in any case.
MOST_WAITING = 20
FORGET_SINGLE_AFTER = timedelta(minutes=10)
FORGET_WAITING_AFTER = timedelta(days=30)
# A customer is told of devices that wait at most once in this time.
TELL_PAUSE = timedelta(hours=6)
# Devices that one sweep looks at.
TELL_AT_ONCE = 1000

Reason = Admission.Reason


@dataclass(frozen=True)
class Decision:
    """What a device that knocked is told, and why."""

    is_allowed: bool
    reason: Admission.Reason


def knock(*, rental_pk: int, relay_pk: int, node_key: str, ip: str | None) -> Decision:
    """Decide about a device that is not approved, of a rental whose relays check devices.

    While the window is open it gets a place on trial, if there is one. Doubled or simultaneous knocks never give out more
    places than there are.
    """
    with transaction.atomic():
        rental = lock_rental(rental_pk)
        now = timezone.now()
        device = Device.objects.filter(rental=rental, node_key=node_key).first()
        if device is not None and device.status != Device.Status.PENDING:
            is_approved = device.status == Device.Status.APPROVED
            return Decision(is_approved, Reason.APPROVED if is_approved else Reason.REVOKED)
        device = device or Device(rental=rental, node_key=node_key, first_seen_at=now)
        is_placed = device.place_until is not None and device.place_until > now
        if not is_placed and window_until(rental) <= now:
            return Decision(False, Reason.UNKNOWN)
        if not is_placed and not places_left(rental, now):
            return Decision(False, Reason.FULL)
        device.note_seen(now, ip, relay_pk)
        device.knocks += 1
        if _has_stayed(device, now):
            approve_placed(device=device, now=now)
            return Decision(True, Reason.ENROLLED)
        if not is_placed:
            device.place_until = now + PLACE_FOR
        device.save()
        return Decision(True, Reason.PROVISIONAL)


def _has_stayed(device: Device, now: datetime) -> bool:
    return device.first_seen_at is not None and device.first_seen_at <= now - PROVEN_AFTER


def due_places(now: datetime) -> list[Device]:
    """The places on trial about which something can be decided, the oldest first."""
    due = Device.objects.filter(status=Device.Status.PENDING, place_until__lte=now + PLACE_FOR - PROVEN_AFTER)
    return list(due.select_related("rental__user").order_by("place_until")[:500])


def settle_places(*, devices: Collection[Device], is_present: Callable[[Device], bool | None]) -> None:
    """Approve the devices on trial that are still connected, free the places of those whose time is over.

    Meanwhile a place whose time is over may have gone to another: without one left nobody is approved.

    `is_present` says whether a device is connected to one of its customer's relays; None = not all of them could be asked. It is
    called outside of transactions.
    """
    for device in devices:
        is_there = is_present(device)
        with transaction.atomic():
            rental = lock_rental(device.rental_id)
            now = timezone.now()
            row = Device.objects.filter(pk=device.pk, status=Device.Status.PENDING).first()
            if row is None or row.place_until is None or row.place_until != device.place_until:
                continue
            row.rental = rental
            others = placed(rental, now).exclude(pk=row.pk).count()
            if is_there and others < device_limit(rental, now):
                approve_placed(device=row, now=now)
            elif row.place_until <= now:
                _free(row)
                if is_there is not False:
                    enforce(rental, now)


def _free(row: Device) -> None:
    """A key that knocked once and went is one of a diagnosis; others wait for their customer's word."""
    if row.knocks > 1:
        Device.objects.filter(pk=row.pk).update(place_until=None)
    else:
        row.delete()


def forget_waiting(now: datetime) -> int:
    """Drop the devices that wait no longer: a single knock a while ago, or none for a month."""
    gone = Q(knocks__lte=1, last_seen_at__lte=now - FORGET_SINGLE_AFTER) | Q(
        last_seen_at__lte=now - FORGET_WAITING_AFTER
    )
    return Device.objects.filter(gone, status=Device.Status.PENDING, place_until=None).delete()[0]


def tell_waiting(now: datetime) -> int:
    """Tell customers of devices that knock again and again and wait for their word; returns how many were told.

    Once a device, and rarely a customer: those who knock are strangers as often as not.
    """
    waiting = Device.objects.filter(
        status=Device.Status.PENDING,
        place_until=None,
        knocks__gt=1,
        told_at=None,
        first_seen_at__lte=now - PROVEN_AFTER,
        last_seen_at__gt=now - FORGET_SINGLE_AFTER,
        rental__in=Rental.objects.entitled(now),
        rental__user__is_active=True,
    )
    # Left out here already: they may be so many that nobody else would have his turn.
    waiting = waiting.exclude(rental__device_policy__told_at__gt=now - TELL_PAUSE)
    by_rental: dict[int, list[Device]] = {}
    for device in waiting.order_by("pk")[:TELL_AT_ONCE]:
        by_rental.setdefault(device.rental_id, []).append(device)
    return sum(_tell(rental_pk, devices, now) for rental_pk, devices in by_rental.items())


@transaction.atomic
def _tell(rental_pk: int, devices: list[Device], now: datetime) -> bool:
    rental = lock_rental(rental_pk)
    proven = [device for device in devices if _has_stayed(device, now)]
    policy = DevicePolicy.objects.filter(rental=rental).first()
    if not proven or (policy and policy.told_at and policy.told_at > now - TELL_PAUSE):
        return False
    if not rental.is_entitled(now):
        return False
    DevicePolicy.objects.update_or_create(
        rental=rental,
        defaults={"told_at": now},
        create_defaults={"told_at": now, "enrol_until": rental.created_at + DevicePolicy.ENROL_FOR},
    )
    Device.objects.filter(pk__in=[device.pk for device in proven]).update(told_at=now)
    with translation.override(rental.user.language):
        relays = relay_names(rental)
    notify(
        user=rental.user,
        kind="device_waiting",
        key=f"device_waiting:{proven[-1].pk}",
        context={
            "devices": [
                {
                    "key": device.node_key[:8],
                    "ip": device.last_ip or "",
                    "place": device.last_place,
                    "relay": relays.get(device.last_relay_id or 0, ""),
                    "at": f"{timezone.localtime(device.last_seen_at):%Y-%m-%d %H:%M}",
                }
                for device in proven[:MOST_WAITING]
            ],
            "url": f"{settings.PUBLIC_URL}{reverse('acl:device-list')}",
        },
    )
    return True
