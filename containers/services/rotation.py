"""Another relay in a place, make before break: a successor takes the place over, and its region ID, while the old relay runs on
for those who have the old map, until nobody needs it."""

from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, Min, OuterRef, Q, QuerySet
from django.utils import timezone

from containers.decisions import decide_successor
from containers.models import RETRY, Relay
from containers.services.ground import CERTIFICATE_RESERVE, read_state
from containers.services.planning import create_planned, write_planned
from containers.services.relays import FIRST_LOOK_AFTER, give_up
from derpmgmt.lib import queue
from serials.rentals.models import Rental

# A retiring relay that devices were still connected to is looked at again after this time.
LOOK_EVERY = timedelta(minutes=10)
# A successor that could not be made is tried again after this time.
ROTATE_AGAIN = timedelta(minutes=10)


def rotate_relay(*, relay: Relay, now: datetime | None = None) -> Relay | None:
    """Plan the successor of a running relay, with a key and a certificate of its own.

    It is made on the same server, on other ports, or where there is no room on another. Once it is proven it takes the
    place over (`relays.record_running`). None when the relay is not running in its place, has a successor, its customer has
    no right to it, or no server has room: ask again later. Announces `relay_to_apply`.
    """
    moment = now or timezone.now()
    return write_planned(lambda: _rotate(relay.pk, moment))


def _rotate(relay_pk: int, now: datetime) -> Relay | None:
    rental_pk = Relay.objects.values_list("rental_id", flat=True).get(pk=relay_pk)
    if rental_pk is None:
        return None
    rental = Rental.objects.select_for_update().get(pk=rental_pk)
    state, ground = read_state(rental, now)
    action = decide_successor(state, relay_pk)
    return create_planned(rental, action, ground, now) if action else None


def due_rotations(now: datetime, limit: int = 50) -> list[Relay]:
    """Running relays whose certificate is near its end and that have no successor yet, the nearest end first.

    Those for which none could be made come again after `ROTATE_AGAIN`, and after all that were not tried yet.
    """
    due = _without_successor(now + CERTIFICATE_RESERVE).filter(RETRY.due(now))
    return list(due.order_by(F("try_after").asc(nulls_first=True), "certificate_ends_at")[:limit])


def waiting_rotations(until: datetime) -> QuerySet[Relay]:
    """Running relays whose certificate ends by then and for which no successor could be made so far."""
    return _without_successor(until).filter(try_after__isnull=False)


def _without_successor(until: datetime) -> QuerySet[Relay]:
    successors = Relay.objects.live().filter(replaces=OuterRef("pk"))
    return Relay.objects.filter(
        ~Exists(successors),
        status=Relay.Status.RUNNING,
        certificate_ends_at__lte=until,
        slot__isnull=False,
        rental__isnull=False,
    )


def record_unrotated(*, relay: Relay, now: datetime) -> None:
    """No successor could be made for a relay: others come first for `ROTATE_AGAIN`."""
    Relay.objects.wanted().filter(pk=relay.pk, status=Relay.Status.RUNNING).update(
        try_after=now + ROTATE_AGAIN
    )


def due_retirements(now: datetime, limit: int = 500) -> list[int]:
    """Retiring relays whose grace is over, that do not run, or that are to be asked whether devices are connected to them.

    Those that had to stay so far do not stand before others.
    """
    is_due = RETRY.due(now) | Q(status=Relay.Status.FAILED)
    return list(
        Relay.objects.retiring()
        .filter(is_due | Q(retiring_since__lte=_grace_began(now)))
        .order_by(F("try_after").asc(nulls_first=True), "retiring_since")
        .values_list("pk", flat=True)[:limit]
    )


def may_go(relay: Relay, now: datetime) -> bool:
    """Whether a retiring relay has stood for as long as it may, whoever uses it.

    It has when its grace is over and a successor runs to which the map leads, or when its own certificate has ended too.
    """
    if relay.retiring_since is None or relay.retiring_since > _grace_began(now):
        return False
    return relay.certificate_ends_at <= now or (bool(_running_successors(relay)) and not _is_mapped(relay))


def may_go_unused(relay: Relay, now: datetime) -> bool:
    """Whether a retiring relay may go before its grace is over if nobody is connected to it.

    Its successor has to run, and the map to lead to it. One that runs itself has stood for long enough for devices to have gone
    over, and its customer has the new way: devices that are merely switched off come back by the way they have.
    """
    successors = _running_successors(relay)
    if not successors or relay.retiring_since is None or _is_mapped(relay):
        return False
    if relay.status == Relay.Status.FAILED:
        return True
    if relay.status != Relay.Status.RUNNING or relay.retiring_since > now - FIRST_LOOK_AFTER:
        return False
    return not successors.isdisjoint(queue.ask("known_relays", relay.rental_id))


def _is_mapped(relay: Relay) -> bool:
    """Whether the map leads to it, because its successor waits for its turn to take the region ID over."""
    return relay.pk in queue.ask("mapped_relays", relay.rental_id)


def _running_successors(relay: Relay) -> set[int]:
    """The relays (pks) that run and came after this one in its place, be it one after the other."""
    running: set[int] = set()
    after = {relay.pk}
    while after:
        states = dict(Relay.objects.filter(replaces__in=after).values_list("pk", "status"))
        running |= {pk for pk, status in states.items() if status == Relay.Status.RUNNING}
        after = set(states)
    return running


def retired_until(*, rental_pk: int, now: datetime) -> datetime | None:
    """When the first of a rental's retiring relays goes at the latest; None when none retires, or its grace is over."""
    retiring = Relay.objects.retiring().filter(rental=rental_pk, retiring_since__gt=_grace_began(now))
    first: datetime | None = retiring.aggregate(first=Min("retiring_since"))["first"]
    return first + timedelta(days=settings.ROTATION_GRACE_DAYS) if first else None


def _grace_began(now: datetime) -> datetime:
    return now - timedelta(days=settings.ROTATION_GRACE_DAYS)


def record_staying(*, relay_pk: int, until: datetime) -> None:
    """A retiring relay is still needed, or it could not be asked: look again at `until`."""
    Relay.objects.retiring().filter(pk=relay_pk, status=Relay.Status.RUNNING).update(try_after=until)


@transaction.atomic
def retire_relay(*, relay: Relay) -> None:
    """Remove a retiring relay from its server."""
    if relay.retiring_since is not None and give_up(relay) and relay.rental_id is not None:
        queue.announce("rental_relays_changed", relay.rental_id)
