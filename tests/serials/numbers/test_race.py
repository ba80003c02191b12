"""Simultaneous redemptions. On SQLite in a file by default; with DERPMGMT_TEST_DATABASE_URL on MariaDB or MySQL, whose
`max_connections` must then be at least 250."""

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection

from accounts.models import OperationLog, User
from serials.numbers import services as serials
from serials.numbers.models import SerialNumber
from serials.rentals import services as rentals
from serials.rentals.models import Redemption, Rental, RentalSpan
from tests.factories import SerialBatchFactory, SerialNumberFactory, UserFactory

THREADS = 200

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def _all_at_once(calls: list[Callable[[], object]]) -> list[object]:
    """What each call returned or raised; all start together, each with a database connection of its own."""
    barrier = threading.Barrier(len(calls))

    def run(call: Callable[[], object]) -> object:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=60)
            return call()
        except Exception as error:
            return error
        finally:
            connection.close()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def _redeem(serial: SerialNumber, user: User) -> Callable[[], object]:
    return lambda: serials.redeem_serial(code=serial.code, user=user, by=user)


@pytest.mark.parametrize("people", [1, 8, THREADS])
def test_one_redemption_wins_when_two_hundred_come_at_once(people: int) -> None:
    serial = SerialNumberFactory(days=30)
    users = [UserFactory(email=f"{number}@example.com") for number in range(people)]
    results = _all_at_once([_redeem(serial, users[number % people]) for number in range(THREADS)])

    kinds = Counter(type(result) for result in results)
    assert kinds.pop(Redemption) == 1
    assert set(kinds) <= {serials.SerialUsed, serials.AlreadyRedeemed}
    assert sum(kinds.values()) == THREADS - 1
    rental = Rental.objects.get()
    redemption = Redemption.objects.get()
    assert rental.spans.get().redemption == redemption
    assert rental.ends_at == redemption.new_ends_at
    assert redemption.granted_seconds == 30 * 86400
    assert OperationLog.objects.filter(action="serial.redeemed").count() == 1
    assert OperationLog.objects.filter(action="serial.refused").count() == THREADS - 1


def test_all_time_is_counted_when_one_person_redeems_many_serials_at_once() -> None:
    made = list(SerialBatchFactory(days=1, count=40).serials.all())
    user = UserFactory(email="li@example.com")
    results = _all_at_once([_redeem(serial, user) for serial in made])
    assert Counter(type(result) for result in results) == {Redemption: 40}
    spans = list(RentalSpan.objects.all())
    assert len(spans) == 40
    assert all(later.starts_at == earlier.ends_at for earlier, later in itertools.pairwise(spans))
    assert Rental.objects.get().ends_at == spans[-1].ends_at


def test_waiting_time_is_given_back_once_when_three_relays_are_proven_at_once() -> None:
    user = UserFactory(email="li@example.com")
    redemption = serials.redeem_serial(code=SerialNumberFactory().code, user=user, by=user)
    now = redemption.at + timedelta(seconds=30)
    rental_pk = redemption.rental_id
    results = _all_at_once([lambda: rentals.credit_waiting_time(rental_pk=rental_pk, now=now)] * 3)
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "NoneType", "Redemption"]
    assert Rental.objects.get().ends_at == redemption.new_ends_at + timedelta(seconds=30)
