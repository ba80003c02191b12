"""Closing an account as an operator: in the admin and by the command, and finding it again afterwards."""

import html
import json
import re
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import translation

from accounts import services
from accounts.models import User
from containers.models import Relay
from serials.rentals.models import Rental
from tests.accounts.closing import do_jobs
from tests.accounts.conftest import Answer
from tests.factories import UserFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


def test_admin_closes_and_finds_the_account_again(rental: Rental) -> None:
    email, pk = rental.user.email, rental.user_id
    client = world.enter(User.Role.ADMIN, has_factor=True)
    url = f"/admin/accounts/user/{pk}/close/do/"
    assert next(iter(services.closing_losses(rental.user))) in client.get(url).context["explanation"]
    assert client.post(url, {"reason": "asked by phone"}).status_code == 302
    user = User.objects.get(pk=pk)
    assert user.closing_at
    assert user.closing_reason == "asked by phone"
    do_jobs(user)
    for words in (email, email.upper(), str(pk), f"#{pk}"):
        found = client.get("/admin/accounts/user/", {"q": words}).context["cl"].queryset
        assert user in found, words
    assert user not in client.get("/admin/accounts/user/", {"q": "nobody@example.com"}).context["cl"].queryset
    page = client.get(f"/admin/accounts/user/{pk}/change/").content.decode()
    assert 'href="?tab=history"' in page
    assert "asked by phone" in page
    assert url not in page
    assert client.get(f"/admin/accounts/user/{pk}/change/", {"tab": "history"}).status_code == 200


@pytest.mark.parametrize("is_closed", [False, True])
def test_who_was_slower_reads_that_the_account_is_closed_already(rental: Rental, is_closed: bool) -> None:
    user = rental.user
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.filter(role=User.Role.ADMIN).update(language="en")
    services.close_account(user=user, by=None, reason="the first")
    if is_closed:
        do_jobs(user)
    url, page = f"/admin/accounts/user/{user.pk}/close/do/", f"/admin/accounts/user/{user.pk}/change/"
    for answer in (client.get(url, follow=True), client.post(url, {"reason": "the second"}, follow=True)):
        assert answer.redirect_chain == [(page, 302)]
        assert f"This account is {'closed' if is_closed else 'being closed'} already." in answer.text
        assert "is being closed; they have been told" not in answer.text
    user.refresh_from_db()
    assert (user.closing_reason, bool(user.closed_at)) == ("the first", is_closed)


def test_nothing_is_claimed_when_another_admin_closes_at_the_same_moment(
    rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.filter(role=User.Role.ADMIN).update(language="en")
    close = services.close_account

    def be_slower(**fields: Any) -> bool:
        close(user=rental.user, by=None)
        return close(**fields)

    monkeypatch.setattr(services, "close_account", be_slower)
    answer = client.post(f"/admin/accounts/user/{rental.user_id}/close/do/", {"reason": "x"}, follow=True)
    assert "This account is being closed already." in answer.text
    assert "is being closed; they have been told" not in answer.text


def test_closing_staff_stays_forbidden_to_a_normal_admin() -> None:
    boss = UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    client = world.enter(User.Role.ADMIN, has_factor=True)
    assert client.get(f"/admin/accounts/user/{boss.pk}/close/do/").status_code == 403


def test_admin_reads_why_when_an_account_cannot_be_closed(rental: Rental, answer: Answer) -> None:
    answer("closing_reasons", lambda _user: ["An order is open."])
    client = world.enter(User.Role.ADMIN, has_factor=True)
    url = f"/admin/accounts/user/{rental.user_id}/close/do/"
    assert "An order is open." in client.get(url).content.decode()
    assert "An order is open." in client.post(url, {}, follow=True).content.decode()
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_operators_account_is_closed_by_another_super_admin_only() -> None:
    boss = UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    other = UserFactory(email="other@example.com", role=User.Role.SUPERADMIN)
    admin = UserFactory(email="admin@example.com", role=User.Role.ADMIN)
    customer = UserFactory(email="customer@example.com")
    for user, by in ((boss, boss), (admin, admin), (boss, admin), (admin, customer), (boss, customer)):
        with pytest.raises(services.NotAllowed):
            services.close_account(user=user, by=by)
    assert services.close_account(user=other, by=boss)
    assert services.close_account(user=admin, by=boss)


def test_last_super_admin_is_closed_by_nobody() -> None:
    boss = UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    banned = UserFactory(email="banned@example.com", role=User.Role.SUPERADMIN)
    services.ban_user(user=banned, by=None)
    with pytest.raises(services.NotAllowed):
        services.close_account(user=boss, by=None)
    services.unban_user(user=banned, by=None)
    assert services.close_account(user=boss, by=None)


# By the command


def run(email: str, *options: str) -> tuple[str, str]:
    """The command's standard output and standard error, in English."""
    out, err = StringIO(), StringIO()
    with translation.override("en"):
        call_command("account_close", email, "--yes", *options, stdout=out, stderr=err)
    return out.getvalue(), err.getvalue()


def refusal(email: str) -> str:
    with pytest.raises(CommandError) as error:
        run(email)
    assert error.value.returncode == 1
    return str(error.value)


def test_command_says_for_which_servers_the_closing_waits(rental: Rental) -> None:
    email, user = rental.user.email, rental.user
    names = ", ".join(sorted(relay.server.name for relay in rental.relays.select_related("server")))
    waits = f"It is closed when the relays on 3 servers are removed: {names}."
    out, err = run(email.upper(), "--reason", "fraud", "--json")
    row = json.loads(out)
    assert (row["id"], row["role"], row["closed_at"]) == (user.pk, "user", None)
    assert row["closing_at"]
    assert ", ".join(row["servers"]) == names
    assert row["left"]
    assert err == f"The person is signed out everywhere, and their personal data is deleted. {waits}\n"
    assert run(email)[1] == f"This account is being closed already. {waits}\n"
    assert User.objects.get(pk=user.pk).closing_reason == "fraud"
    rental.relays.exclude(slot=1).update(status=Relay.Status.RELEASED, slot=None)
    name = rental.relays.get(slot=1).server.name
    assert f"It is closed when the relays on 1 server are removed: {name}." in run(email)[1]


def test_command_says_when_the_account_is_closed() -> None:
    user = UserFactory(email="wei@example.com")
    _out, err = run(user.email)
    assert err == (
        "The person is signed out everywhere, and their personal data is deleted. "
        "It is closed as soon as the last mail has left.\n"
    )
    do_jobs(user)
    out, err = run("wei@example.com")
    assert err == "This account is closed already.\n"
    lines = dict(
        line.split(maxsplit=1) for line in out.splitlines() if line.startswith(("Account", "Closed"))
    )
    assert lines["Account"] == str(user.pk)
    assert lines["Closed"] != "–"


def test_command_names_the_reasons_when_refused(rental: Rental, answer: Answer) -> None:
    answer("closing_reasons", lambda user: [f"Balance of {user.pk}: 3.00", "An order is open."])
    assert refusal(rental.user.email) == (
        f"The account cannot be closed yet:\n- Balance of {rental.user_id}: 3.00\n- An order is open."
    )
    rental.user.refresh_from_db()
    assert rental.user.closing_at is None


def test_command_refuses_when_nobody_has_the_address(db: None) -> None:
    assert refusal("nobody@example.com") == "There is no account with the address nobody@example.com."


def test_command_closes_an_operator_but_not_the_last_super_admin() -> None:
    UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    UserFactory(email="admin@example.com", role=User.Role.ADMIN)
    assert json.loads(run("admin@example.com", "--json")[0])["role"] == "admin"
    assert refusal("boss@example.com") == "This is the last super admin; make another one first."


# Found again


@pytest.mark.parametrize(
    ("had", "typed"),
    [
        ("wei@example.com", "Wei@Example.COM"),
        ("wei@example.com", "  wei@example.com\t"),
        ("wei@example.com", "wei@example.com\u200b"),
        ("wei@example.com", "\ufeffwei @example.com"),
        ("wei@example.com", "ｗｅｉ＠ｅｘａｍｐｌｅ。ｃｏｍ"),
        ("j\u00f6rg@example.com", "jo\u0308rg@example.com"),
        ("j\u00f6rg@example.com", "JO\u0308RG@EXAMPLE.COM"),
        ("stra\u00dfe@example.com", "STRASSE@example.com"),
    ],
)
def test_closed_account_is_found_however_its_address_is_written(had: str, typed: str) -> None:
    user, other = UserFactory(email=had), UserFactory(email="other@example.com")
    for one in (user, other):
        services.close_account(user=one, by=None)
    client = world.enter(User.Role.ADMIN, has_factor=True)
    found = client.get("/admin/accounts/user/", {"q": typed}).context["cl"].queryset
    assert list(found) == [user]
    assert client.get("/admin/accounts/user/", {"q": "x" + typed}).context["cl"].queryset.count() == 0


def test_history_of_a_closed_account_is_opened_from_its_page(rental: Rental) -> None:
    user, email = rental.user, rental.user.email
    address = rental.relays.select_related("server")[0].server.address
    serial = rental.redemptions.get(serial__isnull=False).serial
    assert serial
    services.close_account(user=user, by=None)
    do_jobs(user)
    client = world.enter(User.Role.ADMIN, has_factor=True)
    (found,) = client.get("/admin/accounts/user/", {"q": email.upper()}).context["cl"].result_list
    assert found.closed_at
    own = reverse("admin:accounts_user_change", args=[found.pk])
    page = client.get(own).text + client.get(f"{own}?tab=notices").text
    links = [html.unescape(link) for link in re.findall(r'href="([^"]+)"', page)]
    opened = {}
    for link in links:
        if re.search(rf"/{user.pk}/|%23{user.pk}|={user.pk}$", link):
            response = client.get(link)
            assert response.status_code == 200, link
            assert email not in response.text, link
            opened[link] = response.text
    history = client.get(own, {"tab": "history"}).text
    for words in (serial.masked, address):
        assert words in history, words
    kinds = ("rental", "redemption", "relay", "map", "notice")
    for kind in kinds:
        lines = client.get(own, {"tab": "history", "kind": kind, "view": "table"}).context["lines"]
        assert lines, kind
    by_address = f"{reverse('admin:accounts_notice_changelist')}?user__id__exact={user.pk}"
    assert by_address in opened
    assert "account_closed" in opened[by_address]
