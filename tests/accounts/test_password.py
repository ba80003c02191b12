import re
from collections.abc import Callable

import pytest
from django.contrib.auth import get_user
from django.core import mail
from django.test import Client

from accounts.models import OperationLog, User
from tests.accounts.conftest import mailed_code
from tests.factories import PASSWORD, UserFactory

NEW = "another-river-43"


def test_reset_by_code_opens_the_account_when_code_is_right(db: None, client: Client) -> None:
    user = UserFactory()
    client.post("/accounts/password/reset/", {"email": user.email})
    response = client.post("/accounts/password/reset/confirm/", {"code": mailed_code()})
    assert response["Location"] == "/accounts/password/reset/complete/"
    client.post("/accounts/password/reset/complete/", {"password1": NEW, "password2": NEW})
    user.refresh_from_db()
    assert user.check_password(NEW)
    assert get_user(client) == user
    assert OperationLog.objects.filter(action="password.reset", subject=user).count() == 1


def test_reset_says_the_same_when_address_is_unknown(db: None, client: Client) -> None:
    known = client.post("/accounts/password/reset/", {"email": UserFactory().email})
    unknown = Client().post("/accounts/password/reset/", {"email": "nobody@example.com"})
    assert (unknown.status_code, unknown["Location"]) == (known.status_code, known["Location"])
    assert mail.outbox[-1].to == ["nobody@example.com"]


def test_failed_sign_in_is_logged_without_the_password(db: None, client: Client) -> None:
    user = UserFactory()
    client.post(
        "/accounts/login/", {"login": user.email, "password": "wrong-secret-1"}, REMOTE_ADDR="203.0.113.5"
    )
    entry = OperationLog.objects.get(action="user.sign_in_failed")
    assert (entry.is_success, entry.subject, entry.ip, entry.target) == (
        False,
        user,
        "203.0.113.5",
        user.email,
    )
    assert "wrong-secret-1" not in str(entry.detail)


def test_address_changes_only_when_the_new_one_is_confirmed(
    db: None, sign_in: Callable[[User], Client]
) -> None:
    user = UserFactory(email="old@example.com")
    client = sign_in(user)
    client.post("/accounts/email/", {"email": "new@example.com", "action_add": ""})
    user.refresh_from_db()
    assert user.email == "old@example.com"
    client.post("/accounts/confirm-email/", {"code": mailed_code()})
    user.refresh_from_db()
    assert user.email == "new@example.com"
    assert OperationLog.objects.get(action="email.changed").detail == {
        "before": "old@example.com",
        "after": "new@example.com",
    }
    assert client.post("/accounts/logout/").status_code == 302
    client.post("/accounts/login/", {"login": "new@example.com", "password": PASSWORD})
    assert get_user(client) == user


@pytest.mark.parametrize(
    ("language", "subject"),
    [("en", "is the code for your new e-mail address"), ("zh-hans", "是您新邮箱的验证码")],
)
def test_the_mail_for_a_new_address_is_not_that_of_a_sign_up(
    db: None, sign_in: Callable[[User], Client], language: str, subject: str
) -> None:
    user = UserFactory()
    User.objects.filter(pk=user.pk).update(language=language)
    client = sign_in(user)
    mail.outbox.clear()
    client.post("/accounts/email/", {"email": "new@example.com", "action_add": ""})
    (message,) = mail.outbox
    assert message.to == ["new@example.com"]
    assert message.subject == f"{mailed_code()} {subject}"
    assert not re.search("register|sign up|注册", str(message.body))
    assert mailed_code()
    Client().post("/accounts/signup/", {"email": "li@example.com", "username": "", "password1": PASSWORD})
    assert re.search("signing up|注册", str(mail.outbox[-1].body))
