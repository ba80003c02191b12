"""Redeeming by the JSON API, and waiting for the relays."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection

from accounts.models import User
from containers.models import Relay
from serials.numbers.models import SerialNumber
from serials.rentals import services
from serials.rentals.models import Redemption, Rental
from tests.api import Api
from tests.factories import RelayFactory, SerialNumberFactory, UserFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture(autouse=True)
def _no_tries() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


def add_relays(rental: Rental, *slots: int) -> None:
    for slot in slots:
        RelayFactory(rental=rental, slot=slot)


def activate(user: User, body: dict[str, Any] | None = None, query: str = "", **headers: str) -> Any:
    return Api(user).post(
        f"serial/activate{query}", body or {"serial_code": SerialNumberFactory().code}, **headers
    )


def test_redeeming_is_accepted_and_followed_until_three_relays_are_proven() -> None:
    user = UserFactory(language="en")
    serial = SerialNumberFactory()
    answer = activate(user, {"serial_code": f"here you are: {serial.code.lower()} - enjoy"})

    assert answer.status_code == 202, answer.content
    said = answer.json()
    rental = Rental.objects.get(user=user)
    assert said["rental"]["rental_id"] == rental.pk
    assert said["new_expiry_time"] == f"{rental.ends_at:%Y-%m-%dT%H:%M:%S}Z"
    assert (said["relays_proven"], said["relays_wanted"], said["is_ready"]) == (0, 3, False)
    assert "30 days" in said["message"]
    serial.refresh_from_db()
    assert serial.status == SerialNumber.Status.USED

    address = said["follow"].removeprefix("/api/v1/").partition("?")[0]
    add_relays(rental, 1, 2)
    RelayFactory(rental=rental, slot=3, planned=True)
    following = Api(user).get(address)
    assert (following.status_code, following.json()["relays_proven"]) == (202, 2)
    Relay.objects.filter(slot=3).update(status=Relay.Status.RUNNING)  # never proven
    assert Api(user).get(address).status_code == 202
    Relay.objects.filter(slot=3).update(proven_at=rental.created_at)
    done = Api(user).get(address)
    assert (done.status_code, done.json()["relays_proven"], done.json()["is_ready"]) == (200, 3, True)


def test_it_is_redeemed_once() -> None:
    user = UserFactory(language="en")
    asked = {"serial_code": SerialNumberFactory().code}
    assert activate(user, asked).status_code == 202
    again = activate(user, asked)
    assert (again.status_code, again.json()["code"]) == (409, "already_redeemed")
    assert Redemption.objects.count() == 1


def test_a_key_gives_the_same_answer_at_once_whatever_is_waited_for() -> None:
    """The kept answer is written in one transaction with the redemption, in which nobody may wait."""
    user, asked = UserFactory(), {"serial_code": SerialNumberFactory().code}
    began = time.monotonic()
    first = activate(user, asked, "?wait=20", Idempotency_Key="k")
    again = activate(user, asked, "?wait=20", Idempotency_Key="k")
    assert time.monotonic() - began < 10
    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert again.headers["Idempotent-Replayed"] == "true"
    assert Redemption.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_when_the_third_relay_is_proven() -> None:
    user = UserFactory()

    def bring_up() -> None:
        try:
            while not (rental := Rental.objects.filter(user=user).first()):
                time.sleep(0.05)
            time.sleep(0.5)
            add_relays(rental, 1, 2, 3)
        finally:
            connection.close()

    thread = threading.Thread(target=bring_up)
    thread.start()
    began = time.monotonic()
    answer = activate(user, query="?wait=25")
    thread.join()
    assert (answer.status_code, answer.json()["relays_proven"]) == (200, 3)
    assert 0.4 < time.monotonic() - began < 15


@pytest.mark.django_db(transaction=True)
def test_waiting_ends_with_its_time() -> None:
    began = time.monotonic()
    assert activate(UserFactory(), query="?wait=1").status_code == 202
    assert 1 <= time.monotonic() - began < 10


@pytest.mark.django_db(transaction=True)
def test_nobody_waits_for_relays_that_do_not_come() -> None:
    """A rental that is paused gets none, however much time it is given."""
    user = UserFactory(language="en")
    activate(user)
    services.pause_rental(rental=user.rental, by=None)
    began = time.monotonic()
    answer = activate(user, query="?wait=20")
    assert (answer.status_code, answer.json()["is_ready"], answer.json()["relays_proven"]) == (200, True, 0)
    assert time.monotonic() - began < 10
    assert "paused" in answer.json()["message"]


def test_the_new_time_may_begin_at_once() -> None:
    user = UserFactory()
    activate(user, {"serial_code": SerialNumberFactory(device_limit=3).code})
    said = activate(
        user, {"serial_code": SerialNumberFactory(device_limit=8, days=7).code, "start_now": True}
    )
    spans = said.json()["rental"]["spans"]
    assert [(span["device_limit"], span["is_current"]) for span in spans] == [(8, True), (3, False)]


def test_staff_redeem_for_a_customer_and_nobody_else_does() -> None:
    customer, code = UserFactory(), SerialNumberFactory().code
    asked = {"user_id": customer.pk, "serial_code": code}
    refused = activate(UserFactory(), asked)
    assert (refused.status_code, refused.json()["field"]) == (404, "user_id")
    admin = UserFactory(role=User.Role.ADMIN)
    done = activate(admin, asked)
    assert done.status_code == 202
    assert done.json()["rental"]["user_id"] == customer.pk
    redemption = Redemption.objects.get()
    assert (redemption.rental.user, redemption.by) == (customer, admin)


def test_an_activation_is_its_customers_and_staffs() -> None:
    user = UserFactory()
    path = activate(user).json()["follow"].removeprefix("/api/v1/").partition("?")[0]
    assert Api(UserFactory()).get(path).status_code == 404
    assert Api(UserFactory(role=User.Role.ADMIN)).get(path).status_code == 202
    renewal = services.renew_rental(
        rental=user.rental, until=user.rental.ends_at + timedelta(days=9), by=None
    )
    assert Api(user).get(f"serial/activation/{renewal.pk}").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "serial_code"), ({"serial_code": ""}, "serial_code"), ({"serial_code": "x", "code": 1}, "code")],
)
def test_a_wrong_body_is_refused_by_the_fields_name(body: dict[str, Any], field: str) -> None:
    answer = Api(UserFactory()).post("serial/activate", body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    late = Api(UserFactory()).post("serial/activate?wait=31", {"serial_code": "x"})
    assert (late.status_code, late.json()["field"]) == (422, "wait")


def test_tries_are_limited_as_on_the_page(settings: Any) -> None:
    settings.REDEEM_RATE = "2/h"
    user = UserFactory()
    for _ in range(2):
        assert activate(user, {"serial_code": "WRONG"}).json()["code"] == "mistyped"
    limited = activate(user)
    assert (limited.status_code, limited.json()["code"]) == (429, "too_many_requests")
    assert not Rental.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_of_two_who_redeem_at_once_one_is_given_the_time() -> None:
    code = SerialNumberFactory().code
    askers = [Api(UserFactory()) for _ in range(2)]
    together = threading.Barrier(2)

    def redeem(api: Api) -> Any:
        try:
            together.wait(10)
            return api.post("serial/activate", {"serial_code": code})
        finally:
            connection.close()

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(redeem, askers))
    assert sorted(answer.status_code for answer in answers) == [202, 409]
    assert {answer.json().get("code") for answer in answers} == {None, "used"}
    assert Redemption.objects.count() == 1
