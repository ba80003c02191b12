"""Signing up, in and out by the API: the rules of the pages hold, and nobody learns there who has an account."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from allauth.mfa.totp.internal.auth import generate_totp_secret
from django.core import mail
from django.db import connections
from django.utils import timezone

from accounts import services
from accounts.access import sign_up, tokens, upkeep
from accounts.access.models import ApiToken, KeptAnswer, Scope, SignUpCode
from accounts.models import OperationLog, User
from derpmgmt.lib import mail as mailing
from tests.accounts.conftest import mailed_code, totp
from tests.accounts.test_sign_up import CountingHasher
from tests.api import Api
from tests.factories import PASSWORD, UserFactory

pytestmark = pytest.mark.django_db

NEW = "Wei.Zhang@Example.com"


def send_code(email: str = NEW) -> str:
    """Asks for a code and reads it in the mail."""
    assert Api().post("user/send_code", {"email": email}).status_code == 200
    return mailed_code()


def body(code: str, **fields: Any) -> dict[str, Any]:
    return {"email": NEW, "password": PASSWORD, "verification_code": code, **fields}


def login(user: User, **fields: Any) -> Any:
    return Api().post("user/login", {"email": user.email, "password": PASSWORD, **fields})


def bearer(token: str) -> Api:
    """The API with that token."""
    tokens.forget_known()
    api = Api()
    api.headers["Authorization"] = f"Bearer {token}"
    return api


def failed(response: Any) -> tuple[int, str, str]:
    found = response.json()
    assert found["success"] is False
    assert found["message"]
    return response.status_code, found["code"], found["field"]


# Signing up


@pytest.mark.parametrize("path", ["user/register", "user/add_user", "add_user"])
def test_whoever_has_the_code_makes_the_account(path: str) -> None:
    code = send_code()
    answer = Api(language="en").post(path, body(code))
    assert answer.status_code == 200, answer.json()
    user = User.objects.get()
    assert answer.json()["user_id"] == user.pk
    assert (user.email, user.username, user.role, user.language) == (
        "wei.zhang@example.com", "wei.zhang", "user", "en",
    )  # fmt: skip
    assert user.check_password(PASSWORD)
    assert EmailAddress.objects.get().verified
    lines = OperationLog.objects.filter(actor=user, subject=user).values_list("action", flat=True)
    assert set(lines) == {"user.signed_up", "email.confirmed"}
    assert set(OperationLog.objects.values_list("ip", flat=True)) == {"127.0.0.1"}
    # The code is used up.
    assert failed(Api().post(path, body(code, email=NEW)))[:2] == (422, "wrong_code")
    assert not SignUpCode.objects.exists()


def test_the_mail_is_in_the_frame_of_the_others_in_both_languages() -> None:
    code = send_code()
    message = mail.outbox[-1]
    assert message.to == ["wei.zhang@example.com"]
    assert message.subject == f"{code} is your sign-up code"
    assert "letter-spacing:4px" in str(message.alternatives[0][0])
    assert code in str(message.alternatives[0][0])
    assert len(code) == 6
    assert code.isdecimal()
    Api(language="zh-hans").post("user/send_code", {"email": "b@example.com"})
    assert "15 分钟" in str(mail.outbox[-1].body)
    # The code is nowhere but in the mail.
    row = SignUpCode.objects.first()
    assert row
    assert code not in f"{row.email_hash} {row.code_hash}"


def test_a_code_counts_for_its_address_until_a_new_one_and_for_a_while() -> None:
    first = send_code()
    second = send_code()
    other = send_code("other@example.com")
    for code in {first, other} - {second}:
        assert failed(Api().post("user/register", body(code))) == (422, "wrong_code", "verification_code")
    SignUpCode.objects.update(ends_at=timezone.now() - timedelta(seconds=1))
    assert failed(Api().post("user/register", body(second)))[1] == "wrong_code"
    assert not User.objects.exists()


@pytest.mark.parametrize("headers", [{}, {"Idempotency_Key": "one"}])
def test_five_tries_use_up_a_code_also_when_they_come_with_a_key(headers: dict[str, str]) -> None:
    code = send_code()
    wrong = f"{(int(code) + 1) % 1_000_000:06}"
    for _ in range(5):
        assert failed(Api().post("user/register", body(wrong), **headers))[1] == "wrong_code"
    assert failed(Api().post("user/register", body(code)))[1] == "wrong_code"
    assert not User.objects.exists()
    # What else is wrong is no try.
    code = send_code()
    for _ in range(6):
        assert failed(Api().post("user/register", body(code, password="1")))[2] == "password"
    assert Api().post("user/register", body(code)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"password": "12345678"}, "password", "common"),
        ({"password": "wei.zhang@example1"}, "password", "similar"),
        ({"username": "taken"}, "username", "“taken2” is free"),
        ({"username": "t a/k"}, "username", "letters"),
        ({"email": "nobody"}, "email", "e-mail"),
        ({"mail": "x"}, "mail", "no such field"),
        ({"verification_code": None}, "verification_code", "missing"),
        ({"password": None}, "password", "required"),
    ],
)
def test_the_rules_of_the_page_hold(fields: dict[str, Any], field: str, words: str) -> None:
    UserFactory(email="taken@example.com")
    answer = Api().post("user/register", body(send_code(), **fields))
    assert failed(answer) == (422, "invalid", field)
    said = answer.json()["message"].lower()
    assert words in said or (words == "e-mail" and "email" in said), said
    assert User.objects.count() == 1


def test_a_request_that_comes_again_with_its_key_has_the_same_answer() -> None:
    code = send_code()
    answers = [Api().post("user/register", body(code), Idempotency_Key="k") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert User.objects.count() == 1
    assert failed(Api().post("user/register", body("000000"), Idempotency_Key="k"))[1] == (
        "idempotency_key_used"
    )


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("key", ["", "k"])
def test_two_requests_at_once_make_one_account(key: str) -> None:
    code = send_code()
    headers = {"Idempotency_Key": key} if key else {}

    def ask(_n: int) -> int:
        try:
            return int(Api().post("user/register", body(code), **headers).status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        codes = sorted(pool.map(ask, range(4)))
    assert codes == ([200] * 4 if key else [200, 422, 422, 422])
    assert User.objects.count() == EmailAddress.objects.count() == 1


def test_nobody_learns_by_a_code_whether_an_address_has_an_account(settings: Any) -> None:
    known = UserFactory(email="known@example.com")
    settings.PASSWORD_HASHERS = [f"{CountingHasher.__module__}.CountingHasher"]
    answers, work = [], []
    for email in ("new@example.com", "known@example.com"):
        CountingHasher.hashed, sent = 0, len(mail.outbox)
        answers.append(Api().post("user/send_code", {"email": email}).json())
        rows = SignUpCode.objects.count()
        for _ in range(6):
            answers.append(Api().post("user/register", body("1234567", email=email)).json())
        work.append((CountingHasher.hashed, len(mail.outbox) - sent, rows))
    assert answers[:7] == answers[7:]
    assert work == [(0, 1, 1), (0, 1, 2)]
    told = mail.outbox[-1]
    assert told.to == [known.email]
    assert "/accounts/password/reset/" in str(told.body)


def test_a_code_is_mailed_as_seldom_as_by_the_page() -> None:
    for n in range(3):
        assert Api().post("user/send_code", {"email": "a@example.com"}).status_code == 200, n
    answer = Api().post("user/send_code", {"email": "a@example.com"})
    assert failed(answer)[:2] == (429, "mail_limited")
    assert int(answer["Retry-After"]) > 0
    # The page's counters are the same.
    from django.test import Client

    for n in range(16):
        Client().post("/accounts/signup/", {"email": f"x{n}@example.com", "password1": "1"})
    answer = Api().post("user/send_code", {"email": "b@example.com"})
    assert failed(answer)[:2] == (429, "too_many_requests")
    assert int(answer["Retry-After"]) > 0
    page = Client().post("/accounts/signup/", {"email": "c@example.com", "password1": PASSWORD})
    assert page.status_code == 429


def test_the_code_before_stays_when_the_mail_server_is_away(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = send_code()
    settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
    settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", 9  # nobody listens there
    monkeypatch.setattr(mailing, "_rests_until", 0.0)
    answer = Api().post("user/send_code", {"email": NEW})
    assert failed(answer)[:2] == (503, "not_sent")
    assert Api().post("user/register", body(code)).status_code == 200


def test_operators_make_accounts_without_a_code() -> None:
    boss = UserFactory(role=User.Role.ADMIN)
    answer = Api(boss).post("add_user", {"email": NEW})
    assert answer.status_code == 200, answer.json()
    user = User.objects.get(pk=answer.json()["user_id"])
    assert not user.has_usable_password()
    line = OperationLog.objects.get(action="user.created", subject=user)
    assert (line.actor, line.detail["token"]) == (boss, "test")
    assert failed(Api(boss).post("user/register", {"email": NEW}))[:2] == (409, "account_exists")
    assert failed(Api(boss).post("user/register", {"email": "x@example.com", "password": "1"}))[2] == (
        "password"
    )


def test_who_asks_for_an_account_may_be_anybody_but_not_with_a_wrong_token() -> None:
    wanted = {"email": "x@example.com", "password": PASSWORD}
    assert failed(bearer("derpmgmt_" + "x" * 43).post("user/register", wanted))[0] == 401
    assert failed(bearer("").post("user/register", wanted))[0] == 401
    assert failed(Api().post("user/register", wanted, Authorization="Basic eDp5"))[0] == 401
    boss, customer = UserFactory(role=User.Role.ADMIN), UserFactory()
    assert failed(Api(boss, scopes=[Scope.ACT]).post("user/register", wanted))[:2] == (403, "scope_missing")
    assert failed(Api(customer).post("user/register", wanted))[:2] == (403, "scope_missing")
    assert failed(Api().post("user/register", wanted))[2] == "verification_code"
    assert User.objects.count() == 2


# Signing in


def test_signing_in_gives_a_token_for_an_hour() -> None:
    user = UserFactory()
    answer = login(user).json()
    assert answer["scopes"] == ["act", "read"]
    assert (answer["user_id"], answer["email"], answer["role"]) == (user.pk, user.email, "user")
    token = ApiToken.objects.get()
    assert token.is_sign_in
    assert token.expires_at
    assert timedelta(minutes=59) < token.expires_at - timezone.now() <= timedelta(hours=1)
    assert bearer(answer["token"]).get("user/me").json()["user_id"] == user.pk
    line = OperationLog.objects.get(action="user.signed_in")
    assert (line.actor, line.subject, line.ip) == (user, user, "127.0.0.1")
    user.refresh_from_db()
    assert user.last_login
    # It stands in no list, and signing out ends it.
    assert bearer(answer["token"]).get("user/tokens").json()["tokens"] == []
    assert bearer(answer["token"]).post("user/logout").status_code == 200
    assert bearer(answer["token"]).get("user/me").status_code == 401
    assert OperationLog.objects.filter(action="user.signed_out", actor=user).count() == 1
    ApiToken.objects.update(revoked_at=None, expires_at=timezone.now())
    assert bearer(answer["token"]).get("user/me").status_code == 401


def test_a_wrong_password_and_an_unknown_address_are_told_alike(settings: Any) -> None:
    user = UserFactory()
    settings.PASSWORD_HASHERS = [f"{CountingHasher.__module__}.CountingHasher"]
    user.set_password(PASSWORD)
    user.save()
    found = []
    for email in (user.email, "nobody@example.com"):
        CountingHasher.hashed = 0
        answer = Api().post("user/login", {"email": email, "password": "wrong-secret-1"})
        found.append((failed(answer), answer.json()["message"], CountingHasher.hashed))
    assert found[0] == found[1]
    assert found[0][0] == (401, "wrong_credentials", "")
    assert found[0][2] == 1
    lines = OperationLog.objects.filter(action="user.sign_in_failed", is_success=False)
    assert set(lines.values_list("target", "subject")) == {
        (user.email, user.pk), ("nobody@example.com", None),
    }  # fmt: skip


def test_tries_count_with_those_of_the_page() -> None:
    from django.test import Client

    user = UserFactory()
    for _ in range(5):
        Client().post("/accounts/login/", {"login": user.email, "password": "wrong-secret-1"})
    for _ in range(5):
        assert failed(login(user, password="wrong-secret-1"))[0] == 401
    answer = login(user)
    assert failed(answer)[:2] == (429, "too_many_requests")
    assert 0 < int(answer["Retry-After"]) <= 600
    page = Client().post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert page.status_code == 429


@pytest.mark.parametrize("what", ["banned", "unconfirmed"])
def test_what_is_with_the_account_is_told_after_the_right_password_only(what: str) -> None:
    user = UserFactory()
    if what == "banned":
        services.ban_user(user=user, by=None)
    else:
        EmailAddress.objects.update(verified=False)
    assert failed(login(user, password="wrong-secret-1"))[:2] == (401, "wrong_credentials")
    code = "not_allowed" if what == "banned" else "address_not_confirmed"
    assert failed(login(user))[:2] == (403, code)
    assert not ApiToken.objects.exists()


def test_a_second_factor_is_asked_for_and_its_code_counts_once() -> None:
    user, secret = UserFactory(), generate_totp_secret()
    services.enrol_second_factor(user=user, secret=secret)
    assert failed(login(user)) == (401, "second_factor_needed", "code")
    assert failed(login(user, code="000000" if totp(secret) != "000000" else "000001"))[1] == "wrong_code"
    code = totp(secret)
    assert failed(login(user, password="wrong-secret-1", code=code))[1] == "wrong_credentials"
    assert login(user, code=code).status_code == 200
    assert failed(login(user, code=code))[1] == "wrong_code"
    recovery = RecoveryCodes.activate(user).get_unused_codes()[0]
    assert login(user, code=recovery).status_code == 200
    assert failed(login(user, code=recovery))[1] == "wrong_code"
    for _ in range(7):
        assert failed(login(user, code="wrong"))[1] == "wrong_code"
    answer = login(user, code=totp(secret, steps=1))
    assert failed(answer)[:2] == (429, "too_many_requests")
    assert "Retry-After" in answer


def test_staff_come_in_with_a_second_factor_only() -> None:
    boss = UserFactory(role=User.Role.SUPERADMIN)
    answer = login(boss)
    assert failed(answer)[:2] == (403, "not_allowed")
    assert "second factor" in answer.json()["message"]
    secret = generate_totp_secret()
    services.enrol_second_factor(user=boss, secret=secret)
    answer = login(boss, code=totp(secret))
    assert answer.json()["scopes"] == ["act", "operate", "read", "sell"]


def test_a_session_is_not_signed_out_by_the_api() -> None:
    from tests.panel import world

    client = world.sign_in(UserFactory())
    answer = client.post("/api/v1/user/logout", {}, content_type="application/json")
    assert failed(answer)[:2] == (409, "no_token")


def test_a_ban_shuts_tokens_within_a_second() -> None:
    user = UserFactory()
    api = bearer(login(user).json()["token"])
    assert api.get("user/me").status_code == 200
    services.ban_user(user=user, by=None)
    until = time.monotonic() + 1.5
    while api.get("user/me").status_code == 200:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert api.get("user/me").status_code == 401


def test_closing_takes_tokens_and_kept_answers_along() -> None:
    user = UserFactory()
    api = Api(user)
    login(user)
    KeptAnswer.objects.create(user=user, key_hash="k", request_hash="r")
    answer = api.post(f"user/{user.pk}/release", {"password": PASSWORD})
    assert answer.status_code == 202, answer.json()
    assert not ApiToken.objects.filter(user=user).exists()
    assert not KeptAnswer.objects.filter(user=user).exists()
    tokens.forget_known()
    assert api.get("user/me").status_code == 401


def test_what_is_left_of_codes_is_deleted_when_they_count_no_more() -> None:
    send_code()
    now = timezone.now()
    upkeep.delete_ended_tokens(now)
    assert SignUpCode.objects.count() == 1
    upkeep.delete_ended_tokens(now + sign_up.CODE_LASTS + timedelta(seconds=1))
    assert not SignUpCode.objects.exists()
