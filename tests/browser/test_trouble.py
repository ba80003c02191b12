"""Parts of a page that do not come: the page says so, asks again with pauses, and says no more once they come."""

from pathlib import Path

import django_htmx
import pytest
from django.conf import settings
from playwright.sync_api import Browser, Page, Route, expect

from tests.browser.conftest import chromium as chromium

pytestmark = pytest.mark.lab

PAGE = """<!doctype html><meta charset="utf-8">
<meta name="htmx-config" content='{"includeIndicatorStyles": false, "allowEval": false, "timeout": 2000}'>
<script src="/htmx.js"></script><script src="/fragments.js" defer></script>
<div id="trouble" hidden data-offline="offline" data-limited="limited" data-refused="refused" data-failed="failed"
  data-undone="undone"></div>
<p id="poll" hx-get="/poll" hx-trigger="every 100ms" hx-swap="innerHTML">0</p>
<p id="part" hx-get="/part" hx-trigger="changed from:body" hx-swap="innerHTML">old</p>
<form hx-post="/act" hx-target="#part"><button>act</button></form>"""


class Panel:
    """What answers: a status for each path, or none at all; it counts who asks."""

    def __init__(self) -> None:
        self.status: dict[str, int | None] = {"/poll": 200, "/part": 200, "/act": 200}
        self.asked = dict.fromkeys(self.status, 0)
        self.door: list[Route] = []  # who waits at a slow door

    def answer(self, route: Route) -> None:
        path = route.request.url.removeprefix("http://panel.test")
        static = {
            "/htmx.js": Path(django_htmx.__file__).parent / "static" / "django_htmx" / "htmx-2.min.js",
            "/fragments.js": Path(settings.BASE_DIR) / "static" / "fragments.js",
        }
        if path in static:
            route.fulfill(body=static[path].read_text(), content_type="text/javascript; charset=utf-8")
            return
        if path == "/slow-door":
            self.door.append(route)
            return
        if path not in self.status:
            route.fulfill(body=PAGE if path == "/" else "the door", content_type="text/html; charset=utf-8")
            return
        self.asked[path] += 1
        status = self.status[path]
        if status is None:
            route.abort()
        elif status == 302:
            route.fulfill(status=200, headers={"HX-Redirect": "/slow-door"}, body="")
        else:
            route.fulfill(status=status, body=f"{path} {self.asked[path]}", content_type="text/html")


@pytest.fixture
def panel() -> Panel:
    return Panel()


@pytest.fixture
def page(chromium: Browser, panel: Panel) -> Page:
    page = chromium.new_page()
    page.route("http://panel.test/**", panel.answer)
    page.goto("http://panel.test/")
    expect(page.locator("#poll")).to_contain_text("/poll")
    return page


@pytest.mark.parametrize(
    ("status", "sentence"),
    [
        (None, "offline"),
        (429, "limited"),
        (403, "refused"),
        (404, "refused"),
        (500, "failed"),
        (503, "failed"),
    ],
)
def test_a_poll_that_fails_is_said_and_goes_on_with_pauses(
    page: Page, panel: Panel, status: int | None, sentence: str
) -> None:
    trouble = page.locator("#trouble")
    expect(trouble).to_be_hidden()
    panel.status["/poll"] = status
    expect(trouble).to_have_text(sentence)
    before = panel.asked["/poll"]
    page.wait_for_timeout(1000)  # ten turns, within the first pause
    assert panel.asked["/poll"] - before <= 1
    panel.status["/poll"] = 200
    expect(trouble).to_be_hidden(timeout=30_000)
    expect(page.locator("#poll")).to_contain_text("/poll")
    page.close()


def test_a_part_that_waits_for_an_event_is_asked_for_again(page: Page, panel: Panel) -> None:
    panel.status["/part"] = 503
    page.evaluate("htmx.trigger(document.body, 'changed')")
    expect(page.locator("#trouble")).to_have_text("failed")
    expect(page.locator("#part")).to_have_text("old")
    panel.status["/part"] = 200
    expect(page.locator("#part")).to_contain_text("/part", timeout=30_000)
    expect(page.locator("#trouble")).to_be_hidden(timeout=30_000)
    page.close()


def test_what_somebody_wanted_and_did_not_get_is_said(page: Page, panel: Panel) -> None:
    panel.status["/act"] = None
    page.get_by_role("button", name="act").click()
    expect(page.locator("#trouble")).to_have_text("undone")
    page.close()


def test_an_ended_session_takes_the_whole_window_to_the_door_once(page: Page, panel: Panel) -> None:
    panel.status["/poll"] = 302
    with page.expect_request("http://panel.test/slow-door"):
        pass
    page.wait_for_timeout(1000)  # ten turns of a part that asks by itself: none may send the window off again
    assert len(panel.door) == 1
    panel.door[0].fulfill(body="the door", content_type="text/html; charset=utf-8")
    page.wait_for_url("http://panel.test/slow-door")
    expect(page.locator("body")).to_have_text("the door")
    page.close()
