"""HuJSON to JSON: comments and trailing commas removed, strings left alone (github.com/tailscale/hujson, Standardize)."""

import json
import re
from typing import Any

# A string, a line comment, a block comment, or any other single character.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|/\*.*?\*/|.', re.DOTALL)


def parse_hujson(text: str) -> Any:
    """The value of a HuJSON text; raises ValueError when it is none."""
    kept: list[str] = []
    for token in _TOKEN.findall(text):
        if token.startswith(("//", "/*")):
            continue
        if token in "]}" and kept:
            last = next((i for i in reversed(range(len(kept))) if not kept[i].isspace()), None)
            if last is not None and kept[last] == ",":
                kept.pop(last)
        kept.append(token)
    return json.loads("".join(kept))
