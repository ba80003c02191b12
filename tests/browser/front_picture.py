"""The front page's pictures: a customer's home of the demo in both languages and themes, as small WebP files.

    python -m tests.browser.front_picture

writes static/front/home-LANGUAGE-THEME.webp anew; run it when the home page looks different.
"""

import base64
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.conftest import ARGUMENTS, CHROMIUM, Demo, Window
from tests.browser.shots import LANGUAGES, THEMES, prepare
from tests.panel.running import Folder, wait_for

FOLDER = Path(__file__).resolve().parents[2] / "static" / "front"
# As derpmgmt/pages.py says it.
PICTURE_SIZE = (960, 600)
# Dots of the picture for each of its CSS pixels, and how much WebP may leave out: small and sharp enough.
DENSITY, QUALITY = 1.5, 0.72
MOST_BYTES = 60_000

# Some devices are connected, and none waits: what waits would push the relays out of the picture.
CALM = (
    "import time; from django.core.cache import cache; from acl.devices import presence; from acl.devices.models import Device;"
    "from containers.models import Relay; from serials.rentals.models import Rental;"
    "rental = Rental.objects.get(user__email='customer@example.com'); relay = Relay.objects.filter(rental=rental)[0].pk;"
    "Device.objects.filter(rental=rental, status='pending').delete();"
    "keys = Device.objects.filter(rental=rental, status='approved').values_list('node_key', flat=True)[:5];"
    "there = {key: (relay, '198.51.100.7', 41641, time.time() - 3600) for key in keys};"
    "cache.set(presence._key(rental.pk), {'at': time.time() + 30, 'present': there, 'silent': [], 'is_known': True}, 3600)"
)
ENCODE = """async ([png, quality]) => {
  const picture = new Image();
  picture.src = "data:image/png;base64," + png;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  return canvas.toDataURL("image/webp", quality).split(",")[1];
}"""


def encode(page: Page, png: bytes) -> bytes:
    """The picture as WebP, made by the browser."""
    return base64.b64decode(page.evaluate(ENCODE, [base64.b64encode(png).decode(), QUALITY]))


def picture_all(browser: Browser, demo: Demo) -> None:
    """One picture of each language and theme."""
    width, height = PICTURE_SIZE
    for language in LANGUAGES:
        for theme in THEMES:
            context = browser.new_context(
                viewport={"width": width, "height": height + 100},
                device_scale_factor=DENSITY,
                color_scheme=theme,  # type: ignore[arg-type]
            )
            window = Window(context, demo, FOLDER)
            window.sign_in("customer")
            page = window.open("/account/")
            if page.locator("html").get_attribute("lang") != language:
                page.locator(f"button[name=language][value={language}]").first.click()
                page.wait_for_selector(f"html[lang={language}]")
            demo.folder.python(CALM)
            window.open("/home/")
            top = page.locator(".panel-page").bounding_box()
            assert top
            png = page.screenshot(clip={"x": 0, "y": top["y"], "width": width, "height": height})
            webp = encode(browser.new_page(), png)
            assert len(webp) < MOST_BYTES, len(webp)
            (FOLDER / f"home-{language}-{theme}.webp").write_bytes(webp)
            print(f"home-{language}-{theme}.webp: {len(webp)} bytes")
            context.close()


def main() -> None:
    """Start a demo that has a past, and take its pictures."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        state = Folder(Path(place) / "var")
        with state.running("demo", seconds=300) as running:
            wait_for((state.path / "demo.json").exists, "the demo says that it is ready")
            demo = Demo(running)
            prepare(demo)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
            picture_all(browser, demo)
            browser.close()


if __name__ == "__main__":
    main()
