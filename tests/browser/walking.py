"""Every page of the panel as somebody finds it: by following links; and what is wrong with one."""

import re
from collections import deque
from collections.abc import Callable
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

from playwright.sync_api import Page

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text()
# Of the addresses that differ only by numbers, codes or these words of their query, one is enough.
KEPT_QUERY = ("tab", "view")
MOST_PAGES = 200
# What is no page, or would end the visit.
PASSED_OVER = re.compile(
    r"/(logout|static|api/openapi\.json)|\.(csv|xlsx|json|yaml|hujson|txt|png|svg|webp)$|jsi18n|/autocomplete/"
)
# Where each role begins, and pages that no link leads to.
STARTS = {
    "visitor": ("/", "/accounts/password/reset/", "/account/closed/", "/nowhere/"),
    "customer": ("/home/", "/devices/place/", "/devices/checking/stop/", "/nowhere/"),
    "distributor": ("/home/",),
    "admin": ("/admin/",),
    "superadmin": ("/admin/",),
}


def kind_of(address: str) -> str:
    """What an address shows, whichever row it is about."""
    parts = urlsplit(address)
    query = parse_qs(parts.query)
    kept = "&".join(f"{name}={query[name][0]}" for name in KEPT_QUERY if name in query)
    return re.sub(r"/\d+(?=/)", "/N", parts.path) + (f"?{kept}" if kept else "")


def crawl(page: Page, url: str, starts: tuple[str, ...], look: Callable[[str], object] = len) -> list[str]:
    """The paths of all pages that links lead to from `starts`, one of each kind, in the order in which they are found.

    `look` is called with each while it is open. Fails where a link leads to a page that is not there.
    """
    found: dict[str, str] = {}
    queue = deque((start, "") for start in starts)
    while queue and len(found) < MOST_PAGES:
        path, before = queue.popleft()
        if kind_of(path) in found or PASSED_OVER.search(urlsplit(path).path):
            continue
        found[kind_of(path)] = path
        answer = page.goto(url + path)
        assert answer is not None, path
        assert answer.status < 400 or not before, f"{before} leads to {path}: {answer.status}"
        links = page.eval_on_selector_all(
            "a[href]:not([download])", "links => links.map(link => link.getAttribute('href'))"
        )
        for link in links:
            target = urlsplit(urljoin(url + path, link))
            if f"{target.scheme}://{target.netloc}" == url:
                queue.append((target.path + (f"?{target.query}" if target.query else ""), path))
        look(path)
    return list(found.values())


def judge(page: Page) -> list[str]:
    """What is wrong with the open page: axe's findings of every level, and a page that is wider than its window.

    Of the API's page, which Swagger UI draws, nothing: its colours and headings are not ours.
    """
    if urlsplit(page.url).path == "/api/docs":
        return []
    page.evaluate(AXE)
    results: dict[str, Any] = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    found = [
        f"{finding['id']} ({finding['impact']}): {node['html'][:160]} {node['any'][0]['message'] if node['any'] else ''}"
        for finding in results["violations"]
        for node in finding["nodes"][:3]
    ]
    width, room = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    if width > room:
        found.append(f"the page is {width} px wide in a window of {room}")
    return found


def paint(page: Page, theme: str) -> None:
    """The open page in `light` or `dark`, as the person's choice would have it."""
    page.evaluate(
        "theme => { document.documentElement.dataset.bsTheme = document.documentElement.dataset.theme = theme; }",
        theme,
    )
