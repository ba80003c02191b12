"""Closing an account: who may, what stops it, and that it happens once whatever dies meanwhile."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.contrib.auth import get_user
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.utils import timezone, translation

from accounts import services
from accounts.models import Notice, OperationLog, User
from accounts.services import closing
from derpmgmt.lib import queue
from derpmgmt.lib.mail import MailFailed
from serials.numbers.services import redeem_serial
from serials.rentals.models import Redemption, Rental
from serials.rentals.services import AccountBarred
from tests.accounts.closing import close_by_page, confirm, do_jobs, everything, told
from tests.accounts.conftest import Answer
from tests.factories import PASSWORD, SerialNumberFactory, UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The facts that are announced."""
    facts: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: facts.append((fact, pk)))
    monkeypatch.setattr(queue, "announce_all", lambda fact, pks: facts.extend((fact, pk) for pk in pks))
    return facts


# By the person themselves


def test_account_is_closed_when_its_owner_confirms(rental: Rental) -> None:
    user, here, elsewhere = rental.user, world.sign_in(rental.user), world.sign_in(rental.user)
    response = here.get("/account/close/")
    assert response["Location"].startswith("/accounts/reauthenticate/")
    confirm(here)
    page = here.get("/account/close/")
    assert page.context["losses"]
    assert close_by_page(here)["Location"] == "/account/closed/"
    assert here.get("/account/closed/").status_code == 200
    assert not get_user(here).is_authenticated
    assert not get_user(elsewhere).is_authenticated
    user.refresh_from_db()
    assert user.closing_at
    assert not user.is_active
    here.post("/accounts/login/", {"login": rental.user.email, "password": PASSWORD})
    assert not get_user(here).is_authenticated


def test_nothing_is_closed_when_the_password_was_not_asked_again(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    response = close_by_page(client)
    assert response["Location"].startswith("/accounts/reauthenticate/")
    wrong = client.post("/accounts/reauthenticate/", {"password": "something-else"})
    assert wrong.status_code == 200
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_click_is_not_lost_when_the_password_is_asked_in_between(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    close_by_page(client)
    response = client.post(
        "/accounts/reauthenticate/", {"password": PASSWORD, "next": "/account/close/"}, follow=True
    )
    assert response.redirect_chain[-1][0] == "/account/closed/"
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_nothing_is_closed_when_the_box_is_not_ticked(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    confirm(client)
    assert client.post("/account/close/", {}).status_code == 200
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_reasons_are_shown_when_something_is_open(rental: Rental, answer: Answer) -> None:
    answer("closing_reasons", lambda user: [f"Balance of {user.pk}: 3.00", "An order is open."])
    client = world.sign_in(rental.user)
    confirm(client)
    for response in (client.get("/account/close/"), close_by_page(client)):
        text = response.content.decode()
        assert f"Balance of {rental.user_id}: 3.00" in text
        assert "An order is open." in text
        assert 'name="is_sure"' not in text
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None
    assert get_user(client) == rental.user


def test_second_click_does_nothing_when_the_first_has_closed_the_account(rental: Rental) -> None:
    first, second = world.sign_in(rental.user), Client()
    confirm(first)
    second.cookies["sessionid"] = first.cookies["sessionid"].value
    assert close_by_page(first)["Location"] == "/account/closed/"
    assert close_by_page(second)["Location"].startswith("/accounts/login/")
    user = User.objects.get(pk=rental.user_id)
    assert not services.close_account(user=user, by=None)
    assert OperationLog.objects.filter(action="user.closing").count() == 1
    assert told(user, "account_closed") == 1


def test_person_reads_what_happened_when_he_clicked_twice(rental: Rental) -> None:
    first, second = world.sign_in(rental.user), Client(enforce_csrf_checks=True)
    confirm(first)
    page = first.get("/account/close/")
    second.cookies = first.cookies.copy()
    assert close_by_page(first)["Location"] == "/account/closed/"
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page.text)
    assert token
    form = {"is_sure": "on", "csrfmiddlewaretoken": token[1]}
    response = second.post("/account/close/", form, follow=True)
    assert response.status_code == 200
    assert response.redirect_chain[-1][0].startswith("/accounts/login/")
    (message,) = response.context["messages"]
    assert message.message in response.text
    assert OperationLog.objects.filter(action="user.closing").count() == 1


def test_nothing_is_lost_when_the_confirmation_runs_out_in_the_middle(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    confirm(client)
    assert client.get("/account/close/").status_code == 200
    with time_machine.travel(timezone.now() + timedelta(minutes=16)):
        assert close_by_page(client)["Location"].startswith("/accounts/reauthenticate/")
        rental.user.refresh_from_db()
        assert rental.user.closing_at is None
        answer = client.post("/accounts/reauthenticate/?next=/account/close/", {"password": PASSWORD})
        assert answer["Location"] == "/account/closed/"
    rental.user.refresh_from_db()
    assert rental.user.closing_at


def test_click_that_was_broken_off_is_not_taken_up_when_the_page_is_opened_anew(rental: Rental) -> None:
    client = world.sign_in(rental.user)
    close_by_page(client)
    assert client.get("/account/close/").status_code == 302
    response = client.post("/accounts/reauthenticate/?next=/account/close/", {"password": PASSWORD})
    assert response["Location"] == "/account/close/"
    assert 'name="is_sure"' in client.get("/account/close/").text
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_other_tab_tells_the_reasons_when_something_was_opened_meanwhile(
    rental: Rental, answer: Answer
) -> None:
    client = world.sign_in(rental.user)
    confirm(client)
    assert 'name="is_sure"' in client.get("/account/close/").text
    answer("closing_reasons", lambda _user: ["An order is open."])
    assert "An order is open." in close_by_page(client).text
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_operator_reads_why_not_before_he_clicks() -> None:
    client = world.sign_in(UserFactory(email="boss@example.com", role=User.Role.ADMIN))
    confirm(client)
    for response in (client.get("/account/close/"), close_by_page(client)):
        assert response.status_code == 200
        assert len(response.context["reasons"]) == 1
        assert 'name="is_sure"' not in response.text
    assert User.objects.get().closing_at is None


# Step by step


def test_account_is_closing_until_the_last_relay_is_released(rental: Rental) -> None:
    services.close_account(user=rental.user, by=None)
    user = User.objects.get(pk=rental.user_id)
    do_jobs(user, are_hosts_there=False)
    user.refresh_from_db()
    assert user.closing_at
    assert user.closed_at is None
    with translation.override("en"):
        # Three relays, and the maps: their regions go after the relays.
        assert len(services.closing_left(user)) == 4
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at
    closed_at = user.closed_at
    for _ in range(2):
        do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at == closed_at
    for action in ("user.closing", "user.closed", "rental.closed"):
        assert OperationLog.objects.filter(action=action).count() == 1, action


@pytest.mark.parametrize(
    "step", ["drop_notices", "notify", "end_sessions", "_clean_records", "_forget", "log_operation"]
)
def test_nothing_has_happened_when_closing_dies_at_a_step(
    rental: Rental, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    before = everything()
    with monkeypatch.context() as patch:
        patch.setattr(closing, step, die)
        with pytest.raises(KeyboardInterrupt):
            services.close_account(user=rental.user, by=None)
    assert everything() == before
    assert services.close_account(user=User.objects.get(pk=rental.user_id), by=None)


@pytest.mark.django_db(transaction=True)
def test_one_closing_wins_when_four_come_at_once() -> None:
    user = UserFactory()
    barrier = threading.Barrier(4)

    def close(_number: int) -> bool:
        try:
            connection.ensure_connection()
            barrier.wait(timeout=60)
            return services.close_account(user=user, by=None)
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(close, range(4))) == [False, False, False, True]
    assert told(user, "account_closed") == 1
    assert OperationLog.objects.filter(action="user.closing").count() == 1


def test_sweep_rings_again_when_the_bell_was_lost(rental: Rental, announced: list[tuple[str, int]]) -> None:
    services.close_account(user=rental.user, by=None)
    announced.clear()
    closing.sweep_closing(now=timezone.now())
    assert announced == [("account_closing", rental.user_id)]


def test_account_without_a_rental_is_closed_at_once() -> None:
    user = UserFactory()
    services.close_account(user=user, by=None)
    closing.sweep_closing(now=timezone.now())
    user.refresh_from_db()
    assert user.closed_at is None, "the last mail has not left"
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at


def test_account_is_closed_when_the_farewell_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    user, email = UserFactory(email="wei@example.com"), "wei@example.com"

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise MailFailed(f"550 <{email}> is unknown", is_final=True)

    monkeypatch.setattr(services.notices, "deliver", refuse)
    services.close_account(user=user, by=None)
    do_jobs(user)
    user.refresh_from_db()
    assert user.closed_at
    assert Notice.objects.get(kind="account_closed").state == Notice.State.FAILED
    assert email not in everything()


def test_database_refuses_when_an_account_is_closing_and_active() -> None:
    user = UserFactory()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=user.pk).update(closing_at=timezone.now())


def test_nothing_can_be_redeemed_when_the_account_is_closing(rental: Rental) -> None:
    services.close_account(user=rental.user, by=None)
    code = SerialNumberFactory().code
    with pytest.raises(AccountBarred):
        redeem_serial(code=code, user=User.objects.get(pk=rental.user_id), by=None)
    assert Redemption.objects.filter(rental=rental).count() == 1
