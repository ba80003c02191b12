"""One accent colour, and the shades that pages take of it: what is written in it or on it can be read, in light and in dark.

Contrast is that of WCAG 2.2 (relative luminance, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio).
"""

import re
from hashlib import sha256
from typing import NamedTuple

WHITE, BLACK = "#ffffff", "#000000"
# No ground of Tabler's dark theme on which words stand is lighter.
DARK_GROUND = "#1f2937"
READABLE = 4.5
# Text in a shade of the accent also stands on tints, which are nearer to it than white is.
READABLE_ON_TINTS = 5.5
# What is no text, as the ring around what has the focus.
VISIBLE = 3.0


class Rgb(NamedTuple):
    """A colour, 0 to 255 each."""

    red: int
    green: int
    blue: int

    def __str__(self) -> str:
        return f"#{self.red:02x}{self.green:02x}{self.blue:02x}"


def read_colour(text: str) -> Rgb:
    """The colour of `#rrggbb`. Raises ValueError."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(text)
    return Rgb(*(int(text[start : start + 2], 16) for start in (1, 3, 5)))


def contrast(one: Rgb, other: Rgb) -> float:
    """From 1 (the same) to 21 (black and white)."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: Rgb) -> float:
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (part / 255 for part in colour)
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def mix(colour: Rgb, other: Rgb, percent: int) -> Rgb:
    """So many hundredths of `other` in `colour`."""
    return Rgb(
        *(round((a * (100 - percent) + b * percent) / 100) for a, b in zip(colour, other, strict=True))
    )


def apart(colour: Rgb, ground: Rgb, wanted: float) -> Rgb:
    """The nearest shade of `colour` with so much contrast to `ground`: darker on light ground, lighter on dark ground."""
    away = read_colour(BLACK if _luminance(ground) > 0.5 else WHITE)
    shades = (mix(colour, away, percent) for percent in range(101))
    return next(shade for shade in shades if contrast(shade, ground) >= wanted)


def text_on(colour: Rgb) -> Rgb:
    """White where it can be read on `colour`, else black, which then can."""
    white = read_colour(WHITE)
    return white if contrast(white, colour) >= READABLE else read_colour(BLACK)


def stylesheet(accent: str) -> str:
    """Tabler's variables for `accent` (#rrggbb). Raises ValueError."""
    colour, white, dark = read_colour(accent), read_colour(WHITE), read_colour(DARK_GROUND)
    return (
        _rules(":root", colour, ground=white, primary=apart(colour, white, READABLE))
        + _rules('[data-bs-theme="dark"]', colour, ground=dark, primary=apart(colour, dark, VISIBLE))
        # The button that is coloured has the very colour, whatever can be read on it.
        + _button(colour, "")
        + _button(apart(colour, dark, VISIBLE), '[data-bs-theme="dark"] ')
    )


def _rules(selector: str, colour: Rgb, *, ground: Rgb, primary: Rgb) -> str:
    link = apart(colour, ground, READABLE_ON_TINTS)
    hover = mix(link, read_colour(BLACK if _luminance(ground) > 0.5 else WHITE), 25)
    values = {
        "primary": str(primary),
        "primary-rgb": _numbers(primary),
        "primary-fg": str(text_on(primary)),
        "primary-darken": str(_pressed(primary)),
        "link-color": str(link),
        "link-color-rgb": _numbers(link),
        "link-hover-color": str(hover),
        "link-hover-color-rgb": _numbers(hover),
    }
    return f"{selector}{{{''.join(f'--tblr-{name}:{value};' for name, value in values.items())}}}\n"


def _button(colour: Rgb, before: str) -> str:
    return (
        f"{before}.btn-primary{{--tblr-btn-variant:{colour};--tblr-btn-variant-fg:{text_on(colour)};"
        f"--tblr-btn-variant-darken:{_pressed(colour)};}}\n"
    )


def _pressed(colour: Rgb) -> Rgb:
    """What a button is while the pointer is on it: further from the colour of its words."""
    return mix(colour, read_colour(BLACK if text_on(colour) == read_colour(WHITE) else WHITE), 12)


def _numbers(colour: Rgb) -> str:
    return ", ".join(map(str, colour))


def digest(accent: str) -> str:
    """What the stylesheet's address says of its content: the accent, and a hash of all of it, so that it may be kept for good."""
    return f"{accent[1:].lower()}-{sha256(stylesheet(accent).encode()).hexdigest()[:8]}"
