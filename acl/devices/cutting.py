"""Cutting off who may not be at a customer's relays any more.

A relay asks about a device only when it connects, so what changes later is made so here. The rows say where a cut is owed
(`DevicePolicy.cut_owed_at`, set in the transaction of the change): it is owed until every relay has answered that nobody is
left who has no right to be there.
"""

import logging
import time
from concurrent.futures import Future
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

from django.db import connection, transaction
from django.utils import timezone

from acl.devices import presence
from acl.devices.models import CUT, Device, DevicePolicy
from acl.devices.services.devices import note_changed, owe_cut
from acl.devices.services.places import admitted, lets_all_in, policy_of
from containers.derp.presence import close_peers
from containers.derp.probe import ProbeTarget
from containers.models import Relay
from containers.services import gates
from derpmgmt.lib.prepared import Prepared
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental

log = logging.getLogger(__name__)

# After this the relays are looked at again: a device that was let in just before the change may have come in just after it.
LOOK_AGAIN_SECONDS = 1.0
# Cuts that a sweep rings for in one go: relays that are silent hold threads up, which others need at once.
_MOST_DUE = 16


# What is owed


def record_loss(rental_pk: int) -> bool:
    """Have everybody cut off the relays of a rental that has lost its rights; False when it has them or that was recorded.

    The gates' lists follow. Nothing rings for the cut: call `cut`.
    """
    rental = Rental.objects.select_related("user").filter(pk=rental_pk).first()
    if rental is None or rental.has_rights(timezone.now()):
        return False
    with transaction.atomic():
        rental = lock_rental(rental_pk)
        now = timezone.now()
        lost_at = _lost_at(rental, now)
        policy = policy_of(rental)
        if lost_at is None or policy.lost_at == lost_at:
            return False
        DevicePolicy.objects.filter(pk=policy.pk).update(lost_at=lost_at)
        owe_cut(rental, now)
        note_changed(rental, now)
    return True


def _lost_at(rental: Rental, now: datetime) -> datetime | None:
    """Since when the rental has no rights; None when it has. Whoever regains them and loses them again has another moment."""
    if rental.has_rights(now):
        return None
    user = rental.user
    moments = [
        rental.paused_at, rental.closed_at, rental.stopped_at,
        user.banned_at, user.closing_at, user.closed_at,
    ]  # fmt: skip
    if rental.runs_until is None or rental.runs_until <= now:
        moments.append(rental.runs_until or rental.created_at)
    return min((moment for moment in moments if moment is not None), default=None)


_WITHOUT_RIGHTS: dict[str, dict[str, Any]] = {
    "shut": {"user__is_active": False, "user__banned_at__isnull": False},
    "ended": {"relays__status": Relay.Status.REMOVING},
    "stopped": {"stopped_at__isnull": False},
}
# Those of one of these kinds whose relays still stand.
_STANDING = Prepared(
    lambda why: (
        Rental.objects.filter(**_WITHOUT_RIGHTS[why])
        .filter(relays__live=1)
        .select_related("user", "device_policy")
    )
)
_DUE = Prepared(
    lambda now: (
        DevicePolicy.objects.filter(cut_after__lte=now, cut_owed_at__isnull=False)
        .order_by("cut_after")
        .values("rental_id")[:_MOST_DUE]
    )
)


def losses(now: datetime) -> list[int]:
    """Rentals whose relays still stand though they have no rights, and for which no cut was recorded."""
    found = {rental.pk: rental for why in _WITHOUT_RIGHTS for rental in _STANDING.read(why)}
    return [pk for pk, rental in found.items() if _is_unrecorded(rental, now)]


def _is_unrecorded(rental: Rental, now: datetime) -> bool:
    lost_at, policy = _lost_at(rental, now), getattr(rental, "device_policy", None)
    return lost_at is not None and (policy is None or policy.lost_at != lost_at)


def due_cuts(now: datetime) -> list[int]:
    """Rentals for which a cut is owed that did not succeed, or whose bell was lost; the longest waiting first."""
    return [row["rental_id"] for row in _DUE.read(now=now)]


# Cutting


def cut(rental_pk: int) -> "Future[None] | None":
    """Close the connections of all who have no right to be at the rental's relays, now and a moment later once more.

    None when no cut is owed. It stays owed when a relay did not answer, or a gate may still let them in by an old list.
    """
    owed_at = _owed_at(rental_pk)
    return presence.start_apart(partial(_cut, rental_pk, owed_at)) if owed_at else None


def _owed_at(rental_pk: int) -> datetime | None:
    return DevicePolicy.objects.filter(rental=rental_pk).values_list("cut_owed_at", flat=True).first()


def _cut(rental_pk: int, owed_at: datetime) -> None:
    try:
        is_settled = _look_twice(rental_pk)
    except Exception:
        log.exception("the cut of rental %s", rental_pk)
        is_settled = False
    # Only what was owed when it began: a change that came meanwhile has another moment, and a cut of its own.
    owed = DevicePolicy.objects.filter(rental=rental_pk, cut_owed_at=owed_at)
    if is_settled:
        owed.update(cut_owed_at=None, **CUT.cleared)
    else:
        for failures in owed.values_list("cut_failures", flat=True):
            owed.update(**CUT.failed(failures, timezone.now()))


def _look_twice(rental_pk: int) -> bool:
    """Close the connections of those who have no right now, and of those who came in just then; False when some may be left."""
    _look(rental_pk)
    time.sleep(LOOK_AGAIN_SECONDS)
    # Asked before the second look, which so finds whoever came in by an old list.
    is_settled = not _has_late_list(rental_pk)
    return _look(rental_pk) and is_settled


def _look(rental_pk: int) -> bool:
    """Close the connections of those who have no right now; False when a relay did not answer."""
    rule = _rule(rental_pk)
    if rule == _Rule(True, frozenset()):
        return True
    relays = presence.standing(rental_pk)
    answers = presence.ask_each(relays, partial(_close, rental_pk=rental_pk, rule=rule))
    for relay, closed in answers.items():
        if closed is None:
            log.info("relay %s cannot be asked to close connections", relay)
        elif closed:
            log.info("relay %s: closed the connections of %s devices", relay, closed)
    return not presence.silent_ones(relays, answers)


class _Rule(NamedTuple):
    """Who may be at a rental's relays: everybody but the devices that are named, or nobody but these."""

    is_for_all: bool
    named: frozenset[str]

    def shuts_out(self, node_key: str) -> bool:
        return (node_key in self.named) == self.is_for_all


def _close(target: ProbeTarget, *, rental_pk: int, rule: _Rule) -> int:
    """Close at one relay, in a thread of its own, whom `rule` shuts out. After the relay has named a client the rows are asked
    once more: who was let in meanwhile by a new right is not cut by what was said before it."""

    def is_unwelcome(node_key: str) -> bool:
        return rule.shuts_out(node_key) and _rule(rental_pk).shuts_out(node_key)

    try:
        return close_peers(target, is_unwelcome, timeout=presence.RELAY_SECONDS)
    finally:
        connection.close()


def _rule(rental_pk: int) -> _Rule:
    """What the rows say now; nobody may be at the relays of a rental that is gone or has lost its rights."""
    rental = Rental.objects.select_related("user").filter(pk=rental_pk).first()
    now = timezone.now()
    if rental is None or not rental.has_rights(now):
        return _Rule(False, frozenset())
    is_for_all = lets_all_in(rental, now)
    revoked = Device.objects.filter(rental=rental, status=Device.Status.REVOKED)
    named = (revoked if is_for_all else admitted(rental, now)).values_list("node_key", flat=True)
    return _Rule(is_for_all, frozenset(named))


def _has_late_list(rental_pk: int) -> bool:
    """Whether a gate of the rental's relays has not got the newest list yet."""
    servers = Relay.objects.live().filter(rental=rental_pk).values("server_id")
    return gates.late_gates().filter(server__in=servers, running_since__isnull=False).exists()
