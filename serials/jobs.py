"""What the queue and the clock ring for about serial numbers and rentals."""

from django.utils import timezone

from serials import reminders, services
from serials.models import Rental
from serials.services import closing


def sweep_rentals() -> None:
    """Record the rentals that have ended."""
    services.sweep_rentals(now=timezone.now())


def expire_serials() -> None:
    """Record the unused serial numbers whose last day is over."""
    services.expire_serials(now=timezone.now())


def close_rental(user_pk: int) -> None:
    """An account is being closed: end its rental."""
    rental = Rental.objects.filter(user=user_pk).first()
    if rental is not None:
        services.close_rental(rental=rental, by=None)


def sweep_closing() -> None:
    """Warn the customers whose accounts will be closed for want of a renewal, and close those whose time is over."""
    closing.sweep_closing(now=timezone.now())


def sweep_reminders() -> None:
    """Remind the customers whose rentals end soon or have ended."""
    reminders.send_reminders(timezone.now())
