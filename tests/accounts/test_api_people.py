"""Accounts, tokens, notices and the activity log by the API."""

from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services
from accounts.access import tokens
from accounts.access.models import ApiToken, KeptAnswer, Scope
from accounts.models import Notice, OperationLog, User
from accounts.services import closing
from tests.accounts.closing import confirm
from tests.accounts.conftest import send_notices
from tests.accounts.test_api_entrance import failed
from tests.api import Api
from tests.factories import PASSWORD, ChannelFactory, UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture
def boss() -> User:
    return UserFactory(email="boss@example.com", role=User.Role.ADMIN)


@pytest.fixture
def user() -> User:
    return UserFactory(email="wei@example.com")


def names(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.json()
    return [row["email"] for row in answer.json()["users"]]


# Accounts


def test_operators_find_people_as_in_the_admin(boss: User, user: User) -> None:
    banned = UserFactory(email="ban@example.com")
    services.ban_user(user=banned, by=None)
    gone = UserFactory(email="gone@example.com")
    services.close_account(user=gone, by=None)
    api = Api(boss)
    number = f"#{gone.pk}"
    assert names(api.get("user/list")) == [number, "ban@example.com", "wei@example.com", "boss@example.com"]
    for query, found in (
        ({"q": "WEI example"}, ["wei@example.com"]),
        ({"q": "gone@example.com"}, [number]),
        ({"q": number}, [number]),
        ({"q": "gone"}, []),
        ({"role": "admin"}, ["boss@example.com"]),
        ({"state": "banned"}, ["ban@example.com"]),
        ({"state": "closing"}, [number]),
        ({"state": "active", "role": "user"}, ["wei@example.com"]),
        ({"state": "closed"}, []),
    ):
        assert names(api.get("user/list", query)) == found, query
    first = api.get("user/list", {"page_size": 3}).json()
    rest = api.get("user/list", {"page_size": 3, "cursor": first["next_cursor"]}).json()
    assert [row["email"] for row in rest["users"]] == ["boss@example.com"]
    assert rest["next_cursor"] is None
    assert failed(Api(user).get("user/list"))[0] == 403
    assert failed(Api(boss, scopes=[Scope.READ]).get("user/list"))[1] == "scope_missing"
    assert failed(api.get("user/list", {"state": "sad"})) == (422, "invalid", "state")


@pytest.mark.parametrize("path", ["user/list", "notifications/list", "logs/system"])
def test_lists_ask_the_database_as_often_whatever_the_rows(boss: User, path: str) -> None:
    api, counts = Api(boss), []
    for _ in range(2):
        for _n in range(5):
            one = UserFactory()
            services.log_operation(by=one, action="user.signed_in", subject=one)
            services.notify(user=boss, kind="security", key=f"k{one.pk}", context={})
        tokens.forget_known()
        api.get(path)
        tokens.forget_known()
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert api.get(path).status_code == 200
        counts.append(len(queries))
    assert counts == [2, 2]


def test_everybody_reads_their_own_account_only(boss: User, user: User) -> None:
    answer = Api(user).get(f"user/{user.pk}").json()
    assert (answer["email"], answer["state"], answer["has_second_factor"]) == (user.email, "active", False)
    assert failed(Api(user).get(f"user/{boss.pk}"))[:2] == (404, "not_found")
    assert failed(Api(user).get(f"user/{10**30}"))[0] in {404, 422}
    assert Api(boss).get(f"user/{user.pk}").json()["email"] == user.email


def test_closing_ones_own_account_takes_the_password(user: User) -> None:
    api, path = Api(user), f"user/{user.pk}/release"
    for body in ({}, {"password": "wrong-secret-1"}):
        assert failed(api.post(path, body)) == (403, "wrong_password", "password")
    for _ in range(8):
        api.post(path, {"password": "wrong-secret-1"})
    answer = api.post(path, {"password": PASSWORD})
    assert failed(answer)[:2] == (429, "too_many_requests")
    assert "Retry-After" in answer
    # Who asks with a token counts by that alone: their own browser comes in.
    assert world.sign_in(user).get("/home/").status_code == 200
    answer = Api(user).post(path, {"password": PASSWORD})
    assert (answer.status_code, answer.json()["state"]) == (202, "closing")
    user.refresh_from_db()
    assert user.closing_at
    assert user.closing_reason == services.OWN_WISH


def test_operators_close_a_customers_account_and_follow_it(boss: User) -> None:
    user = UserFactory()
    api, path = Api(boss), f"user/{user.pk}/release"
    answer = api.post(path, {"reason": "asked by phone"})
    assert answer.status_code == 202
    line = OperationLog.objects.get(action="user.closing")
    assert (line.actor, line.detail) == (boss, {"reason": "asked by phone", "token": "test"})
    assert api.post(path, {}).status_code == 202
    assert OperationLog.objects.filter(action="user.closing").count() == 1
    assert Api(boss).get(answer.json()["follow"].removeprefix("/api/v1/")).json()["state"] == "closing"
    send_notices()
    closing.sweep_closing(now=timezone.now())
    answer = api.post(path, {})
    assert (answer.status_code, answer.json()["state"]) == (200, "closed")


def test_what_stands_in_the_way_of_a_closing_is_told(
    boss: User, user: User, answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer("closing_reasons", lambda _user: ["There is a bill."])
    response = Api(boss).post(f"user/{user.pk}/release", {})
    assert failed(response)[:2] == (409, "closing_refused")
    assert response.json()["details"] == {"reasons": ["There is a bill."]}
    user.refresh_from_db()
    assert user.is_active


def test_who_may_close_whom(boss: User, user: User) -> None:
    other = UserFactory()
    assert failed(Api(user).post(f"user/{other.pk}/release", {"password": PASSWORD}))[0] == 404
    peer = UserFactory(role=User.Role.ADMIN)
    assert failed(Api(boss).post(f"user/{peer.pk}/release", {}))[:2] == (403, "not_allowed")
    weak = Api(boss, scopes=[Scope.READ, Scope.ACT])
    assert failed(weak.post(f"user/{user.pk}/release", {}))[1] == "scope_missing"
    assert failed(Api(boss).post(f"user/{boss.pk}/release", {"password": PASSWORD}))[1] == "not_allowed"
    assert not User.objects.filter(closing_at__isnull=False).exists()


# Tokens


def post(client: Client, path: str, body: Any, **headers: str) -> Any:
    return client.post(f"/api/v1/{path}", body, content_type="application/json", headers=headers)


def test_a_token_is_made_in_the_browser_after_the_password_and_shown_once(user: User) -> None:
    client = world.sign_in(user)
    wanted = {"name": "backup", "scopes": ["read"]}
    assert failed(post(client, "user/tokens", wanted))[1] == "reauthentication_needed"
    confirm(client)
    key = {"Idempotency-Key": "k"}
    made = post(client, "user/tokens", wanted, **key).json()
    assert post(client, "user/tokens", wanted, **key).json() == made
    assert made["success"]
    (row,) = ApiToken.objects.all()
    assert made["token"].endswith(row.hint)
    assert made["token"] not in str(KeptAnswer.objects.values_list("body", flat=True).query)
    api = Api()
    api.headers["Authorization"] = f"Bearer {made['token']}"
    listed = api.get("user/tokens")
    assert made["token"] not in listed.content.decode()
    (shown,) = listed.json()["tokens"]
    assert (shown["name"], shown["scopes"], shown["expires_at"]) == ("backup", ["read"], None)
    assert shown["last_used_ip"] == "127.0.0.1"
    assert failed(api.post("user/tokens", wanted))[1] == "scope_missing"
    assert failed(Api(user).post("user/tokens", wanted))[1] == "session_needed"
    assert post(client, "user/tokens", {**wanted, "scopes": ["sell"]}).json()["field"] == "scopes"
    assert post(client, "user/tokens", {**wanted, "name": " "}).json()["field"] == "name"
    past = (timezone.now() - timedelta(days=1)).isoformat()
    assert post(client, "user/tokens", {**wanted, "expires_at": past}).json()["field"] == "expires_at"
    assert ApiToken.objects.filter(name="backup").count() == 1


def test_a_token_is_revoked_by_its_owner_only(user: User) -> None:
    token, text = tokens.create_token(user=user, name="one", scopes=["read"], expires_at=None)
    path = f"user/tokens/{token.pk}"
    assert failed(Api(UserFactory()).delete(path))[0] == 404
    api = Api(user)
    assert api.delete(path).json()["message"] == "The token is revoked."
    assert api.delete(path).json()["message"] == "This token was revoked already."
    assert OperationLog.objects.filter(action="token.revoked", detail__token="test").count() == 1
    tokens.forget_known()
    assert tokens.find_token(text, "127.0.0.1") is None


# Notices


def test_operators_write_to_people_by_mail_and_channels(boss: User, user: User) -> None:
    ChannelFactory(user=user)
    api = Api(boss)
    body = {"user_id": user.pk, "subject": "Your <b>relay</b>\nmoves", "text": "One & <two>\n\nThree"}
    answers = [api.post("notifications/send", body, Idempotency_Key="k") for _ in range(2)]
    assert answers[0].json() == answers[1].json()
    assert sorted(Notice.objects.values_list("channel", "kind")) == [
        ("email", "message"),
        ("push", "message"),
    ]
    assert sorted(answers[0].json()["notice_ids"]) == sorted(Notice.objects.values_list("pk", flat=True))
    line = OperationLog.objects.get(action="notice.written")
    assert (line.actor, line.subject) == (boss, user)
    assert "Three" not in str(line.detail)
    Notice.objects.filter(channel="push").delete()
    mail.outbox.clear()
    send_notices()
    (message,) = mail.outbox
    assert message.to == [user.email]
    assert message.subject == "Your <b>relay</b> moves"
    assert "One & <two>\n\nThree" in str(message.body)
    html = str(message.alternatives[0][0])
    assert "One &amp; &lt;two&gt;" in html
    assert "<b>" not in html
    # The person reads that there was one.
    (told,) = Api(user).get("notifications/list", {"kind": "message"}).json()["notifications"]
    assert (told["state"], told["channel"], told["kind_name"]) == ("sent", "email", "Message of an operator")
    assert Api(boss).get("notifications/list", {"kind": "message"}).json()["notifications"] == []
    assert Api(user).get("notifications/list", {"state": "failed"}).json()["notifications"] == []


def test_what_cannot_be_sent_says_why(boss: User, user: User) -> None:
    body = {"user_id": user.pk, "subject": "x", "text": "y"}
    assert failed(Api(user).post("notifications/send", body))[0] == 403
    assert failed(Api(boss).post("notifications/send", {**body, "subject": " \n"})) == (
        422,
        "invalid",
        "subject",
    )
    assert failed(Api(boss).post("notifications/send", {**body, "text": " "}))[2] == "text"
    assert failed(Api(boss).post("notifications/send", {**body, "user_id": 10**9})) == (
        404,
        "not_found",
        "user_id",
    )
    services.ban_user(user=user, by=None)
    assert failed(Api(boss).post("notifications/send", body)) == (409, "notice_refused", "user_id")
    assert not Notice.objects.exists()


# The activity log


def test_the_log_is_read_with_the_admins_filters(boss: User, user: User) -> None:
    services.log_operation(
        by=None, action="user.sign_in_failed", subject=user, is_success=False, ip="203.0.113.9"
    )
    services.log_operation(
        by=boss, action="user.changed", target=user, subject=user, ip="10.0.0.1", reason="secret"
    )
    services.log_operation(by=user, action="user.signed_in", target=user, subject=user, ip="203.0.113.5")
    OperationLog.objects.filter(action="user.created").delete()

    def found(api: Api, **query: Any) -> list[str]:
        answer = api.get("logs/system", query)
        assert answer.status_code == 200, answer.json()
        return [row["action"] for row in answer.json()["logs"]]

    api = Api(boss)
    assert found(api) == ["user.signed_in", "user.changed", "user.sign_in_failed"]
    assert found(api, action="user.changed") == ["user.changed"]
    assert found(api, actor=boss.pk) == ["user.changed"]
    assert found(api, subject=boss.pk) == []
    assert found(api, is_success=False) == ["user.sign_in_failed"]
    assert found(api, since=timezone.now().isoformat()) == []
    assert len(found(api, until=timezone.now().isoformat())) == 3
    row = api.get("logs/system", {"action": "user.changed"}).json()["logs"][0]
    assert (row["actor_id"], row["actor"], row["subject_id"], row["ip"], row["detail"]) == (
        boss.pk, boss.email, user.pk, "10.0.0.1", {"reason": "secret"},
    )  # fmt: skip


def test_customers_read_their_own_lines_and_nothing_about_operators(boss: User, user: User) -> None:
    services.log_operation(
        by=boss, action="user.changed", target="x", subject=user, ip="10.0.0.1", reason="secret"
    )
    services.log_operation(by=boss, action="user.signed_in", subject=boss)
    answer = Api(user).get("logs/system", {"action": "user.changed"})
    (row,) = answer.json()["logs"]
    assert (row["actor_id"], row["actor"], row["target"], row["ip"], row["detail"]) == (
        None,
        "",
        "",
        None,
        {},
    )
    for said in ("10.0.0.1", "secret", boss.email):
        assert said not in answer.content.decode()
    assert Api(user).get("logs/system", {"actor": boss.pk}).json()["logs"] == []
    assert Api(user).get("logs/system", {"action": "user.signed_in"}).json()["logs"] == []


def test_a_line_names_the_token_with_which_it_was_done(user: User) -> None:
    services.log_operation(by=user, action="user.changed", subject=user, token="backup")
    (row,) = Api(user).get("logs/system", {"action": "user.changed"}).json()["logs"]
    assert row["token"] == "backup"
