"""The lists of devices fetch themselves again, and what somebody has unfolded in them stays so."""

from pathlib import Path

import django_htmx
import pytest
from django.conf import settings
from playwright.sync_api import Browser, Route, expect

from tests.browser.conftest import chromium as chromium

pytestmark = pytest.mark.lab

PAGE = """<!doctype html><meta charset="utf-8"><script src="/htmx.js"></script><script src="/devices.js" defer></script>"""
LISTS = """<section id="device-lists" data-quiet hx-get="/lists" hx-trigger="devices-changed from:body" hx-swap="outerHTML">
<b>%d</b><details class="device-out" id="device-out-revoked"><summary>Revoked</summary><p>old laptop</p></details></section>"""


def test_the_revoked_devices_stay_unfolded_when_the_lists_are_fetched_again(chromium: Browser) -> None:
    htmx = Path(django_htmx.__file__).parent / "static" / "django_htmx" / "htmx-2.min.js"
    script = Path(settings.BASE_DIR) / "static" / "devices.js"
    fetched = 0

    def answer(route: Route) -> None:
        nonlocal fetched
        path = route.request.url.removeprefix("http://panel.test")
        if path == "/lists":
            fetched += 1
        body = {
            "/": PAGE + LISTS % 0, "/lists": LISTS % fetched, "/htmx.js": htmx.read_text(), "/devices.js": script.read_text(),
        }[path]  # fmt: skip
        kind = "text/javascript" if path.endswith(".js") else "text/html"
        route.fulfill(body=body, content_type=f"{kind}; charset=utf-8")

    page = chromium.new_page()
    page.route("http://panel.test/**", answer)
    page.goto("http://panel.test/")
    revoked = page.get_by_text("old laptop")
    for number, is_open in enumerate([False, True, True, False, False], start=1):
        if revoked.is_visible() != is_open:
            page.get_by_text("Revoked").click()
        # It listens again once it has settled.
        expect(page.locator(".htmx-added, .htmx-settling, .htmx-swapping")).to_have_count(0)
        page.evaluate("htmx.trigger(document.body, 'devices-changed')")
        expect(page.locator("b")).to_have_text(str(number))
        expect(revoked).to_be_visible(visible=is_open)
    page.close()
