"""SQLite that somebody else writes to for a long time: what only reads goes on, what writes says so, and no hash is made meanwhile."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from django.contrib.auth.hashers import MD5PasswordHasher
from django.core.management import call_command
from django.db import connection, connections
from django.test import Client
from django.urls import reverse

from accounts.models import User
from derpmgmt import demo, web
from tests.accounts.conftest import mailed_code
from tests.factories import PASSWORD, WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db(transaction=True)


@contextmanager
def locked() -> Iterator[None]:
    """Another process has the database for writing."""
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite has one writer")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 100")
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")
    finally:
        other.close()
        connection.close()


@pytest.mark.slow
def test_pages_that_read_are_shown() -> None:
    rental = WholeRentalFactory()
    world.add_devices(rental)
    client, staff = world.sign_in(rental.user), world.enter(User.Role.SUPERADMIN, has_factor=True)
    pages: list[tuple[Client, str]] = [
        *((Client(), name) for name in ("front", "account_login", "account_signup", "serials:serial-redeem")),
        *((client, name) for name in ("front", "home", "home-relays", "home-map", "home-devices", "history")),
        *((client, f"acl:{name}") for name in ("device-list", "map-howto", "admission-list")),
        (client, "accounts:account-show"),
        (staff, "admin:index"),
        *(
            (staff, f"admin:{model}_changelist")
            for model in ("accounts_user", "fleet_server", "containers_relay", "serials_rental")
        ),
    ]
    with locked():
        for who, name in pages:
            assert who.get(reverse(name)).status_code == 200, name


def test_pages_that_write_say_that_they_could_not() -> None:
    rental = WholeRentalFactory()
    client = world.sign_in(rental.user)
    client.raise_request_exception = False
    visitor = Client(raise_request_exception=False)
    with locked():
        for who, path, form in (
            (client, "/account/", {"username": "other", "language": "en"}),
            (visitor, "/accounts/login/", {"login": rental.user.email, "password": PASSWORD}),
            (visitor, "/accounts/signup/", {"email": "new@example.com", "password1": PASSWORD}),
        ):
            answer = who.post(path, form)
            assert answer.status_code == 503, path
            assert answer["Retry-After"]
            assert "数据库没有响应" in answer.content.decode()
    rental.user.refresh_from_db()
    assert rental.user.username != "other"


def test_the_web_server_waits_less_long_than_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite has one writer")
    monkeypatch.setitem(connections["default"].settings_dict["OPTIONS"], "timeout", 20)
    monkeypatch.setattr("acl.devices.admission_writer.start", lambda: None)
    web.Web.begin(web.Web.__new__(web.Web))
    connection.close()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout")
        assert cursor.fetchone() == (web.BUSY_SECONDS * 1000,)
    connection.close()


@pytest.fixture
def hashing(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each hash of a password: whether it was made inside a transaction."""
    made: list[bool] = []
    encode = MD5PasswordHasher.encode

    def note(self: MD5PasswordHasher, *args: Any) -> str:
        made.append(connection.in_atomic_block)
        return str(encode(self, *args))

    monkeypatch.setattr(MD5PasswordHasher, "encode", note)
    return made


def test_no_password_is_hashed_inside_a_transaction(
    hashing: list[bool], settings: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VAR_DIR = tmp_path

    def step(act: Callable[[], Any]) -> Any:
        before = len(hashing)
        result = act()
        assert len(hashing) > before
        return result

    client = Client()
    email, first, second = "mei@example.com", "quiet-river-42", "other-river-43"
    step(lambda: client.post("/accounts/signup/", {"email": email, "password1": first}))
    client.post("/accounts/confirm-email/", {"code": mailed_code()})
    assert EmailAddress.objects.get(email=email).verified
    change = {"oldpassword": first, "password1": second, "password2": second}
    step(lambda: client.post("/accounts/password/change/", change))
    client = Client()
    step(lambda: client.post("/accounts/login/", {"login": email, "password": second}))
    step(lambda: Client().post("/accounts/login/", {"login": email, "password": "wrong"}))
    monkeypatch.setattr("sys.stdin", type("Typed", (), {"readline": lambda _self: f"{first}\n"})())
    step(lambda: call_command("user_create", "li@example.com", password_stdin=True))
    assert User.objects.get(email="li@example.com").check_password(first)
    step(demo.seed_people)
    (tmp_path / "logins.json").unlink()
    step(demo.seed_people)
    assert not any(hashing)
