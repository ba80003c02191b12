import json
from collections.abc import Callable
from io import StringIO

import pytest
from django.contrib.auth import get_user
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.test import Client
from django.utils import timezone

from accounts import services
from accounts.models import OperationLog, User
from tests.factories import PASSWORD, UserFactory


@pytest.mark.parametrize(
    ("role", "flags"),
    [
        ("user", (False, False)),
        ("distributor", (False, False)),
        ("admin", (True, False)),
        ("superadmin", (True, True)),
    ],
)
def test_flags_follow_the_role(db: None, role: str, flags: tuple[bool, bool]) -> None:
    user = UserFactory(role=role)
    assert (user.is_staff, user.is_superuser) == flags
    user.role = User.Role.USER
    user.save(update_fields=["role"])
    user.refresh_from_db()
    assert (user.is_staff, user.is_superuser) == (False, False)


@pytest.mark.parametrize(
    "wrong", [{"is_staff": True}, {"is_superuser": True}, {"is_active": False}, {"banned_at": timezone.now()}]
)
def test_database_refuses_when_flags_part_from_their_truth(db: None, wrong: dict[str, object]) -> None:
    user = UserFactory()
    with pytest.raises(IntegrityError), transaction.atomic():
        User.objects.filter(pk=user.pk).update(**wrong)


def test_banned_person_is_out_at_once(db: None, sign_in: Callable[[User], Client]) -> None:
    user = UserFactory()
    client = sign_in(user)
    assert get_user(client) == user
    assert services.ban_user(user=user, by=None, reason="spam")
    assert not services.ban_user(user=user, by=None)
    assert not get_user(client).is_authenticated
    response = client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert response["Location"] == "/accounts/inactive/"
    assert not get_user(client).is_authenticated
    assert OperationLog.objects.filter(action="user.banned", subject=user).count() == 1


def test_old_session_stays_dead_when_the_ban_is_lifted(db: None, sign_in: Callable[[User], Client]) -> None:
    user = UserFactory()
    client = sign_in(user)
    services.ban_user(user=user, by=None)
    assert services.unban_user(user=user, by=None)
    assert not get_user(client).is_authenticated
    client.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    assert get_user(client) == user


def test_closed_account_cannot_sign_in(db: None, sign_in: Callable[[User], Client]) -> None:
    user = UserFactory()
    user.closed_at = timezone.now()
    user.save(update_fields=["closed_at"])
    assert not get_user(sign_in(user)).is_authenticated


@pytest.mark.parametrize("act", [services.ban_user, services.unban_user, services.reset_second_factor])
def test_customer_may_do_nothing_to_others(db: None, act: Callable[..., object]) -> None:
    with pytest.raises(services.NotAllowed):
        act(user=UserFactory(email="a@example.com"), by=UserFactory(email="b@example.com"))


def test_log_is_append_only(db: None) -> None:
    UserFactory()
    entry = OperationLog.objects.get()
    for change in (entry.save, entry.delete):
        with pytest.raises(TypeError):
            change()


def test_command_makes_an_account_that_signs_in_at_once(
    db: None, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO(PASSWORD + "\n"))
    out = StringIO()
    call_command(
        "user_create", "Wei@Example.com", "--role", "admin", "--password-stdin", "--json", stdout=out
    )
    made = json.loads(out.getvalue())
    user = User.objects.get(pk=made["id"])
    assert made == {
        "id": user.pk,
        "email": "wei@example.com",
        "username": "wei",
        "role": "admin",
        "has_password": True,
    }
    client.post("/accounts/login/", {"login": "wei@example.com", "password": PASSWORD})
    assert get_user(client) == user


def test_command_tells_where_to_set_a_password_when_none_is_given(db: None) -> None:
    out, err = StringIO(), StringIO()
    call_command("user_create", "wei@example.com", stdout=out, stderr=err)
    assert "wei@example.com" in out.getvalue()
    assert "http://testserver/accounts/password/reset/" in err.getvalue()
    assert not User.objects.get().has_usable_password()


@pytest.mark.parametrize(
    ("arguments", "password"),
    [
        (["taken@example.com"], None),
        (["new@example.com", "--username", "TAKEN"], None),
        (["new@example.com", "--username", "no spaces"], None),
        (["not-an-address"], None),
        (["new@example.com", "--password-stdin"], "123"),
    ],
)
def test_command_refuses_with_a_reason(
    db: None, arguments: list[str], password: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    UserFactory(email="taken@example.com")
    monkeypatch.setattr("sys.stdin", StringIO(f"{password}\n"))
    with pytest.raises(CommandError) as refusal:
        call_command("user_create", *arguments, stdout=StringIO())
    assert str(refusal.value)
    assert User.objects.count() == 1


def test_person_changes_name_and_language(db: None, sign_in: Callable[[User], Client]) -> None:
    user = UserFactory(email="wei@example.com")
    UserFactory(email="taken@example.com")
    client = sign_in(user)
    response = client.post("/account/", {"username": "Taken", "language": "en"})
    assert response.context["form"].errors["username"]
    assert client.post("/account/", {"username": "Wei-Two", "language": "en"}).status_code == 302
    user.refresh_from_db()
    assert (user.username, user.language) == ("wei-two", "en")


@pytest.mark.parametrize(
    "name",
    [
        "аdmin",  # Cyrillic
        "сорес",  # Cyrillic throughout
        "αlpha",  # Greek
        "ɑdmin",  # another Latin a
        "admın",  # without its dot
        "wei\u200bzhang",  # nothing to be seen between
        "\u202enimda",  # turned around
        "wei\u00ad",
        "\u3164\u3164",  # letters that are blank
        "\u115f\u1160",
        "we\u0301i",
        "１٢٣",  # digits of another script
        "a b",
        "wei@example.com",
    ],
)
def test_a_name_that_looks_like_another_is_refused(
    db: None, name: str, sign_in: Callable[[User], Client]
) -> None:
    user = UserFactory(email="wei@example.com")
    response = sign_in(user).post("/account/", {"username": name, "language": "en"})
    assert response.context["form"].errors["username"]
    with pytest.raises(CommandError):
        call_command("user_create", "other@example.com", "--username", name)


@pytest.mark.parametrize(
    ("name", "staffs"),
    [
        ("wl1son", "wilson"),
        ("0perator", "operator"),
        ("ad.min", "admin"),
        ("adrnin", "admin"),
        ("lan_l", "lan1"),
    ],
)
def test_nobody_has_a_name_that_looks_like_the_staffs(
    db: None, name: str, staffs: str, sign_in: Callable[[User], Client]
) -> None:
    admin = UserFactory(email=f"{staffs}@example.com", role=User.Role.ADMIN)
    user = UserFactory()
    response = sign_in(user).post("/account/", {"username": name, "language": "en"})
    assert name in str(response.context["form"].errors["username"])
    with pytest.raises(CommandError):
        call_command("user_create", "other@example.com", "--username", name)
    # One that is made from the address is another, and a customer's name is nobody's business.
    assert services.create_user(email=f"{name}@example.net").username not in {name, staffs}
    User.objects.filter(pk=admin.pk).update(role=User.Role.USER, is_staff=False)
    response = sign_in(user).post("/account/", {"username": name, "language": "en"})
    assert response.status_code == 302
    # Whoever has such a name keeps it when somebody of the staff is called so later.
    User.objects.filter(pk=admin.pk).update(role=User.Role.ADMIN, is_staff=True)
    assert sign_in(user).post("/account/", {"username": name, "language": "zh-hans"}).status_code == 302


@pytest.mark.parametrize(
    ("typed", "name"),
    [("ＷＥＩ", "wei"), (" Wei.Zhang ", "wei.zhang"), ("張偉", "張偉"), ("wei_张-9", "wei_张-9")],
)
def test_a_name_is_put_in_order(typed: str, name: str, sign_in: Callable[[User], Client], db: None) -> None:
    user = UserFactory(email="new@example.com")
    assert sign_in(user).post("/account/", {"username": typed, "language": "en"}).status_code == 302
    assert User.objects.get(email="new@example.com").username == name


def test_the_oldest_sessions_end_when_somebody_signs_in_very_often(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accounts.services.people.MOST_SESSIONS", 3)
    user, browsers = UserFactory(), [Client() for _ in range(6)]
    for browser in browsers:
        browser.post("/accounts/login/", {"login": user.email, "password": PASSWORD})
    shown = browsers[-1].get("/accounts/sessions/").context["sessions"]
    assert len(shown) <= 4
    assert [get_user(browser).is_authenticated for browser in (browsers[0], browsers[-1])] == [False, True]
