"""Terms and privacy policy as operators type them: blocks between empty lines, of which some are headings or lists. Nothing else is markup, so
nothing that is typed can become anything but text."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """A part of a paper: `kind` is "heading", "subheading", "list" or "text"; `lines` are the points of a list, else the lines as typed."""

    kind: str
    lines: tuple[str, ...]


def read_paper(text: str) -> list[Block]:
    """The blocks of `text`: `# …` is a heading, `## …` a subheading, lines that begin with `- ` the points of a list."""
    blocks = []
    for part in re.split(r"\n[^\S\n]*\n", text.replace("\r\n", "\n").replace("\r", "\n")):
        kept: list[str] = []
        for line in (line.strip() for line in part.split("\n")):
            if not line:
                continue
            heading = re.fullmatch(r"(##?)\s+(.+)", line)
            if heading:
                blocks += _block(kept)
                kept = []
                blocks.append(Block("heading" if heading[1] == "#" else "subheading", (heading[2],)))
            else:
                if kept and _is_point(kept[-1]) != _is_point(line):
                    blocks += _block(kept)
                    kept = []
                kept.append(line)
        blocks += _block(kept)
    return blocks


def _is_point(line: str) -> bool:
    return line.startswith("- ")


def _block(lines: list[str]) -> list[Block]:
    if not lines:
        return []
    if _is_point(lines[0]):
        return [Block("list", tuple(line[2:].strip() for line in lines))]
    return [Block("text", tuple(lines))]
