"""From a serial number to three proven relays and a pasted map, as a person does it."""

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import Page, Route, expect

from serials.numbers import codes
from tests.browser.conftest import PHONE, Demo, Window

pytestmark = pytest.mark.lab
Open = Callable[..., Window]

GREEN = "#relays .relay-card .panel-state.is-green"


def sign_up(window: Window, email: str) -> None:
    """From the sign-up page on, with the code from the mailbox, to where it leads."""
    page = window.page
    page.fill("input[name=email]", email)
    expect(page.locator("input[name=username]")).to_have_count(0)
    password, eye = page.locator("input[name=password1]"), page.locator(".panel-eye")
    password.fill("a-quiet-river-42")
    for shown, pressed in (("text", "true"), ("password", "false")):
        eye.click()
        expect(password).to_have_attribute("type", shown)
        expect(eye).to_have_attribute("aria-pressed", pressed)
    page.locator("main form button[type=submit]").first.click()
    page.wait_for_url("**/accounts/confirm-email/**")
    page.fill(
        "input[name=code]", window.read_mail(r"^\s*[A-Z0-9]{4}-[A-Z0-9]{4}\s*$|^\s*[A-Z0-9]{6}\s*$").strip()
    )
    page.locator("main form button[type=submit]").first.click()


def redeem(window: Window, code: str) -> None:
    """From the redeem page, with a serial number in the box, to home."""
    page = window.page
    page.fill("#serial-code", code)
    page.locator("form.serial-box button").click()
    page.locator("button[name=confirm]").click()
    page.wait_for_url("**/home/")


def map_of(page: Page) -> dict[str, Any]:
    """The map that the page shows as JSON."""
    return json.loads(page.locator("#map-text-json").text_content() or "")


def copy(page: Page, file_format: str) -> str:
    """What is on the clipboard after a tab's copy button."""
    page.locator(f"#map-tab-{file_format}").click()
    button = page.locator(f"#derp-map [data-copy='#map-text-{file_format}']")
    words = button.inner_text()
    with page.expect_response(f"**/map/{file_format}/copied/") as told:
        button.click()
    assert told.value.status == 204
    expect(button).not_to_have_text(words)
    return str(page.evaluate("navigator.clipboard.readText()"))


def test_a_visitor_has_three_proven_relays_and_the_map_in_one_unbroken_run(
    demo: Demo, open_window: Open
) -> None:
    window, code = open_window(), demo.take_serial()
    page = window.open("/")
    window.shoot("01-front")

    # The box groups while one types and forgives small letters, O for 0 and I for 1.
    box = page.locator("#serial-code")
    box.press_sequentially(code.replace("-", "")[:6].lower().replace("0", "o").replace("1", "i"))
    expect(box).to_have_value(f"{code[:4]}-{code[5:7]}")
    box.fill("")
    box.press_sequentially(code.lower())
    expect(box).to_have_value(code)
    expect(box).to_have_class(re.compile("is-valid"))
    page.locator("form.serial-box button").click()
    page.wait_for_url("**/redeem/")
    window.shoot("02-valid")

    # Signing up on the way does not lose it.
    page.locator("main a[href^='/accounts/signup/']").click()
    window.shoot("03-sign-up")
    sign_up(window, "lin@example.com")
    page.wait_for_url("**/redeem/")
    expect(page.locator(".serial-code")).to_have_text(code)
    ends = page.locator(".serial-ends-new")
    expect(ends).to_contain_text(re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d"))
    window.shoot("04-confirm")

    started = time.monotonic()
    page.locator("button[name=confirm]").click()
    page.wait_for_url("**/home/")
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#relays .relay-card")).to_have_count(3)
    seen, steps = set(), set()
    while page.locator(GREEN).count() < 3:
        assert time.monotonic() - started < 30, page.locator("#relays").inner_text()
        seen |= set(
            page.locator("#relays .panel-state").evaluate_all(
                "badges => badges.map(badge => badge.className)"
            )
        )
        steps |= set(page.locator("#relays li.is-now").all_inner_texts())
        if steps and len(steps) < 3:
            window.shoot(f"05-making-{len(steps)}")
        page.wait_for_timeout(50)
    ready = time.monotonic() - started
    print(f"three proven relays {ready:.2f} s after the click on redeem; steps seen: {sorted(steps)}")
    assert any("is-blue" in name for name in seen), "the page never showed a relay being made"
    assert not any("is-grey" in name for name in seen), "the page said that servers are missing"
    for card in page.locator("#relays .relay-card").all():
        assert len(re.findall(r"\d+\.\d ms", card.inner_text())) == 3

    # The map comes by itself too, with all three.
    page.wait_for_function(
        "() => Object.keys(JSON.parse(document.querySelector('#map-text-json')?.textContent || '{\"Regions\": {}}').Regions).length === 3"
    )
    assert page.evaluate("window.sameDocument") is True
    window.shoot("06-home")
    assert page.locator('#rental a[href*="kind=redemption"]').count() == 1

    # The button tests a relay while one looks.
    card = page.locator("#relays .relay-card").first
    before = card.locator(".small").last.inner_text().split("·")[-1]
    page.wait_for_timeout(1100)  # the page tells times by the second
    # What the page has asked for by itself gives way to the click, and may come after it.
    late: list[Route] = []
    page.route("**/home/relays/**", lambda route: late.append(route))
    while not late:
        page.wait_for_timeout(50)
    card.locator("button").click()
    page.unroute("**/home/relays/**")
    with suppress(PlaywrightError):  # it was given up
        late[0].continue_()
    expect(card.locator("button")).to_be_enabled()
    expect(card.locator(".small").last).not_to_contain_text(before)
    expect(card.locator(".panel-state")).to_have_class(re.compile("is-green"))
    assert page.evaluate("window.sameDocument") is True

    # The steps of the first run tick themselves: the relays are ready, and copying is next.
    steps_done = page.locator("#first-run li.is-done")
    expect(steps_done).to_have_count(1)
    expect(page.locator("#first-run-copy")).to_be_visible()

    # What is copied is what is shown, in all three forms; what is downloaded says the same.
    for file_format in ("hujson", "yaml", "json"):
        assert copy(page, file_format) == page.locator(f"#map-text-{file_format}").text_content()
        window.shoot(f"07-map-{file_format}")
    expect(steps_done).to_have_count(2)
    expect(page.locator("#first-run-howto")).to_be_visible()
    shown = map_of(page)
    numbers = sorted(shown["Regions"])
    assert len(numbers) == 3
    assert all("900" <= number <= "999" for number in numbers)
    with page.expect_download() as download:
        page.locator("#map-pane-json a[download]").click()
    assert json.loads(download.value.path().read_text()) == shown
    pins = [node["CertName"] for region in shown["Regions"].values() for node in region["Nodes"]]
    assert len(set(pins)) == 3
    assert all(pin.startswith("sha256-raw:") for pin in pins)

    page.locator("#derp-map a[href='/map/how-to/']").click()
    expect(page.locator("main ol").first.locator("li")).to_have_count(5)
    for region in shown["Regions"].values():
        expect(page.locator("main")).to_contain_text(f"({region['RegionName']})")
    window.shoot("08-how-to")
    page.locator("#howto-tab-headscale").click()
    expect(page.locator("#howto-headscale")).to_be_visible()
    page.locator("main a.btn-primary").click()

    # Another region ID makes another version, on the spot.
    page.locator("#derp-map a[href='/map/history/']").click()
    page.evaluate("window.sameDocument = true")
    fields = page.locator("#map-version input[name=region_id]")
    version = page.locator("#map-version-title").inner_text()
    fields.first.fill("950")
    fields.first.press("Enter")
    expect(page.locator("#map-version-title")).not_to_have_text(version)
    expect(page.locator(".panel-toast.is-success")).to_have_count(1)
    fields.first.fill("950")
    fields.first.press("Enter")
    expect(page.locator("#map-region-error")).to_contain_text("950")
    window.shoot("09-region-refused")
    assert page.evaluate("window.sameDocument") is True
    window.open("/home/")
    assert sorted(map_of(page)["Regions"]) == [*numbers[1:], "950"]
    with page.expect_download() as download:
        page.locator("#map-pane-hujson a[download]").click()
    assert '"950"' in download.value.path().read_text()

    page.locator("#derp-map a[href='/map/history/']").click()
    expect(page.locator("table .panel-state.is-blue")).to_have_count(3 + 2)  # copied and downloaded
    assert page.locator("table .panel-state.is-green").count() >= 2  # made
    window.shoot("10-history")

    # The language stays with the person, and the switch on the page.
    language = page.locator("html").get_attribute("lang")
    page.locator("button[name=language]").click()
    expect(page.locator("html")).not_to_have_attribute("lang", str(language))
    assert page.url.endswith("/map/history/")
    window.open("/home/")
    expect(page.locator("html")).not_to_have_attribute("lang", str(language))
    window.shoot("11-home-other-language")


def test_all_pages_fit_a_phone_and_the_renewal_starts_at_the_old_end(demo: Demo, open_window: Open) -> None:
    window = open_window(PHONE, "en")
    window.sign_in("customer")
    window.speak_english()
    page = window.open("/home/")
    window.shoot("20-phone-home-empty")
    redeem(window, demo.take_serial())
    expect(page.locator(GREEN)).to_have_count(3)
    ends = page.locator("#rental .text-secondary").first.inner_text()
    page.locator("#rental a[href='/redeem/']").click()
    page.fill("#serial-code", demo.take_serial())
    page.locator("form.serial-box button").click()
    assert ends.split("until ")[1][:10] in page.locator(".serial-ends").inner_text()
    window.shoot("21-phone-renew")
    page.locator("button[name=confirm]").click()
    page.wait_for_url("**/home/")
    expect(page.locator(".home-days")).to_have_text("60 days left")
    paths = (
        "/home/",
        "/redeem/",
        "/map/how-to/",
        "/map/netcheck/",
        "/map/history/",
        "/account/",
        "/accounts/email/",
        "/accounts/2fa/",
    )
    for path in (*paths, "/accounts/sessions/", "/accounts/password/change/", "/"):
        window.open(path)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], f"{path} is {width} px wide"
        window.shoot(f"22-phone{path.replace('/', '-').rstrip('-')}")


def test_each_serial_number_that_is_refused_gets_its_own_sentence(demo: Demo, open_window: Open) -> None:
    made = demo.folder.python(
        "from datetime import date; from serials.numbers.services import create_batch, recall_serial;"
        "from serials.numbers.models import SerialBatch; from accounts.models import User; from serials.numbers.services import redeem_serial;"
        "make = lambda **f: create_batch(name='refused', days=30, count=1, by=None, **f).serials.get();"
        "late, gone, owed, used = make(is_paid=True), make(is_paid=True), make(is_paid=False), make(is_paid=True);"
        "SerialBatch.objects.filter(pk=late.batch_id).update(redeem_by=date(2020, 1, 31));"
        "recall_serial(serial=gone, by=None);"
        "other = User.objects.get(role='distributor'); redeem_serial(code=used.code, user=other, by=other);"
        "print(late.code, gone.code, owed.code, used.code)"
    )
    late, gone, owed, used = made.split()
    unknown = codes.generate()
    mistyped = unknown[:-1] + next(symbol for symbol in codes.ALPHABET if symbol != unknown[-1])
    window = open_window(language="en")
    page = window.open("/redeem/")
    box, error = page.locator("#serial-code"), page.locator("#serial-code-error")
    sentences = {}
    for name, code, part in (
        ("unknown", unknown, "never issued"),
        ("mistyped", mistyped, "typing error"),
        ("used", used, "already been used"),
        ("expired", late, "2020"),
        ("recalled", gone, "recalled"),
        ("unpaid", owed, "not paid"),
        ("nothing", "", "Enter a serial number"),
    ):
        box.fill(code)
        if name == "mistyped":
            expect(error).to_contain_text(part)  # said at once, before anything is sent
        page.locator("form.serial-box button").click()
        expect(error).to_contain_text(part)
        expect(box).to_have_value(codes.group(code))
        assert page.url.endswith("/redeem/")
        sentences[name] = error.inner_text()
        window.shoot(f"30-refused-{name}")
    assert len(set(sentences.values())) == 7

    # One's own, a second time: a friendly word and the way home.
    window.sign_in("distributor")
    window.speak_english()
    window.open("/redeem/")
    box.fill(used)
    page.locator("form.serial-box button").click()
    expect(error).to_contain_text("already redeemed")
    page.locator("main a[href='/home/']").click()
    expect(page.locator(GREEN)).to_have_count(3)
