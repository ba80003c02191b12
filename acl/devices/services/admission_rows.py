"""Writing down who asked to be let in, in batches, so that writing never holds an answer up."""

import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime, timedelta
from itertools import chain

from django.db import DatabaseError, connection, transaction
from django.db.models import Count, Max, Min, QuerySet
from django.utils import timezone

from acl.devices.models import Admission, Device
from acl.devices.services.devices import tell_full
from acl.devices.services.pace import Asked, Pace
from acl.devices.services.waiting_devices import MOST_WAITING
from derpmgmt.lib.places import place_of
from serials.rentals.models import Rental

log = logging.getLogger(__name__)

# So long admissions are kept, and so many of them, of one rental and in all (some 700 MB); this many are deleted at a time.
KEEP_FOR = timedelta(days=30)
MOST_OF_RENTAL = 20_000
MOST_IN_ALL = 2_000_000
_DELETE_AT_ONCE = 5000
# Rentals of which rows were written within this time may have too many; of so many at a time, those with the most first.
_LATELY = timedelta(minutes=5)
_RENTALS_AT_ONCE = 100
# Instead of a node key in the row that counts those of a minute.
COUNTED = ""
_pace = Pace()
# Whoever is refused for one of these waits for their customer's word.
_TO_WAIT = {Admission.Reason.UNKNOWN, Admission.Reason.FULL, Admission.Reason.CROWDED}
_INSERT = """
INSERT INTO acl_admission (relay_id, rental_id, node_key, is_allowed, reason, ip, place, map_version, count, at)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
# The row that counts a minute's questions is found by the index over rental and time.
_COUNT = """
UPDATE acl_admission SET count = count + %s, relay_id = %s
WHERE rental_id = %s AND at = %s AND is_allowed = %s AND reason = %s AND COALESCE(ip, '') = %s AND node_key = ''
"""
_VERSIONS = """
SELECT rental.id, config.version
FROM serials_rental rental
LEFT JOIN acl_aclconfig config ON config.rental_id = rental.id AND config.is_active
WHERE rental.closed_at IS NULL AND rental.id IN ({rentals})
"""
_UPDATE_SEEN = """
UPDATE acl_device
SET first_seen_at = COALESCE(first_seen_at, %s), last_seen_at = %s, last_ip = %s, last_place = %s, last_relay_id = %s
WHERE rental_id = %s AND node_key = %s AND (last_seen_at IS NULL OR last_seen_at <= %s)
AND EXISTS (SELECT 1 FROM serials_rental rental WHERE rental.id = acl_device.rental_id AND rental.closed_at IS NULL)
"""


def record_admissions(asked: Collection[Asked]) -> None:
    """Write questions and answers down, and who waits for their customer's word since then: all of it or nothing.

    What strangers ask beyond some rows is counted into a row a minute (`acl/devices/services/pace.py`). Of a closed rental, whose relays go
    on asking until they are gone, nothing is written.
    """
    at = connection.ops.adapt_datetimefield_value
    rows, counts, lost = _pace.sort(asked)
    if lost:
        log.warning("%d admissions were answered but not written down: too many knock", lost)
    waiting = [one for one in asked if one.reason in _TO_WAIT]
    versions = _versions({one.rental for one in chain(rows, waiting)} | {one.rental for one in counts})
    rows = [one for one in rows if one.rental in versions]
    counts = [one for one in counts if one.rental in versions]
    waiting = [one for one in waiting if one.rental in versions]
    with transaction.atomic(), connection.cursor() as cursor:
        for one in counts:
            where = (one.rental, at(one.at), one.is_allowed, one.reason, one.ip or "")
            cursor.execute(_COUNT, (one.count, one.relay, *where))
            if not cursor.rowcount:
                rows.append(
                    Asked(
                        one.relay, one.rental, COUNTED, one.ip, one.is_allowed, one.reason, one.at, one.count
                    )
                )
        # Not by the model: it would cost six times as much, and there may be thousands a second.
        cursor.executemany(
            _INSERT,
            [
                (one.relay, one.rental, one.node_key, one.is_allowed, one.reason, one.ip, place_of(one.ip), versions[one.rental], one.count, at(one.at))
                for one in rows
            ],
        )  # fmt: skip
        _note_waiting(waiting)
    full = {one.rental for one in waiting if one.reason == Admission.Reason.FULL}
    if not full:
        return
    for rental in Rental.objects.select_related("user").filter(pk__in=full, user__is_active=True):
        _tell_full(rental)


def _versions(rentals: Collection[int]) -> dict[int, int | None]:
    """The number of the map that is active, None without one, of each of these rentals that is not closed."""
    if not rentals:
        return {}
    # Not by the models: under load it would cost as much as all else that is done here.
    with connection.cursor() as cursor:
        cursor.execute(_VERSIONS.format(rentals=", ".join(["%s"] * len(rentals))), [*rentals])
        return dict(cursor.fetchall())


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
    """Delete what is older than it is kept, and the oldest where there are too many; returns how many, some thousand at most."""
    old = Admission.objects.filter(at__lt=now - KEEP_FOR).order_by("at")
    return _delete(old, _DELETE_AT_ONCE) or _forget_surplus_of_rentals(now) or _forget_surplus()


def _forget_surplus_of_rentals(now: datetime) -> int:
    lately = Admission.objects.filter(at__gt=now - _LATELY).order_by().values("rental")
    busiest = lately.annotate(rows=Count("pk")).order_by("-rows").values_list("rental", flat=True)
    gone = 0
    for rental in busiest[:_RENTALS_AT_ONCE]:
        newest = Admission.objects.filter(rental=rental).order_by("-at")
        edge = newest.values_list("at", flat=True)[MOST_OF_RENTAL : MOST_OF_RENTAL + 1].first()
        if edge is not None:
            gone += _delete(
                Admission.objects.filter(rental=rental, at__lte=edge).order_by("at"), _DELETE_AT_ONCE
            )
        if gone >= _DELETE_AT_ONCE:
            break
    return gone


def _forget_surplus() -> int:
    ends = Admission.objects.aggregate(first=Min("pk"), last=Max("pk"))
    # To count them all takes long, and is needed only where there may be too many.
    if ends["last"] is None or ends["last"] - ends["first"] < MOST_IN_ALL:
        return 0
    surplus = Admission.objects.count() - MOST_IN_ALL
    return _delete(Admission.objects.order_by("at"), min(surplus, 4 * _DELETE_AT_ONCE)) if surplus > 0 else 0


def _delete(rows: QuerySet[Admission], most: int) -> int:
    pks = list(rows.values_list("pk", flat=True)[:most])
    return sum(
        Admission.objects.filter(pk__in=pks[at : at + _DELETE_AT_ONCE]).delete()[0]
        for at in range(0, len(pks), _DELETE_AT_ONCE)
    )
