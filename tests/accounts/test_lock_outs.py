"""Nobody shuts anybody else out by trying wrongly at their account, and nobody guesses their way in."""

import pytest
from django.contrib.auth import get_user
from django.core import mail
from django.test import Client

from accounts import browsers, services, tries
from accounts.models import User
from derpmgmt.lib import limits
from tests.accounts.conftest import mailed_code, totp
from tests.factories import PASSWORD, UserFactory

WRONG = "wrong-secret-1"
LOGIN, RESET = "/accounts/login/", "/accounts/password/reset/"


def _try(browser: Client, email: str, address: str, password: str = WRONG) -> int:
    return browser.post(LOGIN, {"login": email, "password": password}, REMOTE_ADDR=address).status_code


def _enters(browser: Client, email: str, address: str) -> bool:
    _try(browser, email, address, PASSWORD)
    return get_user(browser).is_authenticated


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.SUPERADMIN])
def test_owner_comes_in_when_a_stranger_has_used_up_his_tries(db: None, role: str) -> None:
    user = UserFactory(role=role)
    assert [_try(Client(), user.email, "203.0.113.5") for _ in range(11)] == [200] * 10 + [429]
    # Another address of the stranger's network is the same stranger, and the case of the account's address makes no other of it.
    assert _try(Client(), user.email.upper(), "203.0.113.77", PASSWORD) == 429
    assert _enters(Client(), user.email, "198.51.100.1")


def test_an_ipv6_network_is_one_stranger(db: None) -> None:
    user = UserFactory()
    codes = [_try(Client(), user.email, f"2001:db8:7:{n:x}::1") for n in range(11)]
    assert codes == [200] * 10 + [429]
    assert _enters(Client(), user.email, "2001:db8:8::1")


def test_only_wrong_passwords_count(db: None) -> None:
    user = UserFactory()
    for _ in range(12):
        assert _enters(Client(), user.email, "203.0.113.5")
    assert [_try(Client(), user.email, "203.0.113.5") for _ in range(11)] == [200] * 10 + [429]


@pytest.mark.slow
def test_an_attack_from_many_networks_ends_and_leaves_the_owners_browser_alone(
    db: None, client: Client
) -> None:
    user = UserFactory()
    assert _enters(client, user.email, "198.51.100.1")
    client.post("/accounts/logout/")
    most, _rest = tries.PASSWORD.by_account.split("/")
    codes = [_try(Client(), user.email, f"10.{n // 200}.{n % 200}.1") for n in range(int(most) + 1)]
    assert codes == [200] * int(most) + [429]
    # However many come: their own browser is asked for nothing more, from a network full of strangers too.
    assert _try(Client(), user.email, "198.51.100.9", PASSWORD) == 429
    assert _enters(client, user.email, "10.0.1.1")


def test_a_known_browser_guesses_no_longer_than_others(db: None, client: Client) -> None:
    user = UserFactory()
    _enters(client, user.email, "198.51.100.1")
    client.post("/accounts/logout/")
    # Changing networks is of no use to it.
    codes = [_try(client, user.email, f"203.0.{n}.1") for n in range(11)]
    assert codes == [200] * 10 + [429]


def test_a_browser_is_known_for_its_own_accounts_only(db: None, client: Client) -> None:
    own, other = UserFactory(email="own@example.com"), UserFactory(email="other@example.com")
    _enters(client, own.email, "203.0.113.5")
    client.post("/accounts/logout/")
    codes = [_try(client, other.email, "203.0.113.5") for _ in range(11)]
    assert codes == [200] * 10 + [429]
    forged = Client()
    forged.cookies[browsers.COOKIE] = client.cookies[browsers.COOKIE].value[:-2] + "xx"
    assert _try(forged, other.email, "203.0.113.5", PASSWORD) == 429


def test_what_makes_a_browser_known_is_safe_to_keep(db: None, client: Client) -> None:
    _enters(client, UserFactory().email, "203.0.113.5")
    cookie = client.cookies[browsers.COOKIE]
    assert cookie["httponly"]
    assert cookie["samesite"] == "Lax"
    assert int(cookie["max-age"]) == browsers.LASTS.total_seconds()
    # It opens nothing by itself.
    other = Client()
    other.cookies[browsers.COOKIE] = cookie.value
    assert other.get("/home/").status_code == 302


def test_a_strangers_resets_leave_the_owners_alone(db: None, client: Client) -> None:
    user = UserFactory()
    codes = [
        Client().post(RESET, {"email": user.email}, REMOTE_ADDR="203.0.113.5").status_code for _ in range(6)
    ]
    assert codes[-1] == 429
    _enters(client, user.email, "203.0.113.5")
    client.post("/accounts/logout/")
    mail.outbox.clear()
    response = client.post(RESET, {"email": user.email}, REMOTE_ADDR="203.0.113.5")
    assert response.status_code == 302
    assert [message.to for message in mail.outbox] == [[user.email]]


@pytest.mark.parametrize(
    ("strangers", "owner"), [("203.0.113.{}", "198.51.100.1"), ("2001:db8:7:{}::1", "2001:db8:8::1")]
)
def test_one_network_uses_up_no_more_than_three_of_an_addresss_mails(
    db: None, strangers: str, owner: str
) -> None:
    user = UserFactory()
    asked = [
        Client().post(RESET, {"email": user.email}, REMOTE_ADDR=strangers.format(n)) for n in range(1, 6)
    ]
    assert [answer.status_code for answer in asked] == [302] * 3 + [429] * 2
    assert 590 <= int(asked[-1]["Retry-After"]) <= 600
    # The owner's first visit from a browser of theirs.
    assert Client().post(RESET, {"email": user.email}, REMOTE_ADDR=owner).status_code == 302
    assert [message.to for message in mail.outbox] == [[user.email]] * 4


def test_codes_of_a_second_factor_are_counted_apart_for_a_known_browser(db: None, client: Client) -> None:
    user = UserFactory()
    secret = "JBSWY3DPEHPK3PXP"
    services.enrol_second_factor(user=user, secret=secret)
    page = "/accounts/2fa/authenticate/"
    _try(client, user.email, "198.51.100.1", PASSWORD)
    client.post(page, {"code": totp(secret)})
    assert get_user(client).is_authenticated
    client.post("/accounts/logout/")
    stranger = Client()  # who knows the password
    _try(stranger, user.email, "203.0.113.5", PASSWORD)
    codes = [
        stranger.post(page, {"code": "000000"}, REMOTE_ADDR="203.0.113.5").status_code for _ in range(11)
    ]
    assert codes == [200] * 10 + [429]
    _try(client, user.email, "198.51.100.1", PASSWORD)
    client.post(page, {"code": totp(secret, steps=1)})
    assert get_user(client).is_authenticated


def test_who_is_signed_in_confirms_his_password_whatever_strangers_did(db: None, client: Client) -> None:
    user = UserFactory()
    _enters(client, user.email, "203.0.113.5")
    for _ in range(11):
        _try(Client(), user.email, "203.0.113.5")
    response = client.post("/accounts/reauthenticate/", {"password": PASSWORD}, REMOTE_ADDR="203.0.113.5")
    assert response.status_code == 302


@pytest.mark.django_db
def test_asking_counts_nothing(rf: object) -> None:
    request = rf.post("/")  # type: ignore[attr-defined]
    counts = [limits.Limit("k", "2/h")]
    for _ in range(5):
        limits.ask(request, group="test", counts=counts)
    limits.count(request, group="test", counts=counts)
    limits.count(request, group="test", counts=counts)
    with pytest.raises(limits.TooManyRequests) as reached:
        limits.ask(request, group="test", counts=counts)
    assert 0 < reached.value.wait_seconds <= 3600


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize(
    "path",
    [LOGIN, RESET, "/accounts/signup/", "/accounts/confirm-email/", "/accounts/password/reset/confirm/",
     "/accounts/password/reset/complete/", "/accounts/2fa/webauthn/login/", "/redeem/"],
)  # fmt: skip
def test_what_other_sites_let_a_browser_post_counts_nothing(path: str) -> None:
    """A page anywhere can make its visitors' browsers post to the panel, without a token of the panel's."""
    data = {"login": "a@example.com", "password": WRONG, "email": "a@example.com", "code": "X"}
    elsewhere = Client(enforce_csrf_checks=True)
    assert {elsewhere.post(path, data).status_code for _ in range(31)} == {403}
    assert Client().post(path, data).status_code != 429


@pytest.mark.slow
def test_a_code_that_was_mailed_is_taken_whatever_strangers_of_the_network_type(db: None) -> None:
    user, there = UserFactory(), "203.0.113.5"
    confirm, reset = "/accounts/confirm-email/", "/accounts/password/reset/confirm/"
    guesser = Client()
    guesser.post("/accounts/signup/", _sign_up("stranger@example.com"), REMOTE_ADDR=there)
    for browser in (Client(), guesser):
        for page in (confirm, reset):
            for _ in range(31):
                browser.post(page, {"code": "X"}, REMOTE_ADDR=there)
    neighbour = Client()
    neighbour.post("/accounts/signup/", _sign_up("li@example.com"), REMOTE_ADDR=there)
    neighbour.post(confirm, {"code": mailed_code()}, REMOTE_ADDR=there)
    assert get_user(neighbour).is_authenticated
    forgetful = Client()
    forgetful.post(RESET, {"email": user.email}, REMOTE_ADDR=there)
    answer = forgetful.post(reset, {"code": mailed_code()}, REMOTE_ADDR=there)
    assert answer["Location"] == "/accounts/password/reset/complete/"


def test_a_mailed_code_is_guessed_a_few_times_only(db: None) -> None:
    browser = Client()
    browser.post(RESET, {"email": UserFactory().email})
    code = mailed_code()
    for _ in range(4):
        browser.post("/accounts/password/reset/confirm/", {"code": "X"})
    assert browser.post("/accounts/password/reset/confirm/", {"code": code})["Location"] != (
        "/accounts/password/reset/complete/"
    )


def _sign_up(email: str) -> dict[str, str]:
    return {"email": email, "username": "", "password1": PASSWORD}
