"""Whoever must sign in comes back to a page; parts of pages are never answered with another page; signed-in pages are kept nowhere."""

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.test import Client
from django.urls import reverse

from accounts.models import User
from derpmgmt.lib.way_back import page_of
from serials.rentals.models import Rental
from tests.factories import PASSWORD
from tests.panel import world
from tests.panel.test_every_url import (  # noqa: F401  (fixtures)
    PUBLIC,
    Address,
    addresses,
    ask,
    rental,
)

pytestmark = pytest.mark.django_db

HOME = "http://testserver/home/"
HX = {"HTTP_HX_REQUEST": "true", "HTTP_HX_CURRENT_URL": HOME}
FRAGMENTS = ("/home/relays/", "/home/map/", "/home/devices/", "/devices/now/", "/devices/lists/")


def _next(location: str) -> str:
    return parse_qs(urlsplit(location).query)["next"][0]


@pytest.mark.slow
def test_every_door_leads_back_to_a_page_that_opens(
    addresses: list[Address],  # noqa: F811
    rental: Rental,  # noqa: F811
    ask: Callable[..., Any],  # noqa: F811
) -> None:
    """For whoever asks, by GET or POST, with the address of another button as the page they were on."""
    customer, staff = world.sign_in(rental.user), world.enter(User.Role.SUPERADMIN, has_factor=True)
    opened: dict[str, int] = {}
    for address in addresses:
        if address.name in PUBLIC | {"admin:logout", "admin:None"}:
            continue
        for method, options in (
            ("get", {}),
            ("post", {}),
            ("post", {"HTTP_REFERER": f"http://testserver{address.path}"}),
            ("post", {"HTTP_HX_REQUEST": "true", "HTTP_HX_CURRENT_URL": f"http://testserver{address.path}"}),
        ):
            response = ask(Client(), address, method, **options)
            location = response.headers.get("HX-Redirect") or response.headers["Location"]
            where = _next(location)
            if where not in opened:
                browser = staff if address.is_admin else customer
                opened[where] = browser.get(where, follow=True).status_code
            assert page_of(where) == where, f"{method} {address.name} {where} is no page"
            # Where there is no such row (none of the second factor's), or nothing is added or deleted, the page says so.
            fine = {200}
            if "/2fa/" in where:
                fine = {200, 404}
            elif where.endswith(("/add/", "/delete/")):
                fine = {200, 403}
            assert opened[where] in fine, f"{method} {address.name} {location} {opened[where]}"


@pytest.mark.parametrize("path", FRAGMENTS)
def test_a_part_of_a_page_sends_the_whole_window_to_the_door(path: str) -> None:
    response = Client().get(path, **HX)
    assert response.status_code == 200
    assert response.content == b""
    assert response["HX-Redirect"] == "/accounts/login/?next=/home/"
    page = "http://testserver/devices/?q=nas&page=2"
    response = Client().get(path, HTTP_HX_REQUEST="true", HTTP_HX_CURRENT_URL=page)
    assert _next(response["HX-Redirect"]) == "/devices/?q=nas&page=2"
    for foreign in ("https://evil.example/home/", "//evil.example/", "javascript:alert(1)", "http://[", ""):
        response = Client().get(path, HTTP_HX_REQUEST="true", HTTP_HX_CURRENT_URL=foreign)
        assert _next(response["HX-Redirect"]) in {"/home/", "/devices/"}


def test_sessions_end_while_the_page_is_open(rental: Rental) -> None:  # noqa: F811
    client = world.sign_in(rental.user)
    relay = rental.relays.get(slot=1)
    client.session.flush()
    response = client.post(f"/relays/{relay.pk}/probe/", **HX)
    assert response["HX-Redirect"] == "/accounts/login/?next=/home/"
    data = {"login": rental.user.email, "password": PASSWORD}
    assert client.post("/accounts/login/?next=/home/", data | {"next": "/home/"})["Location"] == "/home/"


@pytest.mark.slow
def test_the_language_changes_on_the_page_where_a_button_was_refused(rental: Rental) -> None:  # noqa: F811
    client = world.sign_in(rental.user)
    region = rental.map_regions.first()
    assert region
    path = reverse("acl:region-change", args=[region.pk])
    page = client.post(path, {"region_id": "x"})
    assert f'name="next" value="{path}"' in page.content.decode()
    response = client.post("/account/language/", {"language": "en", "next": path})
    assert response["Location"] == "/map/history/"
    assert client.get(response["Location"]).status_code == 200
    response = client.post("/account/language/", {"language": "en"}, HTTP_REFERER=f"http://testserver{path}")
    assert response["Location"] == "/map/history/"
    response = client.post("/account/language/", {"language": "en", "next": "/devices/?q=nas"})
    assert response["Location"] == "/devices/?q=nas"
    response = client.post("/account/language/", {"language": "en", "next": "https://evil.example/"})
    assert response["Location"] == "/home/"


def test_the_address_of_a_button_says_what_it_is_and_leads_to_its_page(rental: Rental) -> None:  # noqa: F811
    client = world.sign_in(rental.user)
    response = client.get(reverse("acl:device-approve", args=[1]))
    assert response.status_code == 405
    assert response["Allow"] == "POST"
    assert 'href="/devices/"' in response.content.decode()


@pytest.mark.parametrize(
    ("address", "page"),
    [
        ("/home/relays/?map=3", "/home/"),
        ("/devices/lists/?q=x", "/devices/"),
        ("/devices/?q=x", "/devices/?q=x"),
        ("/admin/accounts/user/7/ban/do/", "/admin/accounts/user/7/ban/do/"),
        ("/admin/fleet/server/7/host-key/read/", "/admin/fleet/server/7/host-key/"),
        ("/nowhere/at/all/", "/home/"),
    ],
)
def test_each_address_has_a_page(address: str, page: str) -> None:
    assert page_of(address) == page


@pytest.mark.slow
def test_pages_of_who_is_signed_in_are_kept_in_no_cache(
    addresses: list[Address],  # noqa: F811
    rental: Rental,  # noqa: F811
    ask: Callable[..., Any],  # noqa: F811
) -> None:
    client = world.sign_in(rental.user)
    # The brand's files are the same for everybody, and another address stands for each change.
    others = {"account_logout", "brand-style", "brand-picture"}
    for address in addresses:
        if not address.is_admin and address.name not in others:
            control = ask(client, address, "get").headers["Cache-Control"]
            assert "no-store" in control, address.name
            assert "private" in control, address.name
    assert client.get("/home/")["Cache-Control"] == "private, no-store"
    assert "no-store" not in Client().get("/").headers.get("Cache-Control", "")


def test_a_page_that_is_refused_is_one_line_in_the_log(
    rental: Rental,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = world.sign_in(rental.user)
    caplog.set_level(logging.WARNING)
    assert client.get("/admin/login/").status_code == 403
    assert client.get("/nowhere/").status_code == 404
    lines = [record for record in caplog.records if record.name == "django.request"]
    assert len(lines) == 2
    assert not [record for record in lines if record.exc_info or record.exc_text]
    assert "Traceback" not in caplog.text


def test_an_open_page_looks_slower_and_slower_at_a_relay_that_is_tried_again(rental: Rental) -> None:  # noqa: F811
    rental.relays.filter(slot=1).update(status="failed")
    client = world.sign_in(rental.user)
    context = client.get("/home/").context
    assert context["looks"] == 0
    pauses = [context["pause_ms"]]
    for looks in (20, 50, 70, 90, 130, 5000):
        page = client.get("/home/relays/", {"seen": context["seen"], "looks": looks})
        context = page.context
        assert context["looks"] == looks + 1
        assert f"&amp;looks={looks + 1}" in page.content.decode()
        pauses.append(context["pause_ms"])
    assert f'hx-trigger="every {context["pause_ms"]}ms"' in page.content.decode()
    assert pauses == [500, 500, 1000, 2000, 5000, 20000, 20000]
    # Where something has changed it looks often again; nonsense counts as a first look.
    rental.relays.filter(slot=1).update(status="planned")
    values = {"seen": context["seen"], "looks": context["looks"]}
    assert client.get("/home/relays/", values).context["pause_ms"] == 500
    for looks in ("9" * 5000, "-1", "x", "²"):
        assert client.get("/home/relays/", {"seen": context["seen"], "looks": looks}).status_code == 200
