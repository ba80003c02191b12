"""Every page that a link leads to can be used by everybody: axe finds nothing, nothing is wider than the window, the console is silent."""

from collections.abc import Callable

import pytest

from tests.browser.conftest import DESKTOP, PHONE, Demo, Window
from tests.browser.shots import prepare
from tests.browser.walking import STARTS, crawl, judge, kind_of, paint

pytestmark = pytest.mark.lab
# Links that were followed and found, by role: fewer, and the walk has ended early.
AT_LEAST = {"visitor": 5, "customer": 25, "superadmin": 60}


def test_every_page_is_fit_for_everybody(demo: Demo, open_window: Callable[..., Window]) -> None:
    prepare(demo)
    found: list[str] = []
    for role, least in AT_LEAST.items():
        # Colours on their way from one theme to the other are nobody's.
        wide, narrow = (open_window(size, reduced_motion="reduce") for size in (DESKTOP, PHONE))
        if role != "visitor":
            wide.sign_in(role)
            narrow.context.add_cookies(wide.context.cookies())  # type: ignore[arg-type]

        def look(path: str, role: str = role, wide: Window = wide, narrow: Window = narrow) -> None:
            heard = len(wide.complaints)
            found.extend(f"{role} {path}: {finding}" for finding in judge(wide.page))
            paint(wide.page, "dark")
            found.extend(f"{role} {path} dark: {finding}" for finding in judge(wide.page))
            narrow.open(path)
            heard_narrow = len(narrow.complaints)
            found.extend(f"{role} {path} narrow: {finding}" for finding in judge(narrow.page))
            # axe tries styles of its own, which the content security policy does not let it have.
            del wide.complaints[heard:], narrow.complaints[heard_narrow:]

        paths = crawl(wide.page, demo.url, STARTS[role], look)
        print(f"{role}: {len(paths)} pages: {[kind_of(path) for path in paths]}")
        assert len(paths) >= least, paths
    assert not found, "\n".join(found)
