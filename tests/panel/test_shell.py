"""What every page has: the way to the content, where one is, light or dark, and what has just happened."""

import pytest
from django.contrib import messages
from django.http import HttpResponse
from django.test import Client, RequestFactory
from django.urls import reverse

from derpmgmt.middleware import ToastMiddleware
from tests.factories import UserFactory

pytestmark = pytest.mark.django_db


def page(client: Client, name: str) -> str:
    return client.get(reverse(name)).content.decode()


def test_a_page_says_where_one_is_and_leads_past_its_header(client: Client) -> None:
    client.force_login(UserFactory())
    text = page(client, "acl:device-list")
    assert text.index('class="panel-skip" href="#main"') < text.index("<header")
    assert '<main class="panel-main" id="main"' in text
    # Once among the links above, once in the bar at the thumb.
    assert text.count('href="/devices/" aria-current="page"') == 2
    assert 'href="/home/" aria-current' not in text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_light_or_dark_is_chosen_and_stays_until_the_system_decides_again(client: Client, theme: str) -> None:
    client.force_login(UserFactory())
    assert "data-bs-theme" not in page(client, "home")
    assert "theme.js" in page(client, "home")

    answer = client.post(reverse("theme-set"), {"theme": theme, "next": "/devices/?page=2"})
    assert (answer.status_code, answer["Location"]) == (302, "/devices/?page=2")
    text = page(client, "home")
    assert f'data-bs-theme="{theme}"' in text
    assert "theme.js" not in text

    client.post(reverse("theme-set"), {"theme": ""})
    assert "data-bs-theme" not in page(client, "home")


def test_a_theme_that_there_is_not_is_none(client: Client) -> None:
    client.cookies["theme"] = '"><script>'
    assert "data-bs-theme" not in page(client, "front")
    answer = client.post(reverse("theme-set"), {"theme": "pink", "next": "https://elsewhere.example/"})
    assert answer["Location"].startswith("/")
    assert answer.cookies["theme"].value == ""


@pytest.mark.parametrize(
    ("headers", "sent"),
    [({"HX-Request": "true"}, True), ({}, False)],
    ids=["a part of a page", "a whole page"],
)
def test_what_a_request_said_comes_along_with_the_part_that_was_asked_for(
    client: Client, headers: dict[str, str], sent: bool
) -> None:
    client.force_login(UserFactory())
    request = RequestFactory(headers=headers).get("/")
    request.session, request.user = client.session, UserFactory()
    request._messages = messages.storage.default_storage(request)  # type: ignore[attr-defined]

    def view(request: object) -> HttpResponse:
        messages.success(request, "Saved <b>.")  # type: ignore[arg-type]
        return HttpResponse("<p>part</p>")

    text = ToastMiddleware(view)(request).content.decode()
    assert ('hx-swap-oob="beforeend"' in text) is sent
    assert ("Saved &lt;b&gt;." in text) is sent


def test_a_part_that_leads_elsewhere_leaves_what_was_said_to_the_page_there(client: Client) -> None:
    request = RequestFactory(headers={"HX-Request": "true"}).get("/")
    request.session, request.user = client.session, UserFactory()
    request._messages = messages.storage.default_storage(request)  # type: ignore[attr-defined]

    def view(request: object) -> HttpResponse:
        messages.success(request, "Saved.")  # type: ignore[arg-type]
        return HttpResponse("", headers={"HX-Redirect": "/home/"})

    assert ToastMiddleware(view)(request).content == b""
    assert [str(message) for message in request._messages] == ["Saved."]  # type: ignore[attr-defined]
