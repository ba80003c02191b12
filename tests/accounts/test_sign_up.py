import re
from typing import Any

import pytest
from django.contrib.auth import get_user
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core import mail
from django.core.cache import cache
from django.test import Client

from accounts import services
from accounts.models import OperationLog, User
from tests.accounts.conftest import mailed_code
from tests.factories import PASSWORD, UserFactory

pytestmark = pytest.mark.django_db

FORM = {"email": "Wei.Zhang@Example.com", "username": "", "password1": PASSWORD}


def test_sign_up_ends_signed_in_when_code_is_right(client: Client) -> None:
    response = client.post("/accounts/signup/", FORM)
    assert response["Location"] == "/accounts/confirm-email/"
    assert not get_user(client).is_authenticated
    response = client.post("/accounts/confirm-email/", {"code": mailed_code()})
    assert response["Location"] == "/home/"
    user = get_user(client)
    assert isinstance(user, User)
    assert (user.email, user.username, user.role) == ("wei.zhang@example.com", "wei.zhang", "user")
    logged = set(OperationLog.objects.filter(actor=user).values_list("action", flat=True))
    assert logged == {"user.signed_up", "email.confirmed", "user.signed_in"}


def test_sign_up_stays_outside_when_code_is_wrong(client: Client) -> None:
    client.post("/accounts/signup/", FORM)
    response = client.post("/accounts/confirm-email/", {"code": "WRONG-CODE"})
    assert response.status_code == 200
    assert response.context["verify_form"].errors["code"]
    assert not get_user(client).is_authenticated


def test_code_no_longer_counts_when_three_tries_failed(client: Client) -> None:
    client.post("/accounts/signup/", FORM)
    for _ in range(3):
        client.post("/accounts/confirm-email/", {"code": "WRONG-CODE"})
    client.post("/accounts/confirm-email/", {"code": mailed_code()})
    assert not get_user(client).is_authenticated


class CountingHasher(MD5PasswordHasher):
    """Counts what takes the time of a sign-up: passwords that are hashed."""

    hashed = 0

    def encode(self, password: str, salt: str) -> str:
        type(self).hashed += 1
        return super().encode(password, salt)


def test_the_same_work_is_done_when_address_has_an_account(settings: Any) -> None:
    UserFactory(email="wei@example.com")
    settings.PASSWORD_HASHERS = [f"{__name__}.CountingHasher"]
    work = []
    for email in ("new@example.com", "wei@example.com"):
        CountingHasher.hashed, sent = 0, len(mail.outbox)
        Client().post("/accounts/signup/", {**FORM, "email": email, "username": ""})
        work.append((CountingHasher.hashed, len(mail.outbox) - sent))
    assert work == [(1, 1), (1, 1)]


def test_answer_is_the_same_when_address_has_an_account(client: Client) -> None:
    fresh = client.post("/accounts/signup/", {**FORM, "email": "new@example.com"})
    UserFactory(email="wei@example.com")
    mail.outbox.clear()
    known = Client().post("/accounts/signup/", {**FORM, "email": "WEI@example.com", "username": "other"})
    assert (known.status_code, known["Location"]) == (fresh.status_code, fresh["Location"])
    assert User.objects.filter(email="wei@example.com").count() == 1
    assert not User.objects.filter(username="other").exists()
    assert mail.outbox[0].to == ["wei@example.com"]
    assert "/accounts/password/reset/" in mail.outbox[0].body


def test_nobody_is_asked_for_a_user_name_and_may_change_it_afterwards(client: Client) -> None:
    UserFactory(email="wei@example.com")
    assert 'name="username"' not in client.get("/accounts/signup/").text
    client.post("/accounts/signup/", {**FORM, "email": "wei@example.org", "username": "ignored"})
    client.post("/accounts/confirm-email/", {"code": mailed_code()})
    user = User.objects.get(email="wei@example.org")
    assert user.username == "wei2"
    assert 'value="wei2"' in client.get("/account/").text
    response = client.post("/account/", {"username": "WEI", "language": "en"})
    assert "wei3" in response.context["form"].errors["username"][0]


def test_the_code_is_six_digits_and_stands_in_the_mails_subject(client: Client) -> None:
    client.post("/accounts/signup/", FORM)
    code = mailed_code()
    assert re.fullmatch(r"\d{6}", code)
    assert code in mail.outbox[-1].subject
    assert 'inputmode="numeric"' in client.get("/accounts/confirm-email/").text


def test_a_code_is_tried_three_times_however_many_come_at_once(client: Client) -> None:
    """The count in the session is no bound: each of these read it before any had written it."""
    client.post("/accounts/signup/", FORM)
    session = client.session
    began = dict(session.items())
    code = mailed_code()
    statuses = []
    for number in range(5):
        session = client.session
        session.update(began)
        session.save()
        wrong = f"{(int(code) + number + 1) % 10**6:06}"
        statuses.append(client.post("/accounts/confirm-email/", {"code": wrong}).status_code)
    assert statuses == [200, 200, 200, 429, 429]
    session = client.session
    session.update(began)
    session.save()
    assert client.post("/accounts/confirm-email/", {"code": code}).status_code == 429
    assert not User.objects.get().emailaddress_set.get().verified


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("wei.zhang@example.com", "wei.zhang"),
        ("O'Neil+shop@example.com", "oneilshop"),
        ("x@example.com", "userx"),
        ("张伟@example.com", "张伟"),
        ("аdmin@example.com", "dmin"),  # its first letter is Cyrillic
        ("ＷＥＩ@example.com", "wei"),
        ("wei\u200b\u202e\u3164@example.com", "wei"),
        ("taken@example.com", "taken3"),
    ],
)
def test_username_is_made_from_the_address(text: str, suggestion: str) -> None:
    UserFactory(email="taken@example.com")
    UserFactory(email="taken@example.org")
    assert services.suggest_username(text) == suggestion


def test_new_account_keeps_english_when_signed_up_in_english(client: Client) -> None:
    client.cookies["django_language"] = "en"
    client.post("/accounts/signup/", FORM)
    assert User.objects.get().language == "en"


def test_mail_has_code_in_text_and_html(client: Client) -> None:
    client.post("/accounts/signup/", FORM)
    message = mail.outbox[0]
    assert mailed_code() in str(message.alternatives[0][0])
    assert "testserver" in message.body


def test_a_mail_server_that_is_away_is_told_in_words(client: Client, settings) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9  # nobody listens there
    answer = client.post(
        "/accounts/signup/",
        {"email": "new@example.com", "username": "new", "password1": "correct horse battery"},
    )
    assert answer.status_code == 503
    assert "503" in answer.content.decode()
    # The account is there, and the code is sent with the next sign-in, once the limit on codes is over.
    cache.clear()
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    answer = client.post(
        "/accounts/login/", {"login": "new@example.com", "password": "correct horse battery"}
    )
    assert answer.status_code == 302
    assert [message.to for message in mail.outbox] == [["new@example.com"]]
