"""Whoever copies the map from the page is taken to have the version that stood there, however he copies it."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Demo, Window
from tests.panel.running import wait_for

pytestmark = pytest.mark.lab

GREEN = "#relays .relay-card .badge.bg-green-lt"
TAKEN = (
    "import json; from acl.models import AclEvent;"
    "print(json.dumps(list(AclEvent.objects.filter(kind='downloaded').order_by('pk').values_list('file_format', 'version'))))"
)
RENEW = (
    "from acl.services import renew_map; from serials.models import Rental;"
    "renew_map(rental=Rental.objects.get(user__email='{}'), by=None)"
)
NO_CLIPBOARD = "void (navigator.clipboard.writeText = () => Promise.reject(new Error()))"


@pytest.fixture
def page(demo: Demo, open_window: Callable[..., Window]) -> Page:
    """The home page of a customer with three relays; it does not ask for anything by itself any more."""
    window = open_window(language="en")
    window.sign_in("customer")
    page = window.open("/redeem/")
    page.fill("#serial-code", demo.take_serial())
    page.locator("form.serial-box button").click()
    page.locator("button[name=confirm]").click()
    expect(page.locator(GREEN)).to_have_count(3)
    window.open("/home/")
    page.evaluate("document.body.addEventListener('htmx:beforeRequest', event => event.preventDefault())")
    return page


def test_shown_version_is_told_however_it_is_copied(demo: Demo, page: Page) -> None:
    def taken() -> list[list[object]]:
        return json.loads(demo.folder.python(TAKEN).splitlines()[-1])  # type: ignore[no-any-return]

    shown = int(page.locator("#map-text-hujson").get_attribute("data-shown") or "")
    demo.folder.python(RENEW.format(demo.record["logins"]["customer"]["email"]))
    expected: list[list[object]] = [["hujson", shown]]
    button = page.locator("[data-copy='#map-text-hujson']")

    button.click()
    wait_for(lambda: taken() == expected, "the button's copy is told, with the version of the page")

    # By hand: the whole text is the map, a few words of it are not.
    page.locator("#map-text-hujson").click(click_count=2)
    page.keyboard.press("Control+c")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('#map-text-hujson'))")
    page.keyboard.press("Control+c")
    expected.append(["hujson", shown])
    wait_for(lambda: taken() == expected, "a copy by hand is told")

    # Without a clipboard the button copies as a hand does; when that does not work either, nothing is told.
    page.evaluate(NO_CLIPBOARD)
    button.click()
    expected.append(["hujson", shown])
    wait_for(lambda: taken() == expected, "a copy without the clipboard is told once")
    page.evaluate("void (document.execCommand = () => false)")
    button.click()
    page.wait_for_timeout(1000)
    assert taken() == expected

    page.reload()
    assert page.locator("#map-text-hujson").get_attribute("data-shown") == str(shown + 1)
    button.click()
    expected.append(["hujson", shown + 1])
    wait_for(lambda: taken() == expected, "the new version is told as such")
