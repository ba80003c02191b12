"""Having the rows say what customers should have."""

from collections.abc import Sequence
from datetime import datetime

from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.sweeps import try_row
from accounts.works import Work, declare
from containers.services import planning, relay_certificates
from serials.rentals.models import Rental
from serials.rentals.services import PLAN_AGAIN


def plan_rental(rental_pk: int) -> None:
    """Make the rows say what the customer should have."""
    _plan(rental_pk)


def plan_customer(user_pk: int) -> None:
    """Somebody was banned, or is no longer: their relays go, or come back."""
    for rental_pk in planning.rentals_of(user_pk):
        _plan(rental_pk)


def plan_waiting(server_pk: int) -> None:
    """A server became usable: plan those who wait for one."""
    for rental_pk in planning.due_rentals(timezone.now() + PLAN_AGAIN):
        _plan(rental_pk)


def _plan(rental_pk: int) -> None:
    """One that cannot be planned is put off, and does not stand before the others."""
    now = timezone.now()
    if later := try_row(PLANNING, rental_pk, now=now):
        planning.put_off(rental_pk=rental_pk, now=now, until=later)


def _plan_all(pks: Sequence[int], _now: datetime) -> int:
    for pk in pks:
        planning.plan_relays(rental_pk=pk)
    return len(pks)


PLANNING = declare(
    Work(
        name="the plans of rentals",
        title=_("Planning of relays"),
        model=Rental,
        whose="user__email",
        # Whether its moment has come or not: it is put off by that moment.
        due=lambda _now: Rental.objects.filter(
            Q(plan_due_at__isnull=False) | Q(user__banned_at__isnull=False)
        ),
        do=_plan_all,
    )
)


def follow_server(server_pk: int) -> None:
    """A server's public address, or the one on the machine, is another."""
    relay_certificates.follow_server(server_pk=server_pk, now=timezone.now())
