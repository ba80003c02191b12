"""What the queue and the clock ring for about rentals."""

from django.utils import timezone

from derpmgmt.lib import queue
from serials.rentals import reminders, services
from serials.rentals.models import Rental
from serials.rentals.services import automatic_closing


@queue.on_queue("admission")
def sweep_rentals() -> None:
    """Record the rentals that have ended."""
    services.sweep_rentals(now=timezone.now())


def close_rental(user_pk: int) -> None:
    """An account is being closed: end its rental."""
    rental = Rental.objects.filter(user=user_pk).first()
    if rental is not None:
        services.close_rental(rental=rental, by=None)


def sweep_closing() -> None:
    """Warn the customers whose accounts will be closed for want of a renewal, and close those whose time is over."""
    automatic_closing.sweep_closing(now=timezone.now())


def sweep_reminders() -> None:
    """Remind the customers whose rentals end soon or have ended."""
    reminders.send_reminders(timezone.now())


TICKS = [
    # An end is to be felt within two seconds, so nothing slow may stand before it in its queue.
    queue.every(1, sweep_rentals),
    queue.every(30, sweep_reminders),
    queue.every(600, sweep_closing),
]
