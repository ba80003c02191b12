"""Reminders: each once for one end date, the right one after an outage, none for those whom it does not concern."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services import ban_user, notices
from serials.rentals import reminders
from serials.rentals.models import Rental
from serials.rentals.services import credit_waiting_time, pause_rental, resume_rental
from tests.factories import RedeemedRentalFactory, UserFactory
from tests.panel.killing import dies_at_line

pytestmark = pytest.mark.django_db

DAY = timedelta(days=1)
SWEEPING = ("serials/rentals/reminders.py", "accounts/services/notices.py")
# A quiet moment: noon in Shanghai, so that no day ends while a test looks.
START = datetime.fromisoformat("2026-03-02T12:00:00+08:00")
Redeem = Callable[..., Rental]


@pytest.fixture
def clock() -> Any:
    with time_machine.travel(START, tick=False) as travel:
        yield travel


@pytest.fixture
def redeem(customer: User, clock: Any) -> Redeem:
    def act(days: int, user: User = customer, **fields: Any) -> Rental:
        return RedeemedRentalFactory(user=user, days=days, **fields)

    return act


def told() -> list[tuple[str, float]]:
    """The reminders that were made: kind, and on which day after `START`."""
    rows = Notice.objects.filter(kind__in=reminders.REMINDERS).order_by("pk")
    return [(row.kind.removeprefix("rental_"), (row.created_at - START) / DAY) for row in rows]


def live(clock: Any, days: float, *, step: timedelta = timedelta(hours=6)) -> None:
    """Let time go by, with the sweep at every step; rung twice, as a bell may."""
    for _ in range(round(days * DAY / step)):
        clock.shift(step)
        for _time in range(2):
            reminders.send_reminders(timezone.now())


def test_four_reminders_come_in_time_when_a_rental_of_thirty_days_ends(redeem: Redeem, clock: Any) -> None:
    redeem(30)
    live(clock, 60)
    assert told() == [("ending", 23), ("ending", 27), ("ending", 29), ("ended", 30)]
    assert Rental.objects.get().remind_at is None


def test_three_reminders_come_when_three_days_are_redeemed(redeem: Redeem, clock: Any) -> None:
    redeem(3)
    reminders.send_reminders(timezone.now())
    live(clock, 10)
    assert told() == [("ending", 0), ("ending", 2), ("ended", 3)]


def test_the_days_can_be_set(redeem: Redeem, clock: Any, settings: Any) -> None:
    settings.REMINDER_DAYS = (2, 10)
    redeem(30)
    live(clock, 40)
    assert told() == [("ending", 20), ("ending", 28), ("ended", 30)]


def test_who_renewed_in_between_gets_none_for_the_old_end(redeem: Redeem, clock: Any) -> None:
    redeem(30)
    live(clock, 24)
    redeem(30)
    live(clock, 28)
    assert told() == [("ending", 23)]
    live(clock, 20)
    assert told() == [("ending", 23), ("ending", 53), ("ending", 57), ("ending", 59), ("ended", 60)]


def test_a_reminder_that_still_waits_is_not_sent_to_who_renewed(redeem: Redeem, clock: Any) -> None:
    redeem(30)
    live(clock, 23)
    redeem(30)
    notice = Notice.objects.get(kind="rental_ending")
    assert notice.state == Notice.State.DROPPED
    notices.send_notice(notice.pk)
    assert mail.outbox == []


@pytest.mark.parametrize(
    ("woken", "expected"),
    [(23.5, "ending"), (28, "ending"), (29.9, "ending"), (33, "ended"), (400, "ended")],
)
def test_only_the_one_that_fits_now_comes_when_the_sweep_slept(
    redeem: Redeem, clock: Any, woken: float, expected: str
) -> None:
    redeem(30)
    clock.shift(woken * DAY)
    for _time in range(3):
        reminders.send_reminders(timezone.now())
    assert [kind for kind, _day in told()] == [expected]


def test_after_a_weeks_outage_the_words_say_what_is_left_now(redeem: Redeem, clock: Any) -> None:
    user = redeem(30).user
    user.language = "en"
    user.save()
    clock.shift(28 * DAY)
    reminders.send_reminders(timezone.now())
    notices.send_notice(Notice.objects.get(kind="rental_ending").pk)
    (message,) = mail.outbox
    assert "2 days left" in message.subject
    assert "2026-04-01 12:00" in str(message.body)
    assert "http://testserver/redeem/" in str(message.body)
    assert 'href="http://testserver/redeem/"' in message.alternatives[0][0]


def test_the_mails_button_opens_the_redeem_page(redeem: Redeem, clock: Any, client: Client) -> None:
    redeem(3)
    reminders.send_reminders(timezone.now())
    url = Notice.objects.get(kind="rental_ending").context["url"]
    assert url.startswith(settings.PUBLIC_URL)
    assert client.get(url.removeprefix(settings.PUBLIC_URL)).status_code == 200


def test_an_end_that_moves_by_seconds_is_still_the_same_end(redeem: Redeem, clock: Any) -> None:
    rental = redeem(3)
    reminders.send_reminders(timezone.now())
    clock.shift(40)
    assert credit_waiting_time(rental_pk=rental.pk, now=timezone.now())
    live(clock, 1)
    assert told() == [("ending", 0)]


def test_a_paused_rental_gets_none_and_all_of_its_new_end_when_it_is_resumed(
    redeem: Redeem, clock: Any
) -> None:
    rental = redeem(30)
    live(clock, 20)
    pause_rental(rental=rental, by=None, reason="")
    live(clock, 50)
    assert told() == []
    resume_rental(rental=rental, by=None)
    live(clock, 20)
    assert told() == [("ending", 73), ("ending", 77), ("ending", 79), ("ended", 80)]


@pytest.mark.parametrize("pause", [timedelta(hours=1), 10 * DAY])
def test_a_reminder_that_still_waits_at_a_pause_comes_for_the_new_end(
    redeem: Redeem, clock: Any, pause: timedelta
) -> None:
    rental = redeem(30)
    User.objects.update(language="en")
    live(clock, 29)
    Notice.objects.filter(kind="rental_ending").exclude(key__endswith="-1").update(state="sent")
    assert pause_rental(rental=rental, by=None, reason="")
    waiting = Notice.objects.get(key__endswith="rental_ending-1")
    assert waiting.state == Notice.State.DROPPED
    notices.send_notice(waiting.pk)
    assert mail.outbox == []
    clock.shift(pause)
    reminders.send_reminders(timezone.now())
    assert not reminders._remind([rental.pk], timezone.now())
    assert resume_rental(rental=rental, by=None)
    for _time in range(2):
        reminders.send_reminders(timezone.now())
    (again,) = Notice.objects.filter(kind="rental_ending", state=Notice.State.WAITING)
    notices.send_notice(again.pk)
    (message,) = mail.outbox
    assert message.to == ["li@example.com"]
    assert "1 day left" in message.subject
    assert f"{timezone.localtime(START + 30 * DAY + pause):%Y-%m-%d %H:%M}" in str(message.body)
    live(clock, 2)
    assert told()[-1] == ("ended", (30 * DAY + pause) / DAY)


def test_a_reminder_comes_for_the_new_end_when_the_pause_began_before_the_sweep(
    redeem: Redeem, clock: Any
) -> None:
    rental = redeem(30)
    live(clock, 28)
    clock.shift(DAY + timedelta(minutes=1))
    pause_rental(rental=rental, by=None, reason="")
    clock.shift(10 * DAY)
    reminders.send_reminders(timezone.now())
    resume_rental(rental=rental, by=None)
    live(clock, 2)
    days = [round(day) for _kind, day in told()]
    assert days == [23, 27, 39, 40]


def test_a_reminder_that_was_sent_before_a_pause_does_not_come_again(redeem: Redeem, clock: Any) -> None:
    rental = redeem(30)
    live(clock, 23)
    Notice.objects.update(state="sent")
    clock.shift(60)
    pause_rental(rental=rental, by=None, reason="")
    clock.shift(10 * DAY)
    resume_rental(rental=rental, by=None)
    reminders.send_reminders(timezone.now())
    assert told() == [("ending", 23)]


def test_a_banned_or_closed_person_gets_none(redeem: Redeem, clock: Any, customer: User) -> None:
    redeem(30)
    ban_user(user=customer, by=None)
    gone = UserFactory(email="gone@example.com")
    redeem(30, user=gone)
    gone.closing_at = timezone.now()
    gone.save()
    live(clock, 40)
    assert told() == []


def test_the_notice_of_the_end_says_that_relays_still_run_in_the_grace(redeem: Redeem, clock: Any) -> None:
    user = redeem(30, grace_days=2).user
    user.language = "en"
    user.save()
    live(clock, 31)
    (notice,) = Notice.objects.filter(kind="rental_ended")
    assert "still run until 2026-04-03 12:00" in notices.render(notice).text
    assert "still run until 2026-04-03 12:00" in notices.render(notice).html


@pytest.mark.parametrize("case", ["customer", "never", "staff"])
def test_the_notice_of_the_end_says_when_the_account_is_closed(
    redeem: Redeem, clock: Any, settings: Any, case: str
) -> None:
    user = redeem(30, grace_days=2).user
    User.objects.filter(pk=user.pk).update(language="en")
    settings.CLOSE_AFTER_DAYS = 0 if case == "never" else 30
    if case == "staff":
        User.objects.filter(pk=user.pk).update(role=User.Role.ADMIN, is_staff=True)
    live(clock, 31)
    words = notices.render(Notice.objects.get(kind="rental_ended"))
    for text in (words.text, words.html):
        if case == "customer":
            assert "Without a renewal your account is closed on 2026-05-03 12:00." in text
            assert "Your account stays" not in text
        else:
            assert "Your account stays" in text
            assert "is closed" not in text


def test_the_notice_of_the_end_names_no_closing_that_is_past(redeem: Redeem, clock: Any) -> None:
    user = redeem(30).user
    User.objects.filter(pk=user.pk).update(language="en")
    clock.shift(100 * DAY)
    reminders.send_reminders(timezone.now())
    words = notices.render(Notice.objects.get(kind="rental_ended"))
    assert "your account is closed on 2026-06-10 12:00." in words.text


@pytest.mark.slow
def test_each_comes_once_when_the_sweep_dies_at_any_line(redeem: Redeem, clock: Any) -> None:
    rental = redeem(30)
    first = rental.remind_at
    for number in range(500):
        clock.move_to(START + 23 * DAY)
        Notice.objects.filter(kind__in=reminders.REMINDERS).delete()
        Rental.objects.update(remind_at=first)
        has_died = dies_at_line(number, SWEEPING, lambda: reminders.send_reminders(timezone.now()))
        for _time in range(2):
            reminders.send_reminders(timezone.now())
        assert told() == [("ending", 23)], number
        if not has_died:
            break
    assert number > 25


@pytest.mark.django_db(transaction=True)
def test_each_comes_once_when_sweeps_run_at_the_same_moment(redeem: Redeem, clock: Any) -> None:
    redeem(30)
    clock.shift(23 * DAY)

    def sweep(_number: int) -> int:
        try:
            return reminders.send_reminders(timezone.now())
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(sweep, range(8))) == 1
    assert told() == [("ending", 23)]


@pytest.mark.slow
def test_the_sweep_looks_at_the_due_ones_only_when_there_are_many(redeem: Redeem, clock: Any) -> None:
    redeem(30)
    for number in range(30):
        redeem(60, user=UserFactory(email=f"u{number}@example.com"))
    clock.shift(22 * DAY)
    with CaptureQueriesContext(connection) as queries:
        assert reminders.send_reminders(timezone.now()) == 0
    assert len(queries) == 1
    clock.shift(DAY)
    with CaptureQueriesContext(connection) as queries:
        assert reminders.send_reminders(timezone.now()) == 1
    assert len(queries) < 25
    if connection.vendor == "sqlite":
        plan = Rental.objects.filter(remind_at__lte=timezone.now()).order_by("remind_at").explain()
        assert "USING INDEX" in plan
        assert "remind_at" in plan
