"""Writing down who asked to be let in, in batches, so that writing never holds an answer up."""

from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError, connection, transaction
from django.utils import timezone

from acl.models import AclConfig, Admission, Device
from acl.services.devices import tell_full
from acl.services.waiting import MOST_WAITING
from derpmgmt.lib.places import place_of
from serials.models import Rental

# So long admissions are kept; this many are deleted at a time.
KEEP_FOR = timedelta(days=30)
_DELETE_AT_ONCE = 5000
# Whoever is refused for one of these waits for his customer's word.
_TO_WAIT = {Admission.Reason.UNKNOWN, Admission.Reason.FULL, Admission.Reason.CROWDED}
_INSERT = """
INSERT INTO acl_admission (relay_id, rental_id, node_key, is_allowed, reason, ip, place, map_version, count, at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_UPDATE_SEEN = """
UPDATE acl_device
SET first_seen_at = COALESCE(first_seen_at, %s), last_seen_at = %s, last_ip = %s, last_place = %s, last_relay_id = %s
WHERE rental_id = %s AND node_key = %s AND (last_seen_at IS NULL OR last_seen_at <= %s)
AND EXISTS (SELECT 1 FROM serials_rental rental WHERE rental.id = acl_device.rental_id AND rental.closed_at IS NULL)
"""


@dataclass(frozen=True)
class Asked:
    """A question of a relay and the answer it got, as often as the same came within a moment."""

    relay: int
    rental: int
    node_key: str
    ip: str | None
    is_allowed: bool
    reason: str
    at: datetime
    count: int = 1


def record_admissions(asked: Collection[Asked]) -> None:
    """Write questions and answers down, and who waits for his customer's word since then: all of it or nothing.

    Of a closed rental, whose relays go on asking until they are gone, nothing is written.
    """
    rentals = Rental.objects.filter(pk__in={one.rental for one in asked}, closed_at=None)
    is_open = set(rentals.values_list("pk", flat=True))
    asked = [one for one in asked if one.rental in is_open]
    active = AclConfig.objects.filter(rental__in={one.rental for one in asked}, is_active=True)
    versions = dict(active.values_list("rental_id", "version"))
    at = connection.ops.adapt_datetimefield_value
    with transaction.atomic(), connection.cursor() as cursor:
        # Not by the model: it would cost six times as much, and there may be thousands a second.
        cursor.executemany(
            _INSERT,
            [
                (one.relay, one.rental, one.node_key, one.is_allowed, one.reason, one.ip, place_of(one.ip), versions.get(one.rental), one.count, at(one.at))
                for one in asked
            ],
        )  # fmt: skip
        _note_waiting(one for one in asked if one.reason in _TO_WAIT)
    full = {one.rental for one in asked if one.reason == Admission.Reason.FULL}
    for rental in Rental.objects.select_related("user").filter(pk__in=full, user__is_active=True):
        _tell_full(rental)


def _tell_full(rental: Rental) -> None:
    """What cannot be told now is told with the next one that finds no place."""
    with suppress(DatabaseError), transaction.atomic():
        tell_full(rental, timezone.now())


def record_seen(asked: Iterable[Asked]) -> None:
    """Write down when, from where and at which relay devices were seen last; nothing of closed rentals."""
    at = connection.ops.adapt_datetimefield_value
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.executemany(
            _UPDATE_SEEN,
            [
                (at(one.at), at(one.at), one.ip, place_of(one.ip), one.relay, one.rental, one.node_key, at(one.at))
                for one in asked
            ],
        )  # fmt: skip


def _note_waiting(asked: Iterable[Asked]) -> None:
    """Have the devices that were refused wait for their customer's word; only so many of one customer."""
    by_rental: dict[int, dict[str, list[Asked]]] = {}
    for one in asked:
        by_rental.setdefault(one.rental, {}).setdefault(one.node_key, []).append(one)
    for rental, by_key in by_rental.items():
        known = Device.objects.filter(rental=rental, node_key__in=by_key).in_bulk(field_name="pk")
        rows = {row.node_key: row for row in known.values()}
        new = []
        for node_key, times in list(by_key.items())[-MOST_WAITING:]:
            row, last = rows.get(node_key), max(times, key=lambda one: one.at)
            knocks = sum(one.count for one in times)
            if row is None:
                new.append(
                    Device(
                        rental_id=rental, node_key=node_key, knocks=knocks, first_seen_at=times[0].at,
                        last_seen_at=last.at, last_ip=last.ip, last_place=place_of(last.ip), last_relay_id=last.relay,
                    )
                )  # fmt: skip
            elif row.status == Device.Status.PENDING:
                Device.objects.filter(pk=row.pk, status=Device.Status.PENDING).update(
                    knocks=row.knocks + knocks,
                    left_at=None,
                    last_seen_at=last.at,
                    last_ip=last.ip,
                    last_place=place_of(last.ip),
                    last_relay_id=last.relay,
                )
        if new:
            Device.objects.bulk_create(new, ignore_conflicts=True)
            _bound_waiting(rental)


def _bound_waiting(rental: int) -> None:
    waiting = Device.objects.filter(
        rental=rental, status=Device.Status.PENDING, trial_until=None, left_at=None
    )
    # Whoever tries again is likelier a device of the customer's than whoever knocked once.
    ranked = sorted(
        waiting.values_list("pk", "knocks", "last_seen_at"),
        key=lambda row: (row[1] > 1, row[2]),
        reverse=True,
    )
    surplus = [pk for pk, _knocks, _seen in ranked[MOST_WAITING:]]
    if surplus:
        Device.objects.filter(
            pk__in=surplus, status=Device.Status.PENDING, trial_until=None, left_at=None
        ).delete()


def forget_admissions(now: datetime) -> int:
    """Delete what is older than it is kept; returns how many, at most `_DELETE_AT_ONCE`."""
    old = Admission.objects.filter(at__lt=now - KEEP_FOR).order_by("at").values_list("pk", flat=True)
    return Admission.objects.filter(pk__in=list(old[:_DELETE_AT_ONCE])).delete()[0]
