"""The demo, as `make demo` starts it, and Chromium before it."""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.panel.running import Folder, Running, wait_for

CHROMIUM = "/usr/bin/chromium"
# It runs as root and without a display; nothing may leave the machine.
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
DESKTOP = {"width": 1440, "height": 900}
PHONE = {"width": 390, "height": 844}
PATIENCE_MS = 30_000


class Demo:
    """A demo that runs, and what it told scripts."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.folder = running.folder
        self.record: dict[str, Any] = json.loads((self.folder.path / "demo.json").read_text())
        self._unused = list(self.record["serials"])
        # Each code of a second factor works once.
        self.used_codes: set[str] = set()

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return str(self.record["url"])

    def take_serial(self) -> str:
        """A serial number that no other test uses."""
        return str(self._unused.pop(0))


# Of the module, not of the session: while Playwright runs, Django refuses the database to everybody in this thread.
@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    folder = Folder(tmp_path_factory.mktemp("demo") / "var")
    with folder.running("demo", seconds=120) as running:
        wait_for((folder.path / "demo.json").exists, "the demo says that it is ready")
        yield Demo(running)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield browser
        browser.close()


GIVEN_UP = ("htmx:afterRequest", "htmx:sendAbort")


class Window:
    """One person's browser. Everything that it complains of, or that breaks the content security policy, is kept."""

    def __init__(self, context: BrowserContext, demo: Demo, shots: Path) -> None:
        self.context = context
        self.demo = demo
        self.complaints: list[str] = []
        self._shots = shots
        context.set_default_timeout(PATIENCE_MS)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        context.on("page", self._listen)
        self.page = context.new_page()

    def _listen(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("console", lambda message: self._hear(page, message.type, message.text))
        page.on("dialog", lambda dialog: dialog.accept())

    def _hear(self, page: Page, kind: str, text: str) -> None:
        # A page that is answered with 4xx on purpose is reported by the browser too; the test looks at the page. And htmx reports what
        # gave way to a click (hx-sync) by these two alone; whatever fails has a third.
        is_expected = "the server responded with a status of 4" in text or text.startswith(GIVEN_UP)
        if kind in {"error", "warning"} and not is_expected:
            self.complaints.append(f"{page.url}: {text}")

    def open(self, path: str) -> Page:
        """Go to a path of the demo."""
        self.page.goto(self.demo.url + path)
        return self.page

    def shoot(self, name: str) -> None:
        """A picture of the whole page, in DERPMGMT_TEST_SHOTS or beside the test's other files."""
        # Hiding the caret would leave empty style attributes behind, which htmx takes over into what it swaps in.
        self.page.screenshot(path=self._shots / f"{name}.png", full_page=True, caret="initial")

    def read_mail(self, pattern: str) -> str:
        """The first match in the newest mail of the mailbox page, opened from the link beside the form."""
        with self.context.expect_page() as opened:
            self.page.locator("[role=note] a[href='/mailbox/']").click()
        mailbox = opened.value
        text = mailbox.locator("article .panel-mail").first.inner_text()
        mailbox.close()
        found = re.search(pattern, text, re.MULTILINE)
        assert found, text
        return found[0]

    def sign_in(self, role: str) -> None:
        """The demo's person of that role; staff with the code from the mailbox page."""
        login = self.demo.record["logins"][role]
        page = self.open("/accounts/login/")
        page.fill("input[name=login]", login["email"])
        page.fill("input[name=password]", login["password"])
        page.locator("main form button[type=submit]").first.click()
        if "totp_secret" in login:
            page.wait_for_url("**/2fa/authenticate/**")
            with self.context.expect_page() as opened:
                page.locator("[role=note] a[href='/mailbox/']").click()
            mailbox = opened.value
            row = mailbox.locator("tr").filter(has=mailbox.get_by_text(login["email"], exact=True))
            while (code := row.locator("code").inner_text()) in self.demo.used_codes:
                mailbox.wait_for_timeout(1000)
                mailbox.reload()
            self.demo.used_codes.add(code)
            mailbox.close()
            page.fill("input[name=code]", code)
            page.press("input[name=code]", "Enter")
        page.wait_for_url(lambda url: "/accounts/" not in url)

    def speak_english(self) -> None:
        """Press the switch unless the page is English; the account remembers."""
        if self.page.locator("html").get_attribute("lang") != "en":
            self.page.locator("button[name=language][value=en]").click()
            expect(self.page.locator("html")).to_have_attribute("lang", "en")


@pytest.fixture
def open_window(chromium: Browser, demo: Demo, tmp_path: Path) -> Iterator[Callable[..., Window]]:
    """Opens browsers that know nothing of one another; none of them may have complained at the end."""
    shots = Path(os.environ.get("DERPMGMT_TEST_SHOTS") or tmp_path)
    shots.mkdir(parents=True, exist_ok=True)
    windows: list[Window] = []

    def make(viewport: dict[str, int] = DESKTOP, language: str = "", **more: Any) -> Window:
        context = chromium.new_context(viewport=viewport, **more)  # type: ignore[arg-type]
        if language:
            context.add_cookies([{"name": "django_language", "value": language, "url": demo.url}])
        windows.append(Window(context, demo, shots))
        return windows[-1]

    yield make
    for window in windows:
        window.context.close()
    assert [line for window in windows for line in window.complaints] == []
