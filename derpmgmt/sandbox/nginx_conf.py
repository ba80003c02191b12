"""nginx's configuration files, read as nginx 1.22 reads them (src/core/ngx_conf_file.c), with its words for what is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*) | (?P<mark>[;{}]) | "(?P<double>(?:\\.|[^"\\])*)" | '(?P<single>(?:\\.|[^'\\])*)'"""
    r""" | (?P<word>[^\s;{}"'\#](?:\\.|\$\{|[^\s;{\\])*)""",
    re.DOTALL | re.VERBOSE,
)
_ESCAPED = re.compile(r"""\\(["'\\trn])""")
_CONTROL = {"t": "\t", "r": "\r", "n": "\n"}
_TIME = re.compile(r"(\d+)(ms|s|m|h)?")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}
_SIZE = re.compile(r"(\d+)([kKmMgG])?")
_BYTES = {"k": 1024, "m": 1024**2, "g": 1024**3}


class ConfError(Exception):
    """What nginx says when it cannot use a configuration."""


@dataclass(frozen=True)
class Directive:
    """One directive: its words, what stands in its braces, and where it is, as ``file:line``."""

    words: list[str]
    place: str
    block: list[Directive] | None = field(default=None)


def read_conf(path: str, read: Callable[[str], bytes]) -> list[Directive]:
    """The directives of a file; those of files that it includes stand in place of the ``include``. Raises ConfError."""
    return _File(path, _open(path, read), read).directives(nested=False)


def walk(directives: list[Directive]) -> Iterator[Directive]:
    """All of them, those in blocks after the one that the block belongs to."""
    for directive in directives:
        yield directive
        yield from walk(directive.block or [])


def seconds(text: str) -> float:
    """A length of time as nginx writes it. Raises ConfError."""
    match = _TIME.fullmatch(text)
    if not match:
        raise ConfError(f'invalid value "{text}"')
    return int(match[1]) * _SECONDS[match[2] or "s"]


def size_bytes(text: str) -> int:
    """A size as nginx writes it. Raises ConfError."""
    match = _SIZE.fullmatch(text)
    if not match:
        raise ConfError(f'invalid value "{text}"')
    return int(match[1]) * _BYTES.get((match[2] or "").lower(), 1)


class _File:
    """One file while it is read."""

    def __init__(self, path: str, text: str, read: Callable[[str], bytes]) -> None:
        self._path = path
        self._text = text
        self._read = read
        self._at = 0

    def directives(self, *, nested: bool) -> list[Directive]:
        found: list[Directive] = []
        words: list[str] = []
        while (token := self._next()) is not None:
            kind, text = token
            if kind == "word":
                words.append(text)
            elif text == ";" and words:
                if words[0] == "include" and len(words) == 2:
                    included = _File(words[1], _open(words[1], self._read, f" in {self._place}"), self._read)
                    found += included.directives(nested=False)
                else:
                    found.append(Directive(words, self._place))
                words = []
            elif text == "{" and words:
                place = self._place
                found.append(Directive(words, place, self.directives(nested=True)))
                words = []
            elif text == "}" and nested and not words:
                return found
            else:
                raise self._wrong(f'unexpected "{text}"')
        if words:
            raise self._wrong('unexpected end of file, expecting ";" or "}"')
        if nested:
            raise self._wrong('unexpected end of file, expecting "}"')
        return found

    @property
    def _place(self) -> str:
        return f"{self._path}:{self._text.count(chr(10), 0, self._at) + 1}"

    def _wrong(self, words: str) -> ConfError:
        return ConfError(f"{words} in {self._place}")

    def _next(self) -> tuple[str, str] | None:
        """A word or a mark; None at the file's end."""
        while self._at < len(self._text):
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                self._at = len(self._text)  # a quote without its end
                raise self._wrong('unexpected end of file, expecting ";" or "}"')
            self._at = match.end()
            if match.lastgroup == "mark":
                return "mark", match["mark"]
            if match.lastgroup in ("double", "single"):
                after = self._text[self._at : self._at + 1]
                if after and after not in " \t\r\n;{)":
                    self._at += 1
                    raise self._wrong(f'unexpected "{after}"')
            if match.lastgroup != "space":
                text = match[match.lastgroup or 0]
                return "word", _ESCAPED.sub(lambda found: _CONTROL.get(found[1], found[1]), text)
        return None


def _open(path: str, read: Callable[[str], bytes], where: str = "") -> str:
    try:
        return read(path).decode(errors="replace")
    except OSError as error:
        raise ConfError(f'open() "{path}" failed ({error.errno}: {error.strerror}){where}') from None
