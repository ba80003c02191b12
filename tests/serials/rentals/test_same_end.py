"""Which end a reminder is about: one that only comes later stays the same, time that is granted makes another."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.core import mail
from django.utils import timezone
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accounts.models import Notice, User
from accounts.services import notices
from serials.rentals import reminders
from serials.rentals import services as rentals
from serials.rentals.models import Rental
from tests.factories import NoticeFactory, RedeemedRentalFactory, UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOON = datetime.fromisoformat("2026-03-02T12:00:00+08:00")
State = Notice.State


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(NOON, tick=False) as travel:
        yield travel


@pytest.fixture
def rental(customer: User, clock: Any) -> Rental:
    """Three days from noon."""
    return RedeemedRentalFactory(user=customer, days=3)


def sweep() -> None:
    for _time in range(2):
        reminders.send_reminders(timezone.now())
        for pk in notices.due_notices(timezone.now()):
            notices.send_notice(pk)


def sent(kind: str = "") -> list[str]:
    """The reminders that have left, by the ends of their keys."""
    rows = Notice.objects.filter(kind__in=reminders.REMINDERS, state=State.SENT).order_by("sent_at", "pk")
    return [row.key.split("rental_")[1] for row in rows if row.kind.endswith(kind)]


def credit(rental: Rental, lost: timedelta) -> None:
    Rental.objects.update(waiting_since=timezone.now() - lost)
    assert rentals.credit_waiting_time(rental_pk=rental.pk, now=timezone.now())


def test_waiting_time_given_back_across_midnight_brings_no_second_reminder(
    customer: User, clock: Any
) -> None:
    clock.move_to(NOON.replace(hour=23, minute=59, second=40))
    rental = RedeemedRentalFactory(user=customer, days=3)
    sweep()
    clock.shift(40)
    assert rentals.credit_waiting_time(rental_pk=rental.pk, now=timezone.now())
    for _hour in range(80):
        sweep()
        clock.shift(HOUR)
    assert sent() == ["ending-3", "ending-1", "ended"]


@pytest.mark.parametrize("is_sent", [False, True])
def test_who_renews_to_the_same_day_is_told_of_that_end_and_of_no_other(
    rental: Rental, clock: Any, is_sent: bool
) -> None:
    clock.shift(3 * DAY)
    reminders.send_reminders(timezone.now())
    if is_sent:
        sweep()
    clock.shift(HOUR)
    rentals.renew_rental(rental=rental, until=timezone.now() + 3 * HOUR, by=None)
    mail.outbox.clear()
    for _hour in range(3):
        sweep()
        assert "已到期" not in " ".join(message.subject for message in mail.outbox)
        clock.shift(HOUR)
    sweep()
    assert sent("ended") == ["ended"] * (2 if is_sent else 1)
    assert Notice.objects.filter(kind="rental_ended").count() == 2


def test_the_end_is_not_told_before_it_comes_when_waiting_time_is_given_back_after_it(
    rental: Rental, clock: Any
) -> None:
    clock.shift(3 * DAY)
    reminders.send_reminders(timezone.now())
    credit(rental, HOUR)
    sweep()
    assert sent("ended") == []
    clock.shift(HOUR)
    sweep()
    assert sent("ended") == ["ended"]


def test_a_reminder_that_is_due_comes_later_when_waiting_time_is_given_back_before_the_sweep(
    rental: Rental, clock: Any
) -> None:
    clock.shift(30)
    credit(rental, timedelta(seconds=30))
    clock.shift(HOUR)
    sweep()
    assert sent() == ["ending-3"]


def test_days_given_back_make_another_end(rental: Rental, clock: Any) -> None:
    clock.shift(2 * DAY)
    sweep()
    credit(rental, 2 * DAY)
    for _hour in range(80):
        sweep()
        clock.shift(HOUR)
    assert sent() == ["ending-1", "ending-3", "ending-1", "ended"]


@pytest.mark.parametrize("kind", ["credit", "resume"])
def test_what_was_sent_under_the_days_name_is_not_sent_again(rental: Rental, clock: Any, kind: str) -> None:
    day = f"{timezone.localdate(NOON + 3 * DAY):%Y%m%d}"
    Rental.objects.update(end_name="")
    sweep()
    assert Notice.objects.get(kind="rental_ending").key == f"rental-{rental.pk}-{day}-rental_ending-3"
    if kind == "credit":
        clock.shift(13 * HOUR)
        credit(rental, 13 * HOUR)
    else:
        rentals.pause_rental(rental=rental, by=None)
        clock.shift(10 * DAY)
        rentals.resume_rental(rental=rental, by=None)
    for _hour in range(100):
        sweep()
        clock.shift(HOUR)
    assert sent() == ["ending-3", "ending-1", "ended"]
    assert {row.key.split("-")[2] for row in Notice.objects.filter(kind__in=reminders.REMINDERS)} == {day}


def test_a_short_pause_brings_nothing_twice_when_one_channel_was_late(rental: Rental, clock: Any) -> None:
    sweep()
    NoticeFactory(user=rental.user, kind="rental_ending", key=f"{reminders.about(rental)}x", language="en")
    clock.shift(60)
    rentals.pause_rental(rental=rental, by=None)
    clock.shift(HOUR)
    rentals.resume_rental(rental=rental, by=None)
    sweep()
    assert sent() == ["ending-3"]


MOVES = ["renew", "pause", "resume", "credit", "credit", "stuck", "wait", "wait"]


@settings(max_examples=40)
@example(acts=[("wait", 1), ("credit", 3)])
@example(acts=[("stuck", 1), ("wait", 48), ("wait", 25), ("renew", 1), ("stuck", 1)])
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(MOVES), st.sampled_from([1, 3, 23, 25, 48])), min_size=4, max_size=12
    )
)
def test_whatever_moves_the_end_no_reminder_is_false_doubled_or_missing(acts: list[tuple[str, int]]) -> None:
    user = UserFactory(email=f"p{User.objects.count()}@example.com")
    seen: dict[str, int] = {}
    is_stuck = False

    def live(clock: Any, hours: int) -> None:
        for _ in range(hours + 1):
            reminders.send_reminders(timezone.now())
            if not is_stuck:
                leave()
            clock.shift(HOUR)

    def leave() -> None:
        now, row = timezone.now(), Rental.objects.get(user=user)
        waiting = Notice.objects.filter(user=user, kind__in=reminders.REMINDERS, state=State.WAITING)
        for notice in waiting:
            fits_until = notice.context.get("fits_until")
            if fits_until and datetime.fromisoformat(fits_until) <= now:
                Notice.objects.filter(pk=notice.pk).update(state=State.DROPPED)
                continue
            Notice.objects.filter(pk=notice.pk).update(state=State.SENT)
            name = notice.key.split("rental_")[1]
            assert row.paused_at is None
            assert (row.ends_at <= now) == (name == "ended")
            # Nothing but time that was granted, or a day given back, brings a reminder again.
            assert name not in seen, (name, seen)
            seen[name] = 1

    with time_machine.travel(NOON.replace(hour=22), tick=False) as clock:
        rental = RedeemedRentalFactory(user=user, days=3)
        # Waiting time is given back below.
        Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
        for act, hours in [*acts, ("resume", 1)]:
            row = Rental.objects.get(pk=rental.pk)
            now = timezone.now()
            try:
                if act == "renew":
                    rentals.renew_rental(rental=row, until=max(row.ends_at, now) + hours * HOUR, by=None)
                    seen.clear()
                elif act == "pause":
                    rentals.pause_rental(rental=row, by=None)
                elif act == "resume":
                    rentals.resume_rental(rental=row, by=None)
                elif act == "credit":
                    lost = hours * HOUR
                    Rental.objects.filter(pk=rental.pk).update(waiting_since=(row.paused_at or now) - lost)
                    made = rentals.credit_waiting_time(rental_pk=rental.pk, now=now)
                    if made and made.new_ends_at - made.old_ends_at >= DAY:
                        seen.clear()
                elif act == "stuck":
                    is_stuck = not is_stuck
                else:
                    live(clock, hours)
            except rentals.RentalRefused:
                pass
            Rental.objects.filter(pk=rental.pk).update(waiting_since=None)
        is_stuck = False
        row = Rental.objects.get(pk=rental.pk)
        left = (row.ends_at - timezone.now()) / HOUR
        live(clock, max(0, int(left)) + 2)
        assert seen["ended"] == 1
        if left > 24:
            assert seen["ending-1"] == 1
