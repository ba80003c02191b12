"""What waited while nothing ran for days: it is sent when it is still true, told anew when it must be, and else dropped."""

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.utils import timezone

from accounts import jobs as notices
from accounts.models import Notice, User
from accounts.services import ban_user, unban_user
from serials.rentals import jobs
from serials.rentals.models import Rental
from tests.factories import RedeemedRentalFactory

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
# Noon in Shanghai, so that no day ends while a test looks.
START = datetime.fromisoformat("2026-03-02T12:00:00+08:00")


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(START, tick=False) as travel:
        yield travel


@pytest.fixture
def rental(customer: User, clock: Any) -> Rental:
    """Thirty days from `START` on."""
    User.objects.update(language="en")
    rental = RedeemedRentalFactory(user=customer)
    send()
    mail.outbox.clear()
    return rental


def send() -> None:
    """What waits to be sent, each bell twice."""
    for pk in Notice.objects.due(timezone.now()).values_list("pk", flat=True):
        notices.send_notice(pk)
        notices.send_notice(pk)


def sweep() -> None:
    for job in (jobs.sweep_rentals, jobs.sweep_reminders, jobs.sweep_closing):
        job()


def subjects() -> list[str]:
    """Of what was sent since this was asked last."""
    found = [message.subject for message in mail.outbox]
    mail.outbox.clear()
    return found


def is_closing(rental: Rental) -> bool:
    return User.objects.get(pk=rental.user_id).closing_at is not None


@pytest.mark.parametrize("is_swept_first", [True, False])
@pytest.mark.parametrize(("wakes", "told"), [(28, "2 days left"), (29.5, "12 hours left"), (34, "ended")])
def test_one_reminder_comes_when_another_waited_through_the_outage(
    rental: Rental, clock: Any, wakes: float, told: str, is_swept_first: bool
) -> None:
    clock.move_to(START + 23 * DAY)
    sweep()
    assert Notice.objects.get(state="waiting").kind == "rental_ending"
    clock.move_to(START + wakes * DAY)
    if is_swept_first:
        sweep()
    send()
    sweep()
    send()
    (subject,) = subjects()
    assert told in subject
    assert Notice.objects.filter(state="dropped").count() == 1


def test_word_of_the_end_comes_however_late_it_leaves(rental: Rental, clock: Any) -> None:
    clock.move_to(START + 30 * DAY)
    sweep()
    clock.move_to(START + 40 * DAY)
    send()
    assert "ended" in subjects()[0]


def test_the_last_warning_comes_first_when_it_fell_into_the_outage(rental: Rental, clock: Any) -> None:
    for day in (30, 53.5):
        clock.move_to(START + day * DAY)
        sweep()
        send()
    assert len(subjects()) == 2
    clock.move_to(START + 62 * DAY)
    for _time in range(3):
        sweep()
        send()
    (message,) = mail.outbox
    assert "2026-05-04 12:00" in str(message.body)  # a day later
    clock.move_to(START + 63 * DAY - timedelta(minutes=5))
    sweep()
    assert not is_closing(rental)
    clock.move_to(START + 63 * DAY + timedelta(hours=1))
    sweep()
    assert is_closing(rental)


@pytest.mark.parametrize("made", [53.5, 59.5])
def test_a_warning_that_could_not_leave_is_told_anew_with_a_day_to_come(
    rental: Rental, clock: Any, made: float
) -> None:
    clock.move_to(START + 30 * DAY)
    sweep()
    send()
    clock.move_to(START + made * DAY)
    sweep()
    subjects()
    # The mail server was away all the time.
    clock.move_to(START + 70 * DAY)
    for _time in range(3):
        send()
        sweep()
        assert not is_closing(rental)
    (message,) = mail.outbox
    assert "2026-05-12 12:00" in str(message.body)
    assert Notice.objects.get(kind="account_closing", state="dropped")
    clock.shift(DAY)
    sweep()
    assert is_closing(rental)


def test_a_warning_that_was_dropped_with_a_ban_does_not_count_when_it_is_lifted(
    rental: Rental, clock: Any
) -> None:
    clock.move_to(START + 30 * DAY)
    sweep()
    send()
    clock.move_to(START + 59.5 * DAY)
    sweep()
    ban_user(user=rental.user, by=None)
    send()
    subjects()
    clock.move_to(START + 70 * DAY)
    sweep()
    unban_user(user=User.objects.get(pk=rental.user_id), by=None)
    # Whoever is not to be closed by itself is looked at once a day.
    clock.shift(DAY)
    sweep()
    assert not is_closing(rental)
    send()
    assert len(subjects()) == 1
    clock.shift(DAY)
    sweep()
    assert is_closing(rental)
