"""Whoever copies the map from the page is taken to have the version that stood there, however they copy it."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, Demo, Window
from tests.panel.running import wait_for

pytestmark = pytest.mark.lab

GREEN = "#relays .relay-card .panel-state.is-green"
TAKEN = (
    "import json; from acl.maps.models import AclEvent;"
    "print(json.dumps(list(AclEvent.objects.filter(kind='downloaded').order_by('pk').values_list('file_format', 'version'))))"
)
RENEW = (
    "from acl.maps.services import renew_map; from serials.rentals.models import Rental;"
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
    button = page.locator("#derp-map [data-copy='#map-text-hujson']")

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


def test_folded_text_of_a_phone_is_copied_and_stays_open_until_it_may_be_shown_anew(
    demo: Demo, page: Page
) -> None:
    def look_again() -> None:
        with page.expect_response("**/home/relays/**"):
            page.clock.run_for(21_000)

    page.set_viewport_size(PHONE)
    page.clock.install()
    page.reload()
    text, shown = page.locator("#map-text-hujson"), int(page.locator("#map-shown").input_value())
    expect(text).to_be_hidden()
    page.locator("#derp-map [data-copy='#map-text-hujson']").click()
    assert page.evaluate("navigator.clipboard.readText()") == text.text_content()
    expect(text).to_be_hidden()

    # Without a clipboard it is unfolded, so that it can be selected.
    page.evaluate(NO_CLIPBOARD)
    page.locator("#derp-map [data-copy='#map-text-hujson']").click()
    expect(text).to_be_visible()
    demo.folder.python(RENEW.format(demo.record["logins"]["customer"]["email"]))
    look_again()
    page.wait_for_timeout(500)
    expect(text).to_be_visible()
    assert text.get_attribute("data-shown") == str(shown)

    page.locator("#map-pane-hujson summary").click()
    expect(text).to_be_hidden()
    look_again()
    expect(page.locator("#map-shown")).to_have_value(str(shown + 1))
