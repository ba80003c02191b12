"""The account's page of API tokens."""

from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from accounts import services
from accounts.access import tokens
from accounts.access.models import ApiToken
from accounts.models import OperationLog, User
from tests.accounts.closing import confirm
from tests.api import Api
from tests.factories import PASSWORD, UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db

LIST = "/account/tokens/"
FORM = {"name": "backup", "scopes": ["read"], "days": "90", "newest": "0"}


@pytest.fixture
def user() -> User:
    return UserFactory(email="wei@example.com", language="en")


@pytest.fixture
def browser(user: User) -> Client:
    """Signed in, the password typed a moment ago."""
    client = world.sign_in(user)
    confirm(client)
    return client


def make(user: User, **fields: Any) -> tuple[ApiToken, str]:
    return tokens.create_token(
        **{"user": user, "name": "one", "scopes": ["read"], "expires_at": None, **fields}
    )


def said(response: Any) -> list[str]:
    return [str(message) for message in response.context["messages"]]


def bearer(text: str) -> Api:
    api = Api()
    api.headers["Authorization"] = f"Bearer {text}"
    return api


def test_a_token_is_made_and_shown_once(user: User, browser: Client) -> None:
    page = browser.get(LIST)
    assert "You have no token yet." in page.text
    assert "/api/docs" in page.text
    assert "90 days" in page.text
    answer = browser.post(LIST, FORM)
    assert answer.status_code == 200
    text = answer.context["text"]
    assert answer.text.count(text) == 1
    assert 'data-copy="#token-text"' in answer.text
    assert "no-store" in answer.headers["Cache-Control"]
    assert bearer(text).get("user/me").json()["scopes"] == ["read"]
    row = ApiToken.objects.get()
    assert row.expires_at
    assert timedelta(days=89) < row.expires_at - timezone.now() <= timedelta(days=90)
    page = browser.get(LIST).text
    assert text not in page
    assert f"…{row.hint}" in page
    assert "backup" in page
    assert "from 127.0.0.1" in page
    assert OperationLog.objects.filter(action="token.created", actor=user, ip="127.0.0.1").count() == 1


def test_a_second_click_makes_no_second_token(browser: Client) -> None:
    browser.post(LIST, FORM)
    answer = browser.post(LIST, FORM)
    assert "maybe by a second click" in answer.text
    assert ApiToken.objects.count() == 1
    # Whoever means it presses once more.
    newest = str(answer.context["newest"])
    assert f'name="newest" value="{newest}"' in answer.text
    assert browser.post(LIST, {**FORM, "newest": newest}).context["text"]
    assert ApiToken.objects.count() == 2


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": " \n"}, "This field is required."),
        ({"name": "x" * 61}, "at most 60 characters"),
        ({"scopes": []}, "Choose at least one."),
        ({"scopes": ["operate"]}, "operate is not one of the available choices"),
        ({"days": "7"}, "7 is not one of the available choices"),
        ({"newest": "x"}, "Send the form once more."),
        ({"newest": str(10**30)}, "Send the form once more."),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_lost(
    browser: Client, fields: dict[str, Any], words: str
) -> None:
    answer = browser.post(LIST, {**FORM, **fields})
    assert answer.status_code == 200
    assert words in unescape(answer.text)
    assert not ApiToken.objects.exists()
    if "name" not in fields:
        assert 'value="backup"' in answer.text
    assert ("checked" in answer.text) is (fields.get("scopes", ["read"]) == ["read"])


def test_making_one_asks_for_the_password_first_and_goes_on_by_itself(user: User) -> None:
    client = world.sign_in(user)
    assert client.get(LIST).status_code == 200
    answer = client.post(LIST, FORM)
    assert answer.status_code == 302
    assert "/reauthenticate/" in answer["Location"]
    assert not ApiToken.objects.exists()
    answer = client.post(answer["Location"], {"password": PASSWORD})
    assert answer.context["text"].startswith(tokens.PREFIX)
    assert ApiToken.objects.count() == 1


def test_a_click_that_was_broken_off_makes_none_later(user: User) -> None:
    client = world.sign_in(user)
    place = client.post(LIST, FORM)["Location"]
    client.get(LIST)
    client.post(place, {"password": PASSWORD})
    assert not ApiToken.objects.exists()


def test_a_token_is_revoked_after_a_question(user: User, browser: Client) -> None:
    token, text = make(user)
    page = browser.get(f"{LIST}{token.pk}/revoke/")
    assert f"Revoke “one” (…{token.hint})?" in page.text
    assert bearer(text).get("user/me").status_code == 200
    answers = [browser.post(f"{LIST}{token.pk}/revoke/", follow=True) for _ in range(2)]
    assert [said(answer) for answer in answers] == [
        ["The token is revoked."],
        ["This token was revoked already."],
    ]
    tokens.forget_known()
    assert bearer(text).get("user/me").status_code == 401
    assert OperationLog.objects.filter(action="token.revoked").count() == 1
    assert said(browser.get(f"{LIST}{token.pk}/revoke/", follow=True)) == ["This token was revoked already."]
    assert "revoked 20" in browser.get(LIST).text


def test_a_token_that_has_ended_says_so(user: User, browser: Client) -> None:
    token, _text = make(user, expires_at=timezone.now() + timedelta(days=1))
    ApiToken.objects.update(expires_at=timezone.now())
    assert ">ended<" in browser.get(LIST).text
    assert f"{token.pk}/revoke/" not in browser.get(LIST).text
    assert said(browser.post(f"{LIST}{token.pk}/revoke/", follow=True)) == ["This token has ended already."]


def test_another_persons_token_is_not_there(browser: Client) -> None:
    token, text = make(UserFactory(email="li@example.com"), name="theirs")
    assert "theirs" not in browser.get(LIST).text
    for ask in (browser.get, browser.post):
        assert said(ask(f"{LIST}{token.pk}/revoke/", follow=True)) == ["This token is not there any more."]
    assert bearer(text).get("user/me").status_code == 200


def test_tokens_of_signing_in_by_the_api_are_not_listed(user: User, browser: Client) -> None:
    Api().post("user/login", {"email": user.email, "password": PASSWORD})
    assert ApiToken.objects.count() == 1
    assert "You have no token yet." in browser.get(LIST).text


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR, User.Role.ADMIN])
def test_each_role_is_offered_what_it_may(role: str) -> None:
    client = world.enter(role, has_factor=role == User.Role.ADMIN)
    boxes = [box.data["value"] for box in client.get(LIST).context["form"]["scopes"]]
    assert (
        boxes
        == {
            User.Role.USER: ["read", "act"],
            User.Role.DISTRIBUTOR: ["read", "act", "sell"],
            User.Role.ADMIN: ["read", "act", "sell", "operate"],
        }[User.Role(role)]
    )


def test_staff_without_a_second_factor_are_sent_to_set_one_up() -> None:
    boss = UserFactory(role=User.Role.ADMIN, language="en")
    client = world.sign_in(boss)
    confirm(client)
    assert "Set up a second factor first" in client.get(LIST).text
    client.post(LIST, FORM)
    assert not ApiToken.objects.exists()


def test_the_page_is_chinese_for_a_chinese_reader(user: User, browser: Client) -> None:
    make(user)
    User.objects.update(language="zh-hans")
    page = browser.get(LIST).text
    for word in ("API 令牌", "从未使用", "永久有效", "创建令牌", "90 天"):
        assert word in page


def test_operators_see_a_persons_tokens_and_with_which_one_something_was_done(user: User) -> None:
    make(user, name="night <job>")
    revoked, _text = make(user, name="old one")
    tokens.revoke_token(token=revoked, by=user)
    line = services.log_operation(by=user, action="user.changed", subject=user, token="night <job>")
    client = world.enter(User.Role.ADMIN, has_factor=True)
    client.post("/account/language/", {"language": "en"})
    page = client.get(f"/admin/accounts/user/{user.pk}/change/").text
    assert "night &lt;job&gt; · read · never used" in page
    assert "old one" not in page
    for url in ("/admin/accounts/operationlog/", f"/admin/accounts/operationlog/{line.pk}/change/"):
        assert "night &lt;job&gt;" in client.get(url).text
    assert "With the API token" in client.get("/admin/accounts/operationlog/").text
