"""Which classes of a page Tabler has rules for, and the stylesheet that pages get has not."""

import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# django_tables2's names, which Tabler knows only below one that nobody uses.
ELSEWHERE = {"asc", "desc"}


@cache
def _classes(path: str) -> frozenset[str]:
    text = re.sub(r"url\([^)]*\)", "", (ROOT / path).read_text())
    return frozenset(re.findall(r"\.(-?[a-zA-Z_][\w-]*)", text))


def missing_classes(page: str) -> set[str]:
    """Those that `make styles` left out though the page uses them."""
    used = {name for classes in re.findall(r'\bclass="([^"]*)"', page) for name in classes.split()}
    lacking = _classes(".ci/tabler/tabler.min.css") - _classes("static/vendor/tabler/css/tabler.used.css")
    return (used & lacking) - ELSEWHERE
