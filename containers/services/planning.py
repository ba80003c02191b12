"""Planning: what relays a customer should have, written down as rows; `containers.jobs` makes it so."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TypeVar

from django.db import IntegrityError, transaction
from django.utils import timezone

from containers.decisions import BringBack, Create, GiveUp, Plan, decide
from containers.models import Relay
from containers.services.ground import Ground, read_state
from containers.services.relays import bring_back, create_relay, give_up
from derpmgmt.lib.prepared import Prepared
from serials.rentals.models import Rental
from serials.rentals.services import record_plan

# A banned person's rental is looked at so often, in case the bell of the end of it was lost.
BARRED_AGAIN = timedelta(minutes=1)
_TRIES = 5
_Made = TypeVar("_Made")


def plan_relays(*, rental_pk: int, now: datetime | None = None) -> None:
    """Make the rows say what the rental's customer should have (`containers.decisions.decide`), and ring for the changes.

    May run at any time and twice.
    """
    moment = now or timezone.now()
    write_planned(lambda: _plan(rental_pk, moment))


def write_planned(work: Callable[[], _Made]) -> _Made:
    """Do `work` in a transaction; anew when another plan took the same port between its look and its insert."""
    for _ in range(_TRIES - 1):
        try:
            with transaction.atomic():
                return work()
        except IntegrityError:
            continue
    with transaction.atomic():
        return work()


def _plan(rental_pk: int, now: datetime) -> None:
    rental = Rental.objects.select_for_update().get(pk=rental_pk)
    if rental.closed_at is not None:
        # A note may name the person.
        rental.relays.exclude(cap_note="").update(cap_note="")
    state, ground = read_state(rental, now)
    plan = decide(state)
    is_settled = _write(rental, plan, ground, now)
    # Whoever is banned may be let in again, which no time of their rental tells.
    is_barred = rental.user.banned_at is not None
    again_at = now + BARRED_AGAIN if is_barred else None
    record_plan(rental=rental, is_settled=is_settled, again_at=again_at, now=now)


def _write(rental: Rental, plan: Plan, ground: Ground, now: datetime) -> bool:
    """Write down what was decided; whether nothing is missing then."""
    is_settled = plan.is_settled
    for action in plan.actions:
        match action:
            case GiveUp():
                give_up(ground.relays[action.relay], returns=action.returns)
            case BringBack():
                is_settled &= bring_back(ground.relays[action.relay])
            case Create():
                create_planned(rental, action, ground, now)
    return is_settled


def create_planned(rental: Rental, action: Create, ground: Ground, now: datetime) -> Relay:
    """Make the row of a relay that was decided on."""
    if action.slot is not None:
        # Whoever had the place does not come back to it.
        rental.relays.filter(return_slot=action.slot).update(return_slot=None)
    replaces = ground.relays[action.replaces] if action.replaces is not None else None
    server = ground.servers[action.server]
    derp_port, stun_port = ground.ports[action.server]
    assert derp_port is not None, "decided without room"
    assert stun_port is not None, "decided without room"
    return create_relay(rental, server, (derp_port, stun_port), now, slot=action.slot, replaces=replaces)


_DUE = Prepared(lambda limit, now: Rental.objects.plan_due(now).values("pk")[:limit])
_BARRED = Prepared(
    lambda limit: (
        Relay.objects.wanted()
        .filter(rental__user__banned_at__isnull=False)
        .order_by()
        .values("rental_id")
        .distinct()[:limit]
    )
)


def due_rentals(now: datetime, limit: int = 500) -> list[int]:
    """Rentals whose relays have to be looked at: their rights changed, or a plan could not give them all."""
    due = [row["pk"] for row in _DUE.read(limit, now=now)]
    barred = {row["rental_id"] for row in _BARRED.read(limit)}
    return [*due, *barred.difference(due)]


def put_off(*, rental_pk: int, now: datetime, until: datetime) -> None:
    """A rental could not be planned: others come first, and it again at `until`."""
    Rental.objects.plan_due(now).filter(pk=rental_pk).update(plan_due_at=until)


def rentals_of(user_pk: int) -> list[int]:
    """The rentals of a person who was banned, or is no longer."""
    return list(Rental.objects.filter(user=user_pk).values_list("pk", flat=True))
