"""What a customer is told of a renewal: that their relays come back where they were gone, that other terms apply where they do."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services.notices import render
from fleet.models import Server
from serials.numbers import services as serials
from serials.numbers.models import SerialNumber
from serials.rentals import services as rentals
from serials.rentals.models import Rental
from tests.factories import SerialNumberFactory

DAY = timedelta(days=1)
NOTHING, RETURN = "Nothing changes for your devices.", "Your relays come back where they were"
OTHER = "Other terms apply from now on: your relays may move to other servers"


@pytest.fixture
def rental(customer: User) -> Rental:
    """Thirty days that began now, with two days of grace."""
    User.objects.filter(pk=customer.pk).update(language="en")
    return redeem(SerialNumberFactory(grace_days=2), customer)


def redeem(
    serial: SerialNumber, user: User, after: timedelta = timedelta(), *, start_now: bool = False
) -> Rental:
    """Redeem so long after now."""
    with time_machine.travel(timezone.now() + after, tick=False):
        return serials.redeem_serial(code=serial.code, user=user, by=user, start_now=start_now).rental


def told() -> str:
    words = render(Notice.objects.get(kind="rental_renewed"))
    for sentence in (NOTHING, RETURN, OTHER, "had ended"):
        assert (sentence in words.text) == (sentence in words.html)
    return words.text


def test_nothing_had_stopped_when_it_is_renewed_within_the_grace(rental: Rental) -> None:
    redeem(SerialNumberFactory(), rental.user, 31 * DAY)
    text = told()
    assert NOTHING in text
    assert "had ended" not in text
    assert RETURN not in text


def test_relays_come_back_when_it_is_renewed_after_the_grace(rental: Rental) -> None:
    redeem(SerialNumberFactory(), rental.user, 33 * DAY)
    text = told()
    assert "Your rental had ended and runs again" in text
    assert RETURN in text


def test_an_admins_renewal_tells_the_same(rental: Rental) -> None:
    for days, is_over in ((31, False), (100, True)):
        with time_machine.travel(timezone.now() + days * DAY, tick=False):
            rentals.renew_rental(rental=rental, until=timezone.now() + 5 * DAY, by=None)
        assert ("had ended" in told()) == is_over
        assert (NOTHING in told()) == (not is_over)
        Notice.objects.filter(kind="rental_renewed").delete()


@pytest.mark.parametrize("terms", ["limit", "servers"])
@pytest.mark.parametrize("days", [3, 31, 40])
def test_other_terms_are_named_when_they_apply_at_once(
    rental: Rental, servers: list[Server], terms: str, days: int
) -> None:
    serial = (
        SerialNumberFactory(device_limit=1) if terms == "limit" else SerialNumberFactory(servers=servers[:3])
    )
    redeem(serial, rental.user, days * DAY, start_now=True)
    text = told()
    assert OTHER in text
    assert NOTHING not in text
    assert RETURN not in text
    assert ("had ended" in text) == (days == 40)


def test_nothing_changes_when_other_terms_come_later_or_the_same_begin_now(rental: Rental) -> None:
    for serial, start_now in ((SerialNumberFactory(), True), (SerialNumberFactory(device_limit=1), False)):
        redeem(serial, rental.user, 3 * DAY, start_now=start_now)
        assert NOTHING in told()
        assert OTHER not in told()
        Notice.objects.filter(kind="rental_renewed").delete()
