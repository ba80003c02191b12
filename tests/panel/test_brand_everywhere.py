"""Whose panel it is: no page that a customer sees says derpmgmt once a brand is set."""

import json
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import OperationalError
from django.test import Client
from django.urls import reverse

from accounts.brand import forget_brand
from accounts.services import change_brand
from acl.maps.services.versions import refresh_map
from serials.rentals.models import Rental
from tests.panel import world
from tests.panel.test_every_url import Address as Address
from tests.panel.test_every_url import addresses as addresses
from tests.panel.test_every_url import ask as ask
from tests.panel.test_every_url import rental as rental

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


NAME = "云桥加速"


class _Visible(HTMLParser):
    """What people read of a page: its text, and the attributes that browsers show, read aloud or put into fields."""

    def __init__(self) -> None:
        super().__init__()
        self.words: list[str] = []
        self._is_program = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._is_program = tag in {"script", "style"}
        hidden = {"href", "src", "action", "class", "id", "for", "name", "rel"}
        self.words += [value for key, value in attrs if value and key not in hidden]

    def handle_endtag(self, tag: str) -> None:
        self._is_program = False

    def handle_data(self, data: str) -> None:
        if not self._is_program:
            self.words.append(data)


def visible(response: Any) -> str:
    """The words of an answer, those of its headers too."""
    headers = " ".join(value for key, value in response.items() if key not in {"Location", "Set-Cookie"})
    if response.get("Content-Type", "").startswith("application/json"):
        return f"{headers} {json.dumps(response.json(), ensure_ascii=False)}"
    if not response.get("Content-Type", "").startswith("text/html"):
        # A sheet is a packed file: of that its name is read.
        is_text = "sheet" not in response.get("Content-Type", "")
        return f"{headers} {response.content.decode() if is_text else ''}"
    page = _Visible()
    page.feed(response.content.decode())
    return f"{headers} {' '.join(page.words)}"


@pytest.mark.parametrize("role", ["visitor", "customer", "distributor"])
def test_nothing_that_a_customer_sees_says_derpmgmt_when_a_brand_is_set(
    role: str, addresses: list[Address], rental: Rental, ask: Any
) -> None:
    change_brand(by=None, name=NAME)
    client = Client()
    if role != "visitor":
        client = world.sign_in(rental.user) if role == "customer" else world.enter(role, has_factor=False)
    named = set()
    for address in addresses:
        for method in ("get", "post"):
            # What the admin answers a customer is seen by them as well.
            response = ask(client, address, method)
            words = visible(response)
            assert "derpmgmt" not in words, f"{method} {address.name}"
            if NAME in words:
                named.add(address.name)
    assert named >= {"front", "api-docs", "api-openapi", "mailbox"} | (
        {"account_login", "account_signup", "serials:serial-redeem"}
        if role == "visitor"
        else {"home", "history", "accounts:account-show", "acl:map-howto", "acl:live-show", "mfa_index"}
    )


@pytest.mark.parametrize("file_format", ["hujson", "yaml", "json"])
def test_a_map_says_whose_relays_it_has_and_a_new_name_makes_no_new_version(
    file_format: str, rental: Rental
) -> None:
    client, address = world.sign_in(rental.user), reverse("acl:map-download", args=[file_format])
    before, versions = client.get(address).content.decode(), rental.acl_configs.count()
    change_brand(by=None, name=NAME)
    refresh_map(rental=rental, reason="")
    after = client.get(address).content.decode()
    assert after == before.replace("derpmgmt", NAME)
    assert (NAME in after) is (file_format != "json")
    assert rental.acl_configs.count() == versions


def test_pages_that_stand_alone_go_by_the_name_that_was_known_last(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_brand(by=None, name=NAME)
    assert NAME in client.get("/").content.decode()
    forget_brand()

    def fail(*args: Any) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr("accounts.brand.make_brand", fail)
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", fail)
    client.raise_request_exception = False
    client.cookies["sessionid"] = "x" * 32
    response = client.get("/home/")
    assert (response.status_code, NAME in visible(response)) == (503, True)
    assert NAME in client.get("/", headers={"Host": "not ours"}).content.decode()
