"""What operators type after a command: read with a clear refusal, and explained in their language."""

import argparse
import re
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.conf import settings
from django.core.management.base import CommandError
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

# Django's own, which every command takes; they explain nothing of ours, so `--help` leaves them out.
_DJANGOS = frozenset(
    ["version", "verbosity", "settings", "pythonpath", "traceback", "no_color", "force_color", "skip_checks"]
)


def gettext_noop(text: str) -> str:
    """Marks a text for the catalogue; Django's own asks for the settings, which are not there yet."""
    return text


# What argparse says.
_WORDS = (
    gettext_noop("usage: "),
    gettext_noop("positional arguments"),
    gettext_noop("options"),
    gettext_noop("show this help message and exit"),
    gettext_noop("%(prog)s: error: %(message)s\n"),
    gettext_noop("argument %(argument_name)s: %(message)s"),
    gettext_noop("the following arguments are required: %s"),
    gettext_noop("one of the arguments %s is required"),
    gettext_noop("unrecognized arguments: %s"),
    gettext_noop("not allowed with argument %s"),
    gettext_noop("ignored explicit argument %r"),
    gettext_noop("expected one argument"),
    gettext_noop("expected at most one argument"),
    gettext_noop("expected at least one argument"),
    gettext_noop("ambiguous option: %(option)s could match %(matches)s"),
    gettext_noop("invalid %(type)s value: %(value)r"),
    gettext_noop("invalid choice: %(value)r (choose from %(choices)s)"),
)
_AGO = re.compile(r"(\d{1,5})(m|h|d)")
# Traffic is given in GB, a million of them at most, and rates in Mbit/s, 100,000 at most, as forms take.
MOST_GB, MOST_MBIT = 10**6, 10**5
# What is typed for “as it is otherwise”.
OTHERWISE = "-"
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

# It has words of its own catalogue, which nobody delivers.
argparse._ = _  # type: ignore[attr-defined]
argparse.ngettext = ngettext  # type: ignore[attr-defined]


def hide_djangos_options(parser: ArgumentParser) -> None:
    """Leave Django's own options out of the help; they work as before."""
    for action in parser._actions:
        if action.dest in _DJANGOS:
            action.help = argparse.SUPPRESS


def parse_day(text: str) -> date:
    """The day that somebody typed; raises `CommandError`."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").date()
    except ValueError as error:
        raise CommandError(
            _(
                "“%(text)s” is no day. A day looks like 2026-12-31 and is one of the panel's time zone, %(zone)s."
            )
            % {"text": text, "zone": settings.TIME_ZONE}
        ) from error


def moment(text: str) -> datetime:
    """The moment that an argument names: how long ago (`90m`, `24h`, `7d`), the beginning of a day, or a day and a time.

    Without a zone it is one of the panel's. Raises `ArgumentTypeError`.
    """
    if ago := _AGO.fullmatch(text.strip()):
        return timezone.now() - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = parse_datetime(text.strip()) or datetime.strptime(text.strip(), "%Y-%m-%d")
        return found if found.tzinfo else timezone.make_aware(found)
    except (ValueError, OverflowError) as error:
        raise ArgumentTypeError(
            _("“%(text)s” is no moment: 24h (ago), 7d, 2026-12-31 or “2026-12-31 18:30”, in %(zone)s")
            % {"text": text, "zone": settings.TIME_ZONE}
        ) from error


def number(least: int, most: int) -> Any:
    """The type of an argument that is a whole number within these bounds."""

    def read(text: str) -> int:
        if text.isascii() and text.isdecimal() and len(text) < 20 and least <= int(text) <= most:
            return int(text)
        raise ArgumentTypeError(
            _("a whole number from %(least)d to %(most)d, not “%(text)s”")
            % {"least": least, "most": most, "text": text}
        )

    return read


def amount(unit: int, most: int, *, least: str = "0") -> Callable[[str], int]:
    """The type of an argument that is a number of units, with three places at most; gives bytes (a second)."""

    def read(text: str) -> int:
        try:
            found = Decimal(text) if len(text) < 20 and text.isascii() else Decimal("nan")
        except InvalidOperation:
            found = Decimal("nan")
        if found.is_finite() and Decimal(least) <= found <= most and found * 1000 % 1 == 0:
            return int(found * unit)
        raise ArgumentTypeError(
            _("a number from %(least)s to %(most)d with three decimal places at most, not “%(text)s”")
            % {"text": text, "least": least, "most": most}
        )

    return read


def or_otherwise(read: Callable[[str], Any], otherwise: Any = None) -> Callable[[str], Any]:
    """The same type of an argument, or `-` for what is then `otherwise`."""
    return lambda text: otherwise if text == OTHERWISE else read(text)
