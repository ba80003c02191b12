"""What people copy from a terminal: the JSON or YAML within it, whatever stands around. Pure.

A text that has parts of JSON is read as JSON or not at all: line by line its keys would belong to anybody, without a word of whose
they are.
"""

import json
import re
from typing import Any

import yaml

# C is a hundred times faster; without it less is read.
_YAML_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
# Longer YAML is no list of a Headscale's nodes that anybody pastes.
_LONGEST_YAML = 400_000 if _YAML_LOADER is not yaml.SafeLoader else 20_000
# Lists and objects within each other; a Headscale's nodes have three.
_DEEPEST_YAML = 30
# Objects and lists in one text. Programs print one; somebody may have put together what several devices printed.
_MOST_VALUES = 1000

# ECMA-48: control sequences, and strings such as a window's title. Some programs copy ESC as a sign, or leave it out before colours.
_ESC = r"(?:\x1b|\u241b|\^\[)"
_CONTROLS = re.compile(
    rf"{_ESC}\][^\x07\x1b\n]*(?:\x07|\x1b\\)?|(?:{_ESC}\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]|\[\d{{1,3}}(?:;\d{{1,3}})*m"
)
# What programs that show long texts by pages leave on the screen, and what wipes it off again.
_PAGER = re.compile(
    r"\n?-- ?More *(?:\(\d+%\))? ?--(?:\(\d+%\))?(?:\n {0,200}(?=\n))?|^\(END\)$", re.MULTILINE
)
_LINE_ENDS = re.compile("\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
_SPACES = re.compile("[\x01-\x09\x0e-\x1f\x7f-\xa0\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile("[\u200b-\u200f\u2060\ufeff\ufffd]")

# Where an object may begin, or a list of them; prompts have braces and brackets too.
_BEGIN = re.compile(r'\{\s*["}]|\[\s*\{\s*"')
_PROMPTS_BRACES = re.compile(r'\{[^{}"=;]{0,80}\}')
_LIKE_JSON = re.compile(r'[{}]|"[ ]*:')

_YAML_KEY = re.compile(
    r"^[ -]*(?:node_?key|machine_?key|given_?name)\s*:(?!\S)", re.IGNORECASE | re.MULTILINE
)
_YAML_FIELD = re.compile(r"\s+\w+:(\s|$)")


class NotWhole(ValueError):
    """A text has parts of JSON or YAML, and cannot be read as such."""


class TooLong(ValueError):
    """A text has more in it than is read at once."""


def decode(data: bytes) -> str:
    """A file or what a program printed as text: UTF-8, or UTF-16 as PowerShell writes it, with a byte order mark or without."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    if data[1:400:2].count(0) > len(data[:400]) // 3:
        return data.decode("utf-16-le", errors="replace")
    if data[0:400:2].count(0) > len(data[:400]) // 3:
        return data.decode("utf-16-be", errors="replace")
    return data.decode("utf-8-sig", errors="replace")


def clean(text: str) -> str:
    """A text as a person sees it in their terminal: without colours, marks and what cannot be seen, lines ended by LF."""
    text = _LINE_ENDS.sub("\n", text.replace("\0", ""))
    return _PAGER.sub("", _INVISIBLE.sub("", _SPACES.sub(" ", _CONTROLS.sub("", text))))


def find_json(text: str) -> list[Any]:
    """All JSON objects and lists of objects in a cleaned text, in their order; empty where it has nothing of JSON.

    Raises `NotWhole` when one of them is cut off, or broken by what was printed in its middle; `TooLong` for too many of them.
    """
    # Terminals break long lines wherever they end; within JSON a line's end means nothing.
    text = text.replace("\n", "")
    found: list[Any] = []
    around, at = [], 0
    while begin := _BEGIN.search(text, at):
        if len(found) == _MOST_VALUES:
            raise TooLong("too many objects")
        around.append(text[at : begin.start()])
        try:
            value, at = _decoder.raw_decode(text, begin.start())
        except (ValueError, RecursionError) as error:
            raise NotWhole("JSON that is not whole") from error
        found.append(value)
    around.append(text[at:])
    # What is left of an object whose beginning is missing.
    if any(_LIKE_JSON.search(_PROMPTS_BRACES.sub("", part)) for part in around):
        raise NotWhole("a part of JSON")
    return found


_decoder = json.JSONDecoder(strict=False)


def find_yaml(text: str) -> list[Any]:
    """The items of all lists in YAML in a cleaned text that has keys as Headscale prints them; empty where it has none.

    Raises `NotWhole`, `TooLong`.
    """
    if not _YAML_KEY.search(text):
        return []
    blocks: list[list[str]] = []
    is_inside = False
    for line in text.split("\n"):
        is_inside = line.startswith("- ") or (is_inside and (not line.strip() or line.startswith(" ")))
        if is_inside:
            if not blocks or not blocks[-1]:
                blocks.append([])
            blocks[-1].append(line)
        else:
            # The rest of a list whose beginning is missing, or a line of the terminal's.
            if _YAML_FIELD.match(line) or _YAML_KEY.match(line):
                raise NotWhole("a part of YAML")
            if blocks and blocks[-1]:
                blocks.append([])
    written = ["\n".join(lines) for lines in blocks if lines]
    if not written:
        raise NotWhole("no list in YAML")
    if sum(map(len, written)) > _LONGEST_YAML or len(written) > _MOST_VALUES:
        raise TooLong("long YAML")
    try:
        return [item for block in written for item in _read_yaml(block)]
    except yaml.YAMLError as error:
        raise NotWhole("YAML that is not whole") from error


def _read_yaml(block: str) -> list[Any]:
    """The items of a list in YAML: mappings, lists and texts, with true, false and null as such.

    Built from the parser's events, in time that grows with the text alone: what PyYAML makes of a node by itself (numbers to the base 60,
    merged mappings, nodes within nodes) takes as long, and as much of the stack, as whoever wrote it likes. Raises `NotWhole`, also
    for what Headscale never writes: anchors and deep nesting.
    """
    documents: list[Any] = []
    inside: list[Any] = [documents]
    names: list[str | None] = [None]
    for event in yaml.parse(block, Loader=_YAML_LOADER):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise NotWhole("YAML with anchors")
        if isinstance(event, yaml.CollectionEndEvent):
            inside.pop()
            names.pop()
        if not isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            continue
        is_name = isinstance(inside[-1], dict) and names[-1] is None
        if isinstance(event, yaml.ScalarEvent):
            if is_name:
                names[-1] = event.value
                continue
            value: Any = _YAML_WORDS.get(event.value, event.value) if event.implicit[0] else event.value
        else:
            if is_name or len(inside) > _DEEPEST_YAML:
                raise NotWhole("YAML that no program writes")
            value = {} if isinstance(event, yaml.MappingStartEvent) else []
        if isinstance(inside[-1], dict):
            inside[-1][names[-1]], names[-1] = value, None
        else:
            inside[-1].append(value)
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append(value)
            names.append(None)
    if len(documents) != 1 or not isinstance(documents[0], list):
        raise NotWhole("YAML that is no list")
    return documents[0]


_YAML_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
