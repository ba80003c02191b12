import time
from collections.abc import Callable

import pytest
from allauth.mfa.models import Authenticator
from django.contrib import admin
from django.core import mail
from django.core.cache import cache
from django.test import Client, RequestFactory

from accounts import services
from accounts.models import OperationLog, User
from tests.accounts.conftest import send_notices, totp
from tests.factories import PASSWORD, UserFactory

Enter = Callable[[User], Client]
ADMIN, SUPERADMIN = User.Role.ADMIN, User.Role.SUPERADMIN


def test_stranger_is_sent_to_sign_in_when_opening_the_admin(client: Client, db: None) -> None:
    response = client.get("/admin/accounts/user/", follow=True)
    assert response.redirect_chain[-1][0] == "/accounts/login/?next=%2Fadmin%2Faccounts%2Fuser%2F"


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_customer_is_refused_when_opening_the_admin(db: None, role: str, sign_in_with_factor: Enter) -> None:
    client = sign_in_with_factor(UserFactory(role=role))
    assert client.get("/admin/", follow=True).status_code == 403


@pytest.mark.django_db(transaction=True)
def test_staff_set_up_a_second_factor_first_when_they_have_none(sign_in: Enter) -> None:
    client = sign_in(UserFactory(role=SUPERADMIN))
    client.cookies["django_language"] = "en"
    response = client.get("/admin/", follow=True)
    assert "/accounts/2fa/totp/activate/" in response.redirect_chain[1][0]
    assert response.redirect_chain[-1][0].startswith("/accounts/reauthenticate/")
    client.post(response.redirect_chain[-1][0], {"password": PASSWORD})
    page = client.get("/accounts/2fa/totp/activate/")
    client.post("/accounts/2fa/totp/activate/", {"code": totp(page.context["form"].secret)})
    # The code just shown counts for this session: no second round before the door opens.
    assert client.get("/admin/").status_code == 200


def test_staff_confirm_again_when_this_session_used_no_second_factor(db: None, sign_in: Enter) -> None:
    user = UserFactory(role=ADMIN)
    client = sign_in(user)
    services.enrol_second_factor(user=user, secret=(secret := "JBSWY3DPEHPK3PXP"))
    response = client.get("/admin/", follow=True)
    assert response.redirect_chain[-1][0] == "/accounts/2fa/reauthenticate/?next=%2Fadmin%2F"
    response = client.post(response.redirect_chain[-1][0], {"code": totp(secret), "next": "/admin/"})
    assert response["Location"] == "/admin/"
    assert client.get("/admin/").status_code == 200


def test_staff_reach_the_admin_when_signed_in_with_second_factor(
    db: None, sign_in_with_factor: Enter
) -> None:
    client = sign_in_with_factor(UserFactory(role=ADMIN))
    for path in (
        "/admin/",
        "/admin/accounts/user/",
        "/admin/accounts/user/add/",
        "/admin/accounts/operationlog/",
    ):
        assert client.get(path).status_code == 200, path


def test_admin_never_leads_outside_when_next_is_foreign(db: None, sign_in_with_factor: Enter) -> None:
    client = sign_in_with_factor(UserFactory(role=ADMIN))
    assert client.get("/admin/login/?next=https://evil.example/")["Location"] == "/admin/"


def test_tables_of_sign_in_are_not_edited_by_hand() -> None:
    assert not {model._meta.app_label for model in admin.site._registry} & {
        "account",
        "auth",
        "mfa",
        "usersessions",
    }


@pytest.mark.parametrize(("steps", "is_taken"), [(-2, False), (-1, True), (0, True), (1, True), (2, False)])
def test_a_code_is_good_for_a_step_before_and_after(
    db: None, steps: int, is_taken: bool, sign_in: Enter, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now)
    user = UserFactory()
    services.enrol_second_factor(user=user, secret=(secret := "JBSWY3DPEHPK3PXP"))
    client = sign_in(user)
    client.post("/accounts/2fa/authenticate/", {"code": totp(secret, steps=steps)})
    assert ("_auth_user_id" in client.session) == is_taken


@pytest.mark.parametrize("typed", ["{}", " {}", "{}-"])
def test_a_code_is_taken_once_when_allauth_has_forgotten_it(db: None, typed: str, sign_in: Enter) -> None:
    user = UserFactory()
    services.enrol_second_factor(user=user, secret=(secret := "JBSWY3DPEHPK3PXP"))
    client, code = sign_in(user), totp(secret, steps=1)
    client.post("/accounts/2fa/authenticate/", {"code": code})
    assert cache.delete(f"allauth.mfa.totp.used?user={user.pk}&code={code}")
    for page in ("reauthenticate", "authenticate"):
        if page == "authenticate":
            client.logout()
            sign_in(user)
        answer = client.post(f"/accounts/2fa/{page}/", {"code": typed.format(code)})
        assert answer.context["form"].errors["code"], page
        assert cache.delete(f"allauth.mfa.totp.used?user={user.pk}&code={code}")


def test_the_code_that_activates_an_app_is_taken_once(db: None, sign_in: Enter) -> None:
    """Whoever saw it typed must not come in with it, whatever allauth remembers in the cache."""
    user = UserFactory()
    client = sign_in(user)
    client.post("/accounts/reauthenticate/", {"password": PASSWORD})
    secret = client.get("/accounts/2fa/totp/activate/").context["form"].secret
    code = totp(secret)
    client.post("/accounts/2fa/totp/activate/", {"code": f" {code[:3]} {code[3:]}"})
    assert Authenticator.objects.filter(user=user, type=Authenticator.Type.TOTP).exists()
    answer = client.post("/accounts/2fa/reauthenticate/", {"code": code})
    assert answer.context["form"].errors["code"]
    client.logout()
    sign_in(user)
    answer = client.post("/accounts/2fa/authenticate/", {"code": code})
    assert answer.context["form"].errors["code"]
    client.post("/accounts/2fa/authenticate/", {"code": totp(secret, steps=1)})
    assert "_auth_user_id" in client.session


def test_totp_secret_is_encrypted_at_rest(db: None) -> None:
    services.enrol_second_factor(user=UserFactory(), secret="JBSWY3DPEHPK3PXP")
    assert "JBSWY3DPEHPK3PXP" not in str(Authenticator.objects.get().data)


def test_super_admin_resets_a_lost_second_factor(db: None, sign_in_with_factor: Enter) -> None:
    lost = UserFactory(email="lost@example.com", role=ADMIN)
    services.enrol_second_factor(user=lost, secret="JBSWY3DPEHPK3PXP")
    boss = UserFactory(email="boss@example.com", role=SUPERADMIN)
    client = sign_in_with_factor(boss)
    client.post(f"/admin/accounts/user/{lost.pk}/reset-second-factor/do/")
    send_notices()
    assert not services.has_second_factor(lost)
    entry = OperationLog.objects.get(action="second_factor.reset")
    assert (entry.actor, entry.subject) == (boss, lost)
    assert mail.outbox[-1].to == ["lost@example.com"]
    assert "/accounts/login/" in str(mail.outbox[-1].body)


def test_normal_admin_may_not_touch_staff(db: None, sign_in_with_factor: Enter) -> None:
    other = UserFactory(email="other@example.com", role=ADMIN)
    services.enrol_second_factor(user=other, secret="JBSWY3DPEHPK3PXP")
    client = sign_in_with_factor(UserFactory(email="me@example.com", role=ADMIN))
    for act in ("reset-second-factor", "ban"):
        client.post(f"/admin/accounts/user/{other.pk}/{act}/do/")
    data = {"username": "x1", "language": "en", "role": SUPERADMIN, "_save": ""}
    assert client.post(f"/admin/accounts/user/{other.pk}/change/", data).status_code == 403
    other.refresh_from_db()
    assert services.has_second_factor(other)
    assert (other.is_active, other.role, other.username) == (True, ADMIN, "other")


def test_normal_admin_may_not_give_rights(db: None, sign_in_with_factor: Enter) -> None:
    customer = UserFactory(email="wei@example.com")
    client = sign_in_with_factor(UserFactory(email="me@example.com", role=ADMIN))
    data = {"username": "wei-new", "language": "en", "role": SUPERADMIN, "_save": ""}
    assert client.post(f"/admin/accounts/user/{customer.pk}/change/", data).status_code == 302
    customer.refresh_from_db()
    assert (customer.username, customer.role) == ("wei-new", User.Role.USER)
    client.post("/admin/accounts/user/add/", {"email": "a@example.com", "username": "", "role": ADMIN})
    assert not User.objects.filter(email="a@example.com").exists()
    client.post(
        "/admin/accounts/user/add/", {"email": "b@example.com", "username": "", "role": "distributor"}
    )
    assert User.objects.get(email="b@example.com").role == "distributor"


def test_role_change_is_logged_and_ends_sessions_when_super_admin_makes_it(
    db: None, sign_in_with_factor: Enter
) -> None:
    customer = UserFactory(email="wei@example.com")
    theirs = Client()
    theirs.post("/accounts/login/", {"login": customer.email, "password": PASSWORD})
    client = sign_in_with_factor(UserFactory(email="boss@example.com", role=SUPERADMIN))
    data = {"username": "wei", "language": "zh-hans", "role": ADMIN, "_save": ""}
    client.post(f"/admin/accounts/user/{customer.pk}/change/", data)
    customer.refresh_from_db()
    assert (customer.role, customer.is_staff, customer.is_superuser) == (ADMIN, True, False)
    assert OperationLog.objects.get(action="user.changed").detail == {
        "before": {"role": "user"},
        "after": {"role": "admin"},
    }
    assert theirs.get("/account/").status_code == 302


def test_log_is_read_only_even_for_super_admin(db: None, sign_in_with_factor: Enter) -> None:
    client = sign_in_with_factor(UserFactory(email="boss@example.com", role=SUPERADMIN))
    entry = OperationLog.objects.first()
    assert entry is not None
    page = f"/admin/accounts/operationlog/{entry.pk}"
    assert client.get(f"{page}/change/").status_code == 200
    assert client.post(f"{page}/change/", {"action": "nothing"}).status_code == 403
    assert client.post(f"{page}/delete/", {"post": "yes"}).status_code == 403


def test_door_is_shut_when_user_is_no_longer_active(db: None) -> None:
    user = UserFactory(role=SUPERADMIN)
    services.ban_user(user=user, by=None)
    user.refresh_from_db()
    request = RequestFactory().get("/admin/")
    request.user = user
    assert not admin.site.has_permission(request)
