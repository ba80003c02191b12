"""What the operators' commands share: a readable table by default, `--json` for scripts, the reason on failure."""

import json
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone
from django.utils.translation import gettext as _

__all__ = ["PanelCommand", "TranslatedCommand", "parse_day"]

Row = Mapping[str, Any]


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, datetime):
        return f"{timezone.localtime(value):%Y-%m-%d %H:%M}"
    return str(value)


def _width(text: str) -> int:
    # A Chinese character takes two columns of a terminal.
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


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


class TranslatedCommand(BaseCommand):
    """A command whose `help` is a lazy translation."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        self.help = str(self.help)  # argparse measures it, and a lazy text has no length
        return super().create_parser(prog_name, subcommand, **kwargs)


class PanelCommand(TranslatedCommand):
    """A command with `--json`.

    Results go to standard output with `emit` or `emit_one`, progress to standard error with `say`. What cannot be done is a
    `CommandError` with the reason as a sentence: it is printed to standard error and the command exits with 1 (2 for
    wrong arguments). Nothing is emitted by a command that fails, unless what it found is the very reason.
    """

    as_json = False

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.add_argument("--json", action="store_true", help=_("print JSON instead of a table"))
        return parser

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.as_json = bool(options.get("json"))
        return super().execute(*args, **options)

    def emit(self, rows: Sequence[Row], columns: Mapping[str, Any]) -> None:
        """Print rows: as a table of `columns` (key of a row → heading), or with `--json` as a list of whole rows.

        A row may have keys that only JSON shows. Times are shown in the panel's zone in the table and as ISO 8601 in JSON.
        """
        if self.as_json:
            self._dump([dict(row) for row in rows])
            return
        table = [[str(heading) for heading in columns.values()]]
        table += [[_cell(row[key]) for key in columns] for row in rows]
        widths = [max(_width(line[i]) for line in table) for i in range(len(columns))]
        for line in table:
            self.stdout.write("  ".join(_pad(*cell) for cell in zip(line, widths, strict=True)).rstrip())
        if not rows:
            self.stdout.write(_("(none)"))

    def emit_one(self, row: Row, columns: Mapping[str, Any]) -> None:
        """Print one thing: a line for each of `columns`, or with `--json` the whole row as an object."""
        if self.as_json:
            self._dump(dict(row))
            return
        width = max(_width(str(heading)) for heading in columns.values())
        for key, heading in columns.items():
            self.stdout.write(f"{_pad(str(heading), width)}  {_cell(row[key])}")

    def say(self, text: str) -> None:
        """Tell a person how it goes, on standard error, so that standard output stays clean for scripts."""
        self.stderr.write(text, str)  # str: Django would print it in the red of errors
        self.stderr.flush()

    def _dump(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))
