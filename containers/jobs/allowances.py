"""Judging how much of their traffic customers have used."""

from functools import partial

from django.utils import timezone

from containers.services import allowances, server_allowances
from derpmgmt.lib.sweeps import attempt


def judge_rental(rental_pk: int) -> None:
    """What a customer bought, or what was said about their limits, is another."""
    allowances.judge_rental(rental_pk=rental_pk, now=timezone.now())


def judge_rentals() -> None:
    """Write down what follows from what flowed since the last time, and from months that began."""
    now = timezone.now()
    for rental_pk in allowances.unrecorded(now):
        attempt(
            f"the allowance of rental {rental_pk}",
            partial(allowances.judge_rental, rental_pk=rental_pk, now=now),
        )


def judge_server(_server_pk: int) -> None:
    """What may flow on a server is another; all are judged by the same few queries."""
    judge_servers()


def judge_servers() -> None:
    """See how long servers' traffic of the month lasts, and stop relays where it does not."""
    server_allowances.judge_servers(timezone.now())
