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
# Windows narrower than this are phones, where thumbs need room and nobody scrolls for ever.
PHONES_PX = 576
LEAST_TARGET_PX = 44
MOST_HEIGHT_PX = 11_000
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


# What is too small for a thumb, as WCAG 2.5.5 has it: whatever is pressed, a box to tick with its label, in folded parts too. Free are links
# within a line of text (navigation is none), what is off (no target then), and what leads to the same address as one that is large enough.
SMALL_TARGETS = """least => {
  const TARGETS = 'a[href], button, input:not([type=hidden]), select, textarea, summary, [role=button], [role=tab]';
  const closed = [...document.querySelectorAll('details:not([open])')];
  closed.forEach(details => { details.open = true; });
  const isSeen = element => {
    const box = element.getBoundingClientRect();
    return element.checkVisibility({visibilityProperty: true}) && box.width > 1 && box.height > 1 && box.bottom > -scrollY;
  };
  const isInline = element => getComputedStyle(element).display === 'inline';
  const isInText = link => {
    if (link.tagName !== 'A' || !isInline(link) || link.closest('nav')) return false;
    let line = link.parentElement;
    while (isInline(line)) line = line.parentElement;
    const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      let around = texts.currentNode.parentElement;
      while (around !== line && isInline(around) && !around.matches(TARGETS)) around = around.parentElement;
      if (around === line && /[\\p{L}\\p{N}]/u.test(texts.currentNode.data)) return true;
    }
    return false;
  };
  const sizeOf = element => {
    const boxes = [element, ...(['checkbox', 'radio', 'file'].includes(element.type) ? element.labels : [])].filter(isSeen).map(seen => seen.getBoundingClientRect());
    boxes.sort((one, other) => Math.min(other.width, other.height) - Math.min(one.width, one.height));
    return boxes[0];
  };
  const found = [...document.querySelectorAll(TARGETS)].filter(element => !element.disabled && (isSeen(element) || [...(element.labels || [])].some(isSeen)))
    .map(element => ({element, box: sizeOf(element)})).filter(({box}) => box);
  const isLarge = ({box}) => box.width >= least - 0.5 && box.height >= least - 0.5;
  const reached = new Set(found.filter(isLarge).map(({element}) => element.href).filter(Boolean));
  const small = found.filter(target => !isLarge(target) && !isInText(target.element) && !reached.has(target.element.href))
    .map(({element, box}) => `${Math.round(box.width)} x ${Math.round(box.height)} px: ${element.outerHTML.slice(0, 160)} in ${element.parentElement.outerHTML.slice(0, 80)}`);
  closed.forEach(details => { details.open = false; });
  return small;
}"""


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
    """What is wrong with the open page: axe's findings of every level, a page that is wider than its window and, on phones, targets
    that are too small for a thumb and a page that has no end.

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
    return found + (judge_for_thumbs(page) if room < PHONES_PX else [])


def judge_for_thumbs(page: Page) -> list[str]:
    """What is wrong with the open page on a phone."""
    height = page.evaluate("document.documentElement.scrollHeight")
    too_long = [f"the page is {height} px high"] if height > MOST_HEIGHT_PX else []
    return too_long + [f"too small: {target}" for target in page.evaluate(SMALL_TARGETS, LEAST_TARGET_PX)]


def paint(page: Page, theme: str) -> None:
    """The open page in `light` or `dark`, as the person's choice would have it."""
    page.evaluate(
        "theme => { document.documentElement.dataset.bsTheme = document.documentElement.dataset.theme = theme; }",
        theme,
    )
