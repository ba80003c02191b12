"""The codes of serial numbers: how they are made, read and checked. Pure.

Alphabet and forgiveness are Crockford's base 32 (https://www.crockford.com/base32.html): no I, L, O and U; O is read as 0, I and
L as 1. Their check symbols need `*~$=U`, which are awkward to type, so the check symbol here stays within the alphabet: it is
the parity symbol of a Reed-Solomon code over the field of 32 elements. The symbols x0 … x19 are taken as the coefficients of a
polynomial, and the last one is chosen so that the polynomial is zero at alpha:

    x0·alpha^19 + x1·alpha^18 + … + x18·alpha + x19 = 0

Why that finds what people do wrong: changing one symbol by d adds d·alpha^k, and swapping the neighbours x and y adds
(x + y)·alpha^k·(alpha + 1). None of these factors is zero in a field where alpha is neither 0 nor 1, so the sum is not either.
The field is GF(2)[z] modulo the primitive polynomial z^5 + z^2 + 1, alpha is z. `static/serials.js` does the same sum.
"""

import re
import secrets
import unicodedata
from collections.abc import Iterator

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
LENGTH = 20  # 19 random symbols of 5 bits (95 bits) and the check symbol
GROUP = 4

_VALUES = {symbol: value for value, symbol in enumerate(ALPHABET)}
_READ_AS = str.maketrans("OIL", "011")
# Beside spaces, dashes and invisible characters (by Unicode category), what people and word processors put between groups.
_SEPARATORS = frozenset("_.·•−")
# What a code in a longer text consists of, and how it is grouped there: groups of one length, or none.
_WORD = re.compile(r"[0-9A-Za-z]+")
_GROUPED = ([LENGTH], [10, 10], [5] * 4, [GROUP] * 5)


def _times_alpha(value: int) -> int:
    value <<= 1
    return value ^ 0b100101 if value & 0b100000 else value


def _at_alpha(symbols: str) -> int:
    total = 0
    for symbol in symbols:
        total = _times_alpha(total) ^ _VALUES[symbol]
    return total


def _separates(char: str) -> bool:
    category = unicodedata.category(char)
    return category[0] in "ZC" or category == "Pd" or char in _SEPARATORS


def normalize(text: str) -> str:
    """`text` as it is looked up: capitals without separators, full-width characters made narrow, O as 0, I and L as 1.

    Of a longer text, such as the message that a code came in, only the code is left, if it holds just one. Else characters
    that no code has are kept, so that `is_well_typed` finds them.
    """
    narrow = unicodedata.normalize("NFKC", text)
    whole = "".join(char for char in narrow if not _separates(char)).upper().translate(_READ_AS)
    if _is_code(whole):
        return whole
    found = set(_codes_in(narrow))
    return found.pop() if len(found) == 1 else whole


def _codes_in(text: str) -> Iterator[str]:
    """The codes that stand in a text by themselves, written in one piece or in groups of one length with the same between them."""
    words = list(_WORD.finditer(text))
    for number, first in enumerate(words):
        code, end = "", first.start()
        sizes: list[int] = []
        gaps: set[str] = set()
        for word in words[number : number + GROUP + 1]:
            gap = text[end : word.start()]
            if sizes:
                gaps.add(gap)
            if len(gaps) > 1 or not all(_separates(char) for char in gap):
                break
            code, end = code + word[0].upper().translate(_READ_AS), word.end()
            sizes.append(len(word[0]))
            if sizes in _GROUPED and _is_code(code):
                yield code


def _is_code(text: str) -> bool:
    return len(text) == LENGTH and all(symbol in _VALUES for symbol in text) and _at_alpha(text) == 0


def is_well_typed(text: str) -> bool:
    """Whether `text` is a code, or holds just one: right length, only symbols of the alphabet, and the check symbol fits.

    A code with one symbol changed, or two different neighbours swapped, is never well typed.
    """
    return _is_code(normalize(text))


def with_check(symbols: str) -> str:
    """Symbols of the alphabet, followed by the check symbol that fits them."""
    return symbols + ALPHABET[_times_alpha(_at_alpha(symbols))]


def generate() -> str:
    """A new code, normalized: 95 bits from the system's random source and the check symbol."""
    return with_check("".join(secrets.choice(ALPHABET) for _ in range(LENGTH - 1)))


def group(code: str) -> str:
    """A normalized code as people read it: groups of four with dashes, `K7QW-29XM-4TR8-C3NV-B6HJ`."""
    return "-".join(code[start : start + GROUP] for start in range(0, len(code), GROUP))
