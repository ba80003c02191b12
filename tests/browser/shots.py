"""`make shots`: every page as every role, in both languages and themes, wide and narrow, and one sheet with all of them.

    python -m tests.browser.shots [FOLDER [ROLE …]]

The folder (var/shots unless told) gets a picture a page, `index.html` and a sheet a role; what axe finds on a page is printed.
"""

import html
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, DESKTOP, PHONE, Demo, Window
from tests.browser.walking import STARTS, crawl, judge, kind_of
from tests.panel.running import Folder, wait_for

LANGUAGES, THEMES = ("zh-hans", "en"), ("light", "dark")
SIZES = {"wide": DESKTOP, "phone": PHONE}
# A sheet is looked at as a whole: of a long page its beginning.
SHEET_CSS = (
    "body{font:14px sans-serif;margin:16px} main{display:grid;grid-template-columns:1fr 1fr;gap:0 32px} section{margin-bottom:24px} div{display:flex;gap:8px;align-items:flex-start}"
    "figure{margin:0;width:220px} figure.phone{width:90px} img{width:100%;max-height:330px;object-fit:cover;object-position:top;border:1px solid #ccc}"
    "figcaption{font-size:11px;color:#555}"
)


def prepare(demo: Demo) -> None:
    """A customer whose relays run and who has a past (tests/browser/seeding.py)."""
    folder = demo.folder
    assert folder.manage("serial_redeem", "customer@example.com", demo.take_serial()).returncode == 0
    count = "from containers.models import Relay; print(Relay.objects.filter(status='running').count())"
    wait_for(lambda: folder.python(count) == "3", "three relays run", pause=1)
    folder.python(
        "from tests.browser.measuring import measure; from tests.browser.seeding import seed; seed(); measure()"
    )


def shoot_role(browser: Browser, demo: Demo, folder: Path, role: str) -> list[str]:
    """Pictures of all pages that `role` finds; their kinds, in order."""
    first = Window(browser.new_context(viewport=DESKTOP), demo, folder)  # type: ignore[arg-type]
    if role != "visitor":
        first.sign_in(role)
    paths = crawl(first.page, demo.url, STARTS[role])
    state = first.context.storage_state()
    first.context.close()
    for language in LANGUAGES:
        for size, viewport in SIZES.items():
            for theme in THEMES:
                context = browser.new_context(
                    viewport=viewport, color_scheme=theme, reduced_motion="reduce", storage_state=state
                )  # type: ignore[arg-type]
                window = Window(context, demo, folder)
                window.open(paths[0])
                if window.page.locator("html").get_attribute("lang") != language:
                    window.page.locator(f"button[name=language][value={language}]").first.click()
                    window.page.wait_for_selector(f"html[lang={language}]")
                for path in paths:
                    window.open(path)
                    if path == "/api/docs":  # Swagger UI draws it afterwards
                        window.page.wait_for_selector(".opblock")
                    window.shoot(name_of(role, path, language, size, theme))
                    if language == LANGUAGES[0]:
                        heard = len(window.complaints)
                        for finding in judge(window.page):
                            print(f"{role} {path} {size} {theme}: {finding}", flush=True)
                        del window.complaints[heard:]  # axe's own
                for complaint in window.complaints:
                    print(f"{role} {size} {theme}: {complaint}", flush=True)
                context.close()
    return paths


def name_of(role: str, path: str, language: str, size: str, theme: str) -> str:
    """The picture's name."""
    place = re.sub(r"\W+", "-", kind_of(path)).strip("-") or "front"
    return f"{role}-{place}-{language}-{size}-{theme}"


def write_sheet(folder: Path, role: str, paths: list[str]) -> str:
    """The HTML of one role's part of the sheet."""
    parts = [f"<h1>{role}</h1><main>"]
    for path in paths:
        figures = "".join(
            f'<figure class="{size}"><a href="{name}.png"><img src="{name}.png" loading="lazy" alt=""></a><figcaption>{language} {theme}</figcaption></figure>'
            for size in SIZES
            for language in LANGUAGES
            for theme in THEMES
            if (folder / f"{(name := name_of(role, path, language, size, theme))}.png").exists()
        )
        parts.append(f"<section><h2>{html.escape(path)}</h2><div>{figures}</div></section>")
    text = "".join([*parts, "</main>"])
    (folder / f"sheet-{role}.html").write_text(
        f'<!doctype html><meta charset="utf-8"><style>{SHEET_CSS}</style>{text}'
    )
    return text


def main() -> None:
    """Start a demo, look at everything, lay it out."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "var/shots").resolve()
    roles = sys.argv[2:] or list(STARTS)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        state = Folder(Path(place) / "var")
        with state.running("demo", seconds=300) as running:
            wait_for((state.path / "demo.json").exists, "the demo says that it is ready")
            demo = Demo(running)
            prepare(demo)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
            texts = []
            for role in roles:
                paths = shoot_role(browser, demo, folder, role)
                texts.append(write_sheet(folder, role, paths))
                page = browser.new_page(viewport={"width": 2640, "height": 900})
                page.goto(f"file://{folder}/sheet-{role}.html")
                page.evaluate(
                    "document.querySelectorAll('img').forEach(image => { image.loading = 'eager'; })"
                )
                page.wait_for_function("[...document.images].every(image => image.complete)")
                page.screenshot(path=folder / f"sheet-{role}.png", full_page=True)
                page.close()
                print(f"{role}: {len(paths)} pages, {folder}/sheet-{role}.png", flush=True)
            browser.close()
    (folder / "index.html").write_text(
        f'<!doctype html><meta charset="utf-8"><title>Pages</title><style>{SHEET_CSS}</style>{"".join(texts)}'
    )


if __name__ == "__main__":
    main()
