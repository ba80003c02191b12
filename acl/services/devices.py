"""A customer's devices: naming them, letting them in, keeping them out."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import OuterRef, Q, QuerySet, Subquery
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation
from acl.models import Device, DevicePolicy
from acl.node_keys import NewDevice, clean_name
from acl.sources import check_verify_url
from containers.gate import ALL_BUT, EVERYBODY
from containers.models import Relay
from containers.services import gates
from derpmgmt.lib import queue
from serials.models import Rental, RentalSpan
from serials.services import current_span, lock_rental
from serials.services.refusals import Refusal

# The windows that a customer may open.
WINDOWS = (timedelta(minutes=10), timedelta(hours=1), timedelta(hours=24))
# Strangers that were ignored and are remembered for a customer, so that a list of them has an end.
MOST_IGNORED = 200
# So long the bell for a cut has, before a sweep looks after it.
BELL_FIRST = timedelta(seconds=10)


class DeviceRefused(Refusal):
    """What somebody asked of his devices is not possible."""


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
    sentence = _("Your rental does not allow device checking to be switched off.")


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


# What holds


def device_limit(rental: Rental, now: datetime) -> int:
    """How many devices the rental allows now; 0 when it has no time."""
    span = current_span(rental, now)
    return span.device_limit if span else 0


def placed(rental: Rental, now: datetime) -> QuerySet[Device]:
    """The devices that have a place: approved, or new ones on trial."""
    has_place = Q(status=Device.Status.APPROVED) | Q(status=Device.Status.PENDING, place_until__gt=now)
    return Device.objects.filter(has_place, rental=rental)


def places_left(rental: Rental, now: datetime) -> int:
    """How many more devices the rental has a place for."""
    return max(device_limit(rental, now) - placed(rental, now).count(), 0)


def window_until(rental: Rental, policy: DevicePolicy | None = None) -> datetime:
    """Until when new devices are approved by themselves; may be past. `policy` saves a query to whoever has it.

    Without a decision of the customer's it is a day from the first activation.
    """
    if policy is None:
        policy = DevicePolicy.objects.filter(rental=rental).first()
    if policy is None:
        return rental.created_at + DevicePolicy.ENROL_FOR
    return policy.enrol_until or rental.created_at


def may_open(rental: Rental, now: datetime) -> bool:
    """Whether what was sold allows device checking to be switched off."""
    span = current_span(rental, now)
    return span is not None and span.may_open


def span_may_open(now: datetime, rental: str = "pk") -> Subquery:
    """An annotation, `may_open` of a rental that has rights: the span that began last rules it, also in the grace.

    `rental` leads from the annotated rows to the rental's primary key.
    """
    ruling = RentalSpan.objects.filter(rental=OuterRef(rental), starts_at__lte=now).order_by("-starts_at")
    return Subquery(ruling.values("may_open")[:1])


def lets_all_in(rental: Rental, now: datetime) -> bool:
    """Whether devices are not checked: the customer has switched it off, and what was sold allows that now."""
    return DevicePolicy.objects.filter(rental=rental, is_open=True).exists() and may_open(rental, now)


def policy_of(rental: Rental) -> DevicePolicy:
    """The row of the customer's decisions, made with a new rental's defaults; call with the rental locked."""
    defaults = {"enrol_until": rental.created_at + DevicePolicy.ENROL_FOR}
    policy, _made = DevicePolicy.objects.get_or_create(rental=rental, defaults=defaults)
    return policy


def old_self(device: Device, approved: Iterable[Device], present: Collection[str] | None) -> Device | None:
    """Which approved device a waiting one looks like after a new login, which gives a device another key; None = none.

    One of the same name or at the same address that is not connected (`present`: node keys; None = not known, so none is
    guessed) and was not seen any more once the new key had knocked. The same name counts more, then who was seen last.
    """
    if present is None:
        return None
    since = device.first_seen_at or device.created_at
    alike = [
        other
        for other in approved
        if other.node_key not in present
        and (other.last_seen_at is None or other.last_seen_at <= since)
        and (_is_named_alike(device, other) or (device.last_ip and device.last_ip == other.last_ip))
    ]
    return max(
        alike,
        key=lambda other: (_is_named_alike(device, other), other.last_seen_at or other.created_at),
        default=None,
    )


def _is_named_alike(device: Device, other: Device) -> bool:
    return bool(device.name) and device.name.casefold() == other.name.casefold()


# Letting in


@transaction.atomic
def add_devices(
    *, rental: Rental, devices: Iterable[NewDevice], by: User | None, ip: str | None = None
) -> Added:
    """Approve the devices that somebody named, as many as there are places for.

    A revoked one is approved again when it is named alone. A list leaves it out: whoever pastes all of his network does not
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
        elif _has_place(row, now) or left:
            left -= not _has_place(row, now)
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
    *, device: Device, by: User | None, replaces: Device | None = None, ip: str | None = None
) -> Device:
    """Let a device in that knocked, or one that was revoked; with `replaces` in the place and under the name of that one.

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
    if replaces is not None:
        old = Device.objects.filter(pk=replaces.pk, rental=rental).exclude(pk=row.pk).first()
        if is_approved and old is not None and old.status == Device.Status.REVOKED:
            return row
        if old is None or old.status != Device.Status.APPROVED:
            raise NotWaiting
        row.name = row.name or old.name
        _revoke(old, by=by, ip=ip, now=now)
    elif not _has_place(row, now) and not places_left(rental, now):
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


def approve_placed(*, device: Device, now: datetime) -> None:
    """Turn the provisional place of a device into an approval; call with the rental locked."""
    _approve(device, Device.Source.ENROLLED, now)
    log_operation(
        by=None, action="device.enrolled", target=device, subject=device.rental.user, ip=device.last_ip,
        node_key=device.node_key,
    )  # fmt: skip
    note_changed(device.rental, now)


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

    Pairs of relay and node key; where the customer switched checking off, `EVERYBODY` but his revoked devices.
    """
    now = timezone.now()
    relays = (
        Relay.objects.live()
        .filter(server_id=server_pk, rental__in=Rental.objects.entitled(now), rental__user__is_active=True)
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
    _set(rental, cut_owed_at=now, cut_after=now + BELL_FIRST)


def enforce(rental: Rental, now: datetime) -> None:
    """The same, and ring for it. Announces `cut_owed`; a sweep finds it should the bell be lost."""
    owe_cut(rental, now)
    queue.announce("cut_owed", rental.pk)


def _open_rental(rental: Rental) -> Rental:
    rental = lock_rental(rental.pk)
    if rental.closed_at or not rental.user.is_active:
        raise AccountInactive
    return rental


def _has_place(row: Device, now: datetime) -> bool:
    return row.status == Device.Status.PENDING and row.place_until is not None and row.place_until > now


def _approve(row: Device, source: Device.Source, now: datetime) -> None:
    row.status, row.source = Device.Status.APPROVED, source
    row.approved_at, row.revoked_at, row.place_until, row.knocks = now, None, None, 0
    row.save()


def _revoke(row: Device, *, by: User | None, ip: str | None, now: datetime) -> bool:
    """False when the row is gone: who waits no longer is forgotten without the rental's lock."""
    status = Device.Status.REVOKED
    if not Device.objects.filter(pk=row.pk).update(status=status, revoked_at=now, place_until=None):
        return False
    row.status, row.revoked_at, row.place_until = status, now, None
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
