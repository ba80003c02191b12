"""How times are worded: what is left of a rental reads as people count, the same on pages, in mails and in commands."""

from datetime import UTC, datetime, timedelta

import pytest
import time_machine
from django.utils import translation

from accounts.models import User
from serials.rentals.models import Rental
from serials.rentals.services.automatic_closing import closing_losses
from serials.rentals.wording import duration, time_left
from tests.factories import RentalFactory

NOW = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (30 * DAY, "30 days left"),
        (30 * DAY - MINUTE, "30 days left"),
        (30 * DAY - 9 * HOUR, "30 days left"),
        # The relays' waiting time, given back: nobody was sold 31 days.
        (30 * DAY + 40 * MINUTE, "30 days left"),
        (29 * DAY + 11 * HOUR, "29 days left"),
        (7 * DAY - timedelta(seconds=20), "7 days left"),
        (3 * DAY - timedelta(seconds=20), "3 days left"),
        (DAY, "1 day left"),
        (DAY - timedelta(seconds=20), "1 day left"),
        (DAY + 11 * HOUR, "1 day left"),
        (DAY - 2 * MINUTE, "23 hours left"),
        (5 * HOUR - MINUTE, "5 hours left"),
        (HOUR, "1 hour left"),
        (40 * MINUTE, "less than an hour left"),
        (timedelta(seconds=5), "less than an hour left"),
        (timedelta(), "ended"),
        (-DAY, "ended"),
    ],
)
def test_what_is_left_is_rounded_as_people_count(left: timedelta, words: str) -> None:
    with time_machine.travel(NOW, tick=False), translation.override("en"):
        assert time_left(NOW + left) == words
        assert time_left(NOW + DAY + left, NOW + DAY) == words


def test_a_fresh_rental_has_the_days_that_were_sold_in_chinese_too() -> None:
    with time_machine.travel(NOW + 25 * MINUTE, tick=False), translation.override("zh-hans"):
        assert time_left(NOW + 30 * DAY) == "还剩 30 天"


@pytest.mark.parametrize(
    ("left", "words"), [(DAY, "1 day left"), (12 * DAY - MINUTE, "12 days left"), (HOUR, "1 hour left")]
)
def test_who_closes_his_account_reads_what_he_loses(customer: User, left: timedelta, words: str) -> None:
    rental = RentalFactory(user=customer, ends_at=NOW + left)
    with time_machine.travel(NOW, tick=False), translation.override("en"):
        assert list(closing_losses(customer)) == [f"The rest of your rental is lost: {words}."]
    Rental.objects.filter(pk=rental.pk).update(paused_at=NOW)
    with time_machine.travel(NOW + 90 * DAY, tick=False), translation.override("en"):
        assert words in next(closing_losses(customer))
        Rental.objects.filter(pk=rental.pk).update(paused_at=None)
        assert list(closing_losses(customer)) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "00:00:00"),
        (59, "00:00:59"),
        (86_400, "1 day"),
        (30 * 86_400, "30 days"),
        (30 * 86_400 + 7, "30 days 00:00:07"),
        (-(2 * 86_400 + 3600), "-2 days 01:00:00"),
    ],
)
def test_what_was_granted_reads_exactly(seconds: int, words: str) -> None:
    with translation.override("en"):
        assert duration(seconds) == words
