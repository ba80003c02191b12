"""Having the rows say what customers should have."""

from functools import partial

from django.utils import timezone

from containers.services import planning, relay_certificates
from derpmgmt.lib.sweeps import attempt
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
    """One that cannot be planned is logged, and does not stand before the others."""
    plan = partial(planning.plan_relays, rental_pk=rental_pk)
    if not attempt(f"the plan of rental {rental_pk}", plan):
        planning.put_off(rental_pk=rental_pk, now=timezone.now())


def follow_server(server_pk: int) -> None:
    """A server's public address, or the one on the machine, is another."""
    relay_certificates.follow_server(server_pk=server_pk, now=timezone.now())
