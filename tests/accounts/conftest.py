"""People to test with, and the ways they come in."""

import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, generate_totp_secret, hotp_value
from django.core import mail
from django.test import Client
from django.utils import timezone

from accounts import services
from accounts.models import User
from accounts.services import notices
from derpmgmt.lib import queue
from serials.rentals.models import Rental
from tests.factories import PASSWORD, WholeRentalFactory

Answer = Callable[[str, Callable[[User], list[Any]]], None]


@pytest.fixture
def sign_in(client: Client) -> Callable[[User], Client]:
    """Signs in with the password on the real page."""

    def enter(user: User) -> Client:
        client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
        return client

    return enter


@pytest.fixture
def sign_in_with_factor(sign_in: Callable[[User], Client]) -> Callable[[User], Client]:
    """Gives the account an authenticator app and signs in with password and code."""

    def enter(user: User) -> Client:
        secret = generate_totp_secret()
        services.enrol_second_factor(user=user, secret=secret)
        client = sign_in(user)
        client.post("/accounts/2fa/authenticate/", {"code": totp(secret)})
        return client

    return enter


@pytest.fixture
def rental(db: None) -> Rental:
    """A customer's running rental, with everything that belongs to it."""
    return WholeRentalFactory()


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Has a question answered by one more function."""

    def add(question: str, function: Callable[[User], list[Any]]) -> None:
        monkeypatch.setitem(queue._answers, question, [*queue._answers[question], function])

    return add


def send_notices() -> None:
    """What the queue does with the notices that wait."""
    for pk in notices.due_notices(timezone.now()):
        notices.send_notice(pk)


def totp(secret: str, *, steps: int = 0) -> str:
    """What an authenticator app shows now, or so many steps of half a minute later."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + steps))


def mailed_code() -> str:
    """The code in the newest mail."""
    match = re.search(r"^[A-Z0-9]{4}-[A-Z0-9]{4}$|^[A-Z0-9]{6}$", str(mail.outbox[-1].body), re.MULTILINE)
    assert match, mail.outbox[-1].body
    return match[0]
