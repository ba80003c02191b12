"""Pages are compressed, unless somebody else could learn from how long they are what stands in them."""

import gzip
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client
from django.urls import reverse

from tests.factories import WholeRentalFactory
from tests.panel import world

pytestmark = pytest.mark.django_db


@pytest.fixture
def client() -> Client:
    """Of a customer who has all that one can have, in a browser that takes what is compressed."""
    client = world.sign_in(WholeRentalFactory().user)
    client.defaults["HTTP_ACCEPT_ENCODING"] = "gzip, deflate, br"
    return client


def is_compressed(client: Client, name: str, **headers: str) -> bool:
    answer: Any = client.get(reverse(name), headers=headers)
    assert answer.status_code == 200
    if "Content-Encoding" not in answer.headers:
        return False
    assert answer.headers["Content-Encoding"] == "gzip"
    assert "Accept-Encoding" in answer.headers["Vary"]
    assert gzip.decompress(answer.content)
    return True


@pytest.mark.parametrize("name", ["home", "home-relays", "home-map", "acl:device-list", "acl:live-show"])
@pytest.mark.parametrize("is_https", [False, True])
def test_what_the_panels_own_pages_ask_for_is_compressed(
    client: Client, settings: LazySettings, name: str, is_https: bool
) -> None:
    settings.IS_HTTPS = is_https
    assert is_compressed(client, name, **{"Sec-Fetch-Site": "same-origin"})
    assert is_compressed(client, name, **{"Sec-Fetch-Site": "none"})


@pytest.mark.parametrize("asker", ["cross-site", "same-site"])
@pytest.mark.parametrize("name", ["home", "acl:live-show", "front"])
def test_what_another_site_asks_for_in_a_signed_in_browser_is_not(
    client: Client, asker: str, name: str
) -> None:
    assert not is_compressed(client, name, **{"Sec-Fetch-Site": asker})


def test_browsers_that_do_not_say_who_asks_get_nothing_compressed_over_https(
    client: Client, settings: LazySettings
) -> None:
    settings.IS_HTTPS = True
    assert not is_compressed(client, "home")
    # Whoever listens to http reads it all.
    settings.IS_HTTPS = False
    assert is_compressed(client, "home")


def test_a_stranger_who_comes_from_another_site_gets_the_front_page_compressed(
    settings: LazySettings,
) -> None:
    settings.IS_HTTPS = True
    client = Client(headers={"Accept-Encoding": "gzip"})
    assert is_compressed(client, "front", **{"Sec-Fetch-Site": "cross-site"})


def test_a_token_that_forms_carry_is_another_one_on_each_page(client: Client) -> None:
    def token() -> str:
        return str(client.get(reverse("home")).context["csrf_token"])

    assert token() != token()
