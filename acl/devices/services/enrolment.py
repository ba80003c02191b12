"""Devices that knock while a window is open: new ones are let in on trial, and approved by themselves once they have proven to stay.

Clients' own diagnosis (`tailscale debug derp`) knocks with throw-away keys, five times within seconds, and never closes these
connections: they go when its garbage is collected, seen after 31 to 50 s, and after two minutes at the latest (the Go runtime's
longest pause). Such a key never comes again. So a new key takes no place at first. It has one once it was found connected
`STAY_FOR` after its last knock, and is approved `STAY_FOR` after that; or at once when it knocks again `AGAIN_AFTER` its first
knock. Two looks, each by a time that the row keeps: a clock that is set forward spares a key one of them, not both.

Strangers who look for open relays knock as well: few devices are approved by themselves from one address, and only so many are
on trial.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone

from acl.devices.models import Admission, Device
from acl.devices.networks import site_of
from acl.devices.services.devices import enforce, enrol_device
from acl.devices.services.places import device_limit, placed, window_until
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.sweeps import attempt
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental

# How long a device must be connected for a provisional place, and with it for its approval.
STAY_FOR = timedelta(seconds=90)
# A knock so long after the first one is no diagnosis' any more, whose five connections may each take some seconds.
AGAIN_AFTER = timedelta(minutes=2)
# A trial lasts so long when relays do not say whether the device is there.
TRIAL_FOR = timedelta(minutes=5)
# A device that was let in may take so long to be connected.
_CONNECTS_WITHIN = timedelta(seconds=10)
# Devices that are approved by themselves from one network within an hour: so many, and half of the places at most.
ENROLLED_PER_NETWORK = 5
# Devices on trial at the same time, from one network and in all; and those that went and are remembered.
TRIALS_PER_NETWORK = 16
TRIALS_PER_RENTAL = 48
_MOST_REMEMBERED = 50
# Devices that one sweep looks at.
_SETTLED_AT_ONCE = 2000

Reason = Admission.Reason


@dataclass(frozen=True)
class Decision:
    """What a device that knocked is told, and why."""

    is_allowed: bool
    reason: Admission.Reason


def why_not(rental: Rental, now: datetime) -> Admission.Reason | None:
    """Why no device at all is let in by a rental at `now`; None where it has its rights."""
    if not rental.is_entitled(now):
        return Reason.ENDED
    if not rental.user.is_active:
        return Reason.BARRED
    return Reason.USED_UP if rental.stopped_at else None


def knock(*, rental_pk: int, relay_pk: int, node_key: str, ip: str | None) -> Decision:
    """Decide about a device that is not approved, of a rental whose relays check devices.

    While the window is open a new device is let in on trial as long as a place is left. Doubled or simultaneous knocks never give
    out more places than there are.
    """
    with transaction.atomic():
        rental = lock_rental(rental_pk)
        now = timezone.now()
        device = Device.objects.filter(rental=rental, node_key=node_key).first()
        if device is not None and device.status != Device.Status.PENDING:
            is_approved = device.status == Device.Status.APPROVED
            return Decision(is_approved, Reason.APPROVED if is_approved else Reason.REVOKED)
        device = device or Device(rental=rental, node_key=node_key, first_seen_at=now)
        device.rental = rental
        is_on_trial = device.is_on_trial(now)
        if not is_on_trial:
            device.came_from = site_of(ip)
        decision = judge(device=device, rental=rental, now=now)
        if decision.reason == Reason.ENROLLED:
            device.note_seen(now, ip, relay_pk)
            enrol_device(device=device, now=now)
        if decision.reason != Reason.PROVISIONAL:
            return decision
        if not is_on_trial:
            device.trial_until, device.stayed_at = now + TRIAL_FOR, None
        device.left_at = None
        device.note_seen(now, ip, relay_pk)
        device.knocks += 1
        device.save()
        return decision


def judge(*, device: Device, rental: Rental, now: datetime) -> Decision:
    """What a new or waiting device is told that knocks now from the network `device.came_from`; writes nothing.

    Only with the rental locked it is still so a moment later.
    """
    is_on_trial = device.is_on_trial(now)
    if not is_on_trial and window_until(rental) <= now:
        return Decision(False, Reason.UNKNOWN)
    came_again = device.first_seen_at is not None and device.first_seen_at <= now - AGAIN_AFTER
    if came_again and _refusal(device, rental, now) is None:
        return Decision(True, Reason.ENROLLED)
    # Provisional places may be given back: they refuse nobody a trial.
    if not is_on_trial and (
        refusal := _refusal(device, rental, now, is_for_trial=True) or _crowd(device, rental, now)
    ):
        return Decision(False, refusal)
    return Decision(True, Reason.PROVISIONAL)


def _refusal(
    device: Device, rental: Rental, now: datetime, *, is_for_trial: bool = False
) -> Admission.Reason | None:
    """Why a device can have no place now, or None; `is_for_trial` passes over the places that others have provisionally only.

    Call with the rental locked.
    """
    limit = device_limit(rental, now)
    holders = placed(rental, now).exclude(pk=device.pk)
    if is_for_trial:
        holders = holders.filter(status=Device.Status.APPROVED)
    if holders.count() >= limit:
        return Reason.FULL
    if device.is_placed(now):
        return None
    is_lately = Q(source=Device.Source.ENROLLED, approved_at__gt=now - timedelta(hours=1))
    if not is_for_trial:
        is_lately |= Device.provisional(now)
    from_there = Device.objects.filter(is_lately, rental=rental, came_from=device.came_from)
    is_used_up = from_there.exclude(pk=device.pk).count() >= min(ENROLLED_PER_NETWORK, -(-limit // 2))
    return Reason.CROWDED if is_used_up else None


def _crowd(device: Device, rental: Rental, now: datetime) -> Admission.Reason | None:
    """Why a device cannot be let in on trial besides those that are, or None."""
    trials = Device.objects.filter(Device.on_trial(now), rental=rental)
    networks = list(trials.values_list("came_from", flat=True))
    is_crowded = len(networks) >= TRIALS_PER_RENTAL or networks.count(device.came_from) >= TRIALS_PER_NETWORK
    return Reason.CROWDED if is_crowded else None


def proven_at(device: Device) -> datetime:
    """When a device on trial is approved if it stays connected."""
    if device.stayed_at is not None:
        return device.stayed_at + STAY_FOR
    return (device.last_seen_at or device.created_at) + 2 * STAY_FOR


# What becomes of those on trial


def _due(until: datetime, longest: datetime) -> QuerySet[Device]:
    due = Device.objects.filter(status=Device.Status.PENDING, trial_until__isnull=False)
    # The clock was set back where it is longer than a trial.
    due = due.filter(trial_until__lte=until) | due.filter(trial_until__gt=longest)
    return due.order_by("trial_until")[:_SETTLED_AT_ONCE]


_DUE = Prepared(_due)


def due_trials(now: datetime) -> list[Device]:
    """The devices on trial that had time to connect, those whose time is over first."""
    return _DUE.read(until=now + TRIAL_FOR - _CONNECTS_WITHIN, longest=now + TRIAL_FOR)


def settle_trials(*, devices: Collection[Device], is_present: Callable[[Device], bool | None]) -> None:
    """Give places to the devices on trial that have stayed, approve those that have stayed with one, and end the trial of those that went.

    Nobody gets more than there is: who is there and finds no place waits for their customer's word, and is cut. Where the last places
    are provisional they stay on trial until these are decided about.

    `is_present` says whether a device is connected to one of its customer's relays; None = not all of them could be asked. It is
    called outside of transactions.
    """
    for device in devices:
        settle = partial(_settle_trial, device, is_present(device))
        attempt(f"the trial of device {device.pk}", settle)


@transaction.atomic
def _settle_trial(device: Device, is_there: bool | None) -> None:
    rental = lock_rental(device.rental_id)
    now = timezone.now()
    row = Device.objects.filter(pk=device.pk, status=Device.Status.PENDING).first()
    # Who knocked after the relays were asked is looked at the next time.
    if row is None or row.trial_until is None or row.last_seen_at != device.last_seen_at:
        return
    row.rental = rental
    _settle(row, rental, now, is_there)


def _settle(row: Device, rental: Rental, now: datetime, is_there: bool | None) -> None:
    assert row.trial_until is not None
    since = row.last_seen_at or row.created_at
    if since > now or (row.stayed_at or now) > now or row.trial_until > now + TRIAL_FOR:
        # The clock was set back: its time begins anew.
        row.last_seen_at, row.trial_until = now, now + TRIAL_FOR
        row.first_seen_at = min(row.first_seen_at or now, now)
        row.stayed_at = row.stayed_at and now
        row.save()
    elif is_there:
        if (row.stayed_at or since) > now - STAY_FOR:
            return
        is_refused = _refusal(row, rental, now) is not None
        if is_refused and (
            row.trial_until <= now
            or _refusal(row, rental, now, is_for_trial=row.stayed_at is None) is not None
        ):
            _end(row, rental, now, is_there=True)
        elif not is_refused and row.stayed_at is None:
            row.stayed_at, row.trial_until = now, now + TRIAL_FOR
            row.save(update_fields=["stayed_at", "trial_until"])
        elif not is_refused:
            enrol_device(device=row, now=now)
    elif (is_there is False and since <= now - _CONNECTS_WITHIN) or row.trial_until <= now:
        _end(row, rental, now, is_there=is_there)


def _end(row: Device, rental: Rental, now: datetime, *, is_there: bool | None) -> None:
    """End a trial. Who is there waits from now on for their customer's word; who is not is remembered for a while."""
    row.trial_until = row.stayed_at = None
    row.left_at = None if is_there else now
    row.save(update_fields=["trial_until", "stayed_at", "left_at"])
    if is_there is not False:
        enforce(rental, now)
    gone = Device.objects.filter(rental=rental, status=Device.Status.PENDING, left_at__isnull=False)
    surplus = list(gone.order_by("-left_at").values_list("pk", flat=True)[_MOST_REMEMBERED:])
    if surplus:
        Device.objects.filter(pk__in=surplus).delete()
