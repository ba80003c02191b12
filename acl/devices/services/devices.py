"""A customer's devices: naming them, letting them in, keeping them out."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Coalesce
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation, notify
from acl.devices.models import CUT, Device
from acl.devices.node_keys import NewDevice, clean_name
from acl.devices.services.places import (
    device_limit,
    lets_all_in,
    may_open,
    placed,
    places_left,
    policy_of,
    span_may_open,
)
from acl.devices.sources import check_verify_url
from containers.gate import ALL_BUT, EVERYBODY
from containers.models import Relay
from containers.services import gates
from derpmgmt.lib import queue
from derpmgmt.lib.refusals import Refusal
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental

# How often one person may name devices; each paste is shown before it is confirmed.
PASTE_RATE = "60/10m"
# The windows that a customer may open.
WINDOWS = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=4))
# Strangers that were ignored and are remembered for a customer, so that a list of them has an end.
MOST_IGNORED = 200
# Devices of which one may give its place, in the admin's list.
_MOST_OFFERED = 200
# So long the bell for a cut has, before a sweep looks after it.
BELL_FIRST = timedelta(seconds=10)


class DeviceRefused(Refusal):
    """What somebody asked of their devices is not possible."""


class LimitReached(DeviceRefused):
    """All places are taken."""

    code = "limit_reached"
    sentence = _("The rental allows %(limit)s devices, and all places are taken. Revoke one first.")

    def __str__(self) -> str:
        return super().__str__() if self.values["limit"] else gettext("The rental has ended: renew it first.")


class AccountInactive(DeviceRefused):
    """The account is banned, closed, or being closed."""

    code = "inactive"
    sentence = _("The account is banned or closed.")


class OpeningForbidden(DeviceRefused):
    """What was sold does not allow relays without device checking."""

    code = "opening_forbidden"
    sentence = _("Your rental does not allow device checking to be turned off.")


class NotWaiting(DeviceRefused):
    """Somebody decided about this device meanwhile, or it is gone."""

    code = "not_waiting"
    sentence = _("This device is not waiting any more.")


@dataclass(frozen=True)
class Added:
    """What became of devices that were named: added, known before, and left out because all places are taken, or as revoked."""

    added: tuple[Device, ...] = ()
    known: tuple[Device, ...] = ()
    left_out: tuple[NewDevice, ...] = ()
    revoked: tuple[Device, ...] = ()


# Letting in


@transaction.atomic
def add_devices(
    *, rental: Rental, devices: Iterable[NewDevice], by: User | None, ip: str | None = None
) -> Added:
    """Approve the devices that somebody named, as many as there are places for.

    A revoked one is approved again when it is named alone. A list leaves it out: whoever pastes all of their network does not
    think of it. Raises `AccountInactive`, and `LimitReached` when not one of the new ones has a place.
    """
    rental = _open_rental(rental)
    now = timezone.now()
    devices = list(devices)
    rows = {
        row.node_key: row
        for row in Device.objects.filter(rental=rental, node_key__in=[device.node_key for device in devices])
    }
    left = places_left(rental, now)
    added: list[Device] = []
    known: list[Device] = []
    left_out: list[NewDevice] = []
    revoked: list[Device] = []
    for device in devices:
        row = rows.get(device.node_key) or Device(rental=rental, node_key=device.node_key)
        if row.status == Device.Status.APPROVED:
            if device.name and not row.name:
                row.name = device.name
                row.save(update_fields=["name"])
            known.append(row)
        elif row.status == Device.Status.REVOKED and len(devices) > 1:
            revoked.append(row)
        elif row.is_placed(now) or left:
            left -= not row.is_placed(now)
            row.name = device.name or row.name
            _approve(row, Device.Source.PASTED, now)
            added.append(row)
        else:
            left_out.append(device)
    if left_out and not (added or known or revoked):
        raise LimitReached(limit=device_limit(rental, now))
    if added:
        log_operation(
            by=by, action="device.added", target=", ".join(str(row) for row in added), subject=rental.user, ip=ip,
            node_keys=[row.node_key for row in added][:100], left_out=len(left_out) + len(revoked),
        )  # fmt: skip
        note_changed(rental, now)
    return Added(tuple(added), tuple(known), tuple(left_out), tuple(revoked))


@transaction.atomic
def approve_device(
    *,
    device: Device,
    by: User | None,
    replaces: Device | None = None,
    name: str = "",
    ip: str | None = None,
) -> Device:
    """Let a device in that knocked, or one that was revoked; with `replaces` in the place and under the name of that one.

    `name`, of what can be printed of it, becomes its name; "" leaves the one it has.

    Harmless for one that is approved, whose old self is kept out all the same. Raises `LimitReached`, `AccountInactive`, and
    `NotWaiting` when it, or what it is to replace, is gone.
    """
    rental = _open_rental(device.rental)
    now = timezone.now()
    row = Device.objects.filter(pk=device.pk, rental=rental).first()
    if row is None:
        raise NotWaiting
    is_approved = row.status == Device.Status.APPROVED
    if is_approved and replaces is None:
        return row
    row.name = clean_name(name) or row.name
    if replaces is not None:
        old = Device.objects.filter(pk=replaces.pk, rental=rental).exclude(pk=row.pk).first()
        if is_approved and old is not None and old.status == Device.Status.REVOKED:
            return row
        if old is None or old.status != Device.Status.APPROVED:
            raise NotWaiting
        row.name = row.name or old.name
        _revoke(old, by=by, ip=ip, now=now)
    elif not row.is_placed(now) and not places_left(rental, now):
        raise LimitReached(limit=device_limit(rental, now))
    if is_approved:
        row.save(update_fields=["name"])
    else:
        _approve(row, Device.Source.APPROVED, now)
        log_operation(
            by=by, action="device.approved", target=row, subject=rental.user, ip=ip, node_key=row.node_key,
            replaces=replaces.node_key if replaces else "",
        )  # fmt: skip
    note_changed(rental, now)
    return row


def enrol_device(*, device: Device, now: datetime) -> None:
    """Approve a device by itself that has a place or finds one; call with the rental locked. The customer hears of the last place."""
    _approve(device, Device.Source.ENROLLED, now)
    log_operation(
        by=None, action="device.enrolled", target=device, subject=device.rental.user, ip=device.last_ip,
        node_key=device.node_key,
    )  # fmt: skip
    note_changed(device.rental, now)
    if not places_left(device.rental, now):
        tell_full(device.rental, now)


def tell_full(rental: Rental, now: datetime) -> None:
    """Tell the customer that all places are taken, once a day at most; call within a transaction."""
    notify(
        user=rental.user,
        kind="places_full",
        key=f"places_full:{rental.pk}:{timezone.localdate(now)}",
        context={
            "limit": device_limit(rental, now),
            "url": f"{settings.PUBLIC_URL}{reverse('acl:device-list')}",
        },
    )


@transaction.atomic
def give_place(*, device: Device, to: Device, by: User | None, ip: str | None = None) -> Device:
    """Give the place of an approved device to one that waits or was revoked; the first one stays out and is cut.

    All of it or nothing. Harmless when it is done already. Raises `LimitReached` when there are fewer places than devices without
    them, `AccountInactive`, and `NotWaiting` when one of the two is gone or not what it was.
    """
    rental = _open_rental(device.rental)
    now = timezone.now()
    rows = {row.pk: row for row in Device.objects.filter(pk__in=[device.pk, to.pk], rental=rental)}
    old, new = rows.get(device.pk), rows.get(to.pk)
    if old is None or new is None or old == new:
        raise NotWaiting
    if new.status == Device.Status.APPROVED:
        if old.status == Device.Status.REVOKED:
            return new
        raise NotWaiting
    if old.status != Device.Status.APPROVED:
        raise NotWaiting
    limit = device_limit(rental, now)
    if placed(rental, now).exclude(pk__in=rows).count() >= limit:
        raise LimitReached(limit=limit)
    _revoke(old, by=by, ip=ip, now=now)
    _approve(new, Device.Source.APPROVED, now)
    log_operation(
        by=by, action="device.place_given", target=new, subject=rental.user, ip=ip, node_key=new.node_key,
        replaces=old.node_key,
    )  # fmt: skip
    note_changed(rental, now)
    return new


def replaceable_devices(*, device_pk: int | str, now: datetime) -> list[Device]:
    """Whose place a device that is not approved may be given: those that were not seen for longest first; none while places are left."""
    device = Device.objects.select_related("rental").filter(pk=device_pk).first()
    if device is None or device.status == Device.Status.APPROVED or places_left(device.rental, now):
        return []
    approved = Device.objects.filter(rental=device.rental_id, status=Device.Status.APPROVED)
    return list(
        approved.order_by(Coalesce("last_seen_at", "approved_at", "created_at"), "pk")[:_MOST_OFFERED]
    )


@transaction.atomic
def rename_device(*, device: Device, name: str, by: User | None, ip: str | None = None) -> None:
    """Give a device another name, of what can be printed."""
    name = clean_name(name)
    if Device.objects.filter(pk=device.pk).update(name=name) and name != device.name:
        log_operation(
            by=by, action="device.renamed", target=name, subject=device.rental.user, ip=ip,
            node_key=device.node_key,
        )  # fmt: skip


# Keeping out


@transaction.atomic
def revoke_device(*, device: Device, by: User | None, ip: str | None = None) -> bool:
    """Keep a device out and cut its live connections; False when it is revoked already or gone."""
    rental = lock_rental(device.rental_id)
    row = Device.objects.filter(pk=device.pk, rental=rental).exclude(status=Device.Status.REVOKED).first()
    if row is None:
        return False
    now = timezone.now()
    was_approved = row.status == Device.Status.APPROVED
    if not _revoke(row, by=by, ip=ip, now=now):
        return False
    if was_approved or lets_all_in(rental, now):
        note_changed(rental, now)
    return True


def ignore_device(*, device: Device, by: User | None, ip: str | None = None) -> bool:
    """Keep a device out that waits, and do not ask about it again; False when it waits no longer."""
    with transaction.atomic():
        lock_rental(device.rental_id)
        if not Device.objects.filter(pk=device.pk, status=Device.Status.PENDING).exists():
            return False
        return revoke_device(device=device, by=by, ip=ip)


# Rules for all


@transaction.atomic
def open_window(*, rental: Rental, length: timedelta, by: User | None, ip: str | None = None) -> datetime:
    """Approve new devices by themselves for so long from now; returns until when. Raises `AccountInactive`."""
    rental = _open_rental(rental)
    until = timezone.now() + length
    _set(rental, enrol_until=until)
    log_operation(
        by=by, action="devices.window_opened", target=rental, subject=rental.user, ip=ip,
        minutes=int(length.total_seconds() // 60),
    )  # fmt: skip
    return until


@transaction.atomic
def close_window(*, rental: Rental, by: User | None, ip: str | None = None) -> None:
    """Approve no new device by itself any more; those on trial keep their chance."""
    rental = lock_rental(rental.pk)
    _set(rental, enrol_until=None)
    log_operation(by=by, action="devices.window_closed", target=rental, subject=rental.user, ip=ip)


@transaction.atomic
def set_open(*, rental: Rental, is_open: bool, by: User | None, ip: str | None = None) -> None:
    """Switch device checking off (`is_open`) or on again; whoever is connected then and not approved is cut.

    Raises `AccountInactive` and `OpeningForbidden`.
    """
    rental = _open_rental(rental)
    now = timezone.now()
    if is_open and not may_open(rental, now):
        raise OpeningForbidden
    if policy_of(rental).is_open == is_open:
        return
    _set(rental, is_open=is_open)
    action = "devices.checking_off" if is_open else "devices.checking_on"
    log_operation(by=by, action=action, target=rental, subject=rental.user, ip=ip)
    note_changed(rental, now)
    if not is_open:
        enforce(rental, now)


def set_verify_url(*, rental: Rental, url: str, by: User | None, ip: str | None = None) -> None:
    """Ask the customer's own address about unknown devices; "" for no longer.

    The address is tried first, for some seconds at most. Raises `VerifyUrlRefused` when it does not answer as it should,
    and `AccountInactive`.
    """
    if url:
        check_verify_url(url)
    with transaction.atomic():
        rental = _open_rental(rental)
        _set(rental, verify_url=url, verify_problem="", verify_asked_at=None)
        action = "devices.verify_url_set" if url else "devices.verify_url_removed"
        log_operation(by=by, action=action, target=rental, subject=rental.user, ip=ip)


# The gates' lists


def gate_list(server_pk: int) -> list[tuple[int, str]]:
    """Answer to "gate_list": which device each relay of a server lets in while the panel is away.

    Pairs of relay and node key; where the customer switched checking off, `EVERYBODY` but their revoked devices.
    """
    now = timezone.now()
    relays = (
        Relay.objects.live()
        .filter(server_id=server_pk, rental__in=Rental.objects.with_rights(now))
        .annotate(may_open=span_may_open(now, "rental_id"))
        .values_list("pk", "rental_id", "rental__device_policy__is_open", "may_open")
    )
    checked: dict[int, list[int]] = {}
    unchecked: dict[int, list[int]] = {}
    for relay, rental, is_open, allows in relays:
        (unchecked if is_open and allows else checked).setdefault(rental, []).append(relay)
    entries: list[tuple[int, str]] = [(relay, EVERYBODY) for own in unchecked.values() for relay in own]
    for by_rental, status, sign in (
        (checked, Device.Status.APPROVED, ""),
        (unchecked, Device.Status.REVOKED, ALL_BUT),
    ):
        devices = Device.objects.filter(rental__in=by_rental, status=status)
        for rental, node_key in devices.values_list("rental_id", "node_key"):
            entries += [(relay, f"{sign}{node_key}") for relay in by_rental[rental]]
    return entries


def note_changed(rental: Rental, now: datetime) -> None:
    """Within a transaction: the gates' lists are to follow what changed about the rental's devices."""
    gates.note_list_changed(rental_pk=rental.pk, now=now)


def owe_cut(rental: Rental, now: datetime) -> None:
    """Within a transaction, the rental locked: whoever is connected without a right is to be cut. Nothing rings for it."""
    _set(rental, cut_owed_at=now, **(CUT.cleared | {"cut_after": now + BELL_FIRST}))


def enforce(rental: Rental, now: datetime) -> None:
    """The same, and ring for it. Announces `cut_owed`; a sweep finds it should the bell be lost."""
    owe_cut(rental, now)
    queue.announce("cut_owed", rental.pk)


def _open_rental(rental: Rental) -> Rental:
    rental = lock_rental(rental.pk)
    if rental.closed_at or not rental.user.is_active:
        raise AccountInactive
    return rental


def _approve(row: Device, source: Device.Source, now: datetime) -> None:
    row.status, row.source = Device.Status.APPROVED, source
    row.approved_at, row.revoked_at, row.knocks = now, None, 0
    row.trial_until = row.stayed_at = row.left_at = None
    row.save()


def _revoke(row: Device, *, by: User | None, ip: str | None, now: datetime) -> bool:
    """False when the row is gone: who waits no longer is forgotten without the rental's lock."""
    status = Device.Status.REVOKED
    gone = {"trial_until": None, "stayed_at": None, "left_at": None}
    if not Device.objects.filter(pk=row.pk).update(status=status, revoked_at=now, **gone):
        return False
    row.status, row.revoked_at = status, now
    row.trial_until = row.stayed_at = row.left_at = None
    log_operation(
        by=by, action="device.revoked", target=row, subject=row.rental.user, ip=ip, node_key=row.node_key
    )
    enforce(row.rental, now)
    # Who was approved once is kept out for good; of the others only so many are remembered.
    ignored = Device.objects.filter(rental=row.rental_id, status=status, approved_at=None)
    surplus = list(ignored.order_by("-revoked_at").values_list("pk", flat=True)[MOST_IGNORED:])
    if surplus:
        Device.objects.filter(pk__in=surplus).delete()
    return True


def _set(rental: Rental, **values: Any) -> None:
    policy = policy_of(rental)
    for name, value in values.items():
        setattr(policy, name, value)
    policy.save(update_fields=list(values))
