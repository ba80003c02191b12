"""What the operators' commands share: a readable table by default, `--json` for scripts, the reason on failure."""

import json
import re
import sys
import traceback
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, NoReturn

from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import ManagementUtility, execute_from_command_line, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.db import DatabaseError, InterfaceError, OperationalError, connection
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from derpmgmt.lib.arguments import hide_djangos_options, number
from derpmgmt.lib.refusals import Refusal

# A list shows so many rows, and at most these.
ROWS, MOST_ROWS = 50, 10_000
_LAST_NUMBER = 2**63 - 1

Row = Mapping[str, Any]


class _Console:
    """Whoever runs commands on the panel's machine, for `visible_to`: they may see what operators see."""

    pk = None
    is_authenticated = is_active = is_staff = is_superuser = True


CONSOLE: Any = _Console()


class CommandRefused(CommandError):
    """What cannot be done, with a code for programs and details beside the sentence."""

    def __init__(
        self, message: str, *, code: str, details: Mapping[str, Any] | None = None, returncode: int = 1
    ) -> None:
        super().__init__(message, returncode=returncode)
        self.code = code
        self.details = dict(details or {})


def describe_error(error: CommandError) -> dict[str, Any]:
    """A failure as `--json` tells it, the same for every command: `code`, `message`, `details`.

    The code and details are the error's own, else those of what it was raised from: a server's error has its values and
    `words` (the host's own), wrong input its fields.
    """
    cause = error.__cause__
    details: dict[str, Any] = {}
    if isinstance(error, CommandRefused):
        code, details = error.code, error.details
    elif isinstance(cause, ValidationError):
        code = "invalid"
        details = (
            {name: [str(text) for text in texts] for name, texts in cause.message_dict.items()}
            if hasattr(cause, "error_dict")
            else {"errors": [str(text) for text in cause.messages]}
        )
    elif isinstance(cause, Refusal):
        code, details = cause.code, cause.details()
    elif cause is not None:
        code = _slug(type(cause).__name__)
    else:
        code = "usage" if error.returncode == 2 else "refused"
    return {"code": code, "message": str(error), "details": details}


def is_json_asked(argv: Sequence[str]) -> bool:
    """Whether a command line has `--json`, also shortened or with a value that it cannot have."""
    names = (word.partition("=")[0] for word in argv[1:])
    return any(len(name) > len("--") and "--json".startswith(name) for name in names)


def run_command_line(argv: list[str]) -> None:
    """Run the command of this command line. With `--json` every failure is an object on the last line of standard error, whatever
    fails: the command line itself, a command of ours or one of Django's and other libraries'."""
    if not is_json_asked(argv):
        execute_from_command_line(argv)
        return
    try:
        _JsonUtility(list(argv)).execute()
    except (ImproperlyConfigured, BrokenPipeError):
        raise
    except Exception as raised:
        try:
            error = _failure(raised)
        except Exception as mistake:  # of ours: said whole, and once more for programs
            traceback.print_exc()
            error = CommandRefused(repr(mistake), code="internal")
        sys.stderr.write(json.dumps(describe_error(error), cls=DjangoJSONEncoder, ensure_ascii=False) + "\n")
        sys.exit(error.returncode)


def _failure(raised: Exception) -> CommandError:
    """What a command says of it; raises again what is a mistake of ours."""
    if isinstance(raised, CommandError):
        return raised
    if isinstance(raised, DatabaseError | InterfaceError):
        return _describe_database_error(raised)
    raise raised


class _JsonUtility(ManagementUtility):
    """Django's, with failures handed on instead of printed."""

    def fetch_command(self, subcommand: str) -> BaseCommand:
        """The command; raises `CommandRefused` where there is none of that name."""
        if subcommand not in get_commands():
            text = _("There is no command “%(name)s”; manage.py help lists them.") % {"name": subcommand}
            raise CommandRefused(text, code="unknown_command", details={"name": subcommand})
        command = super().fetch_command(subcommand)
        create_parser = command.create_parser

        def create_one_that_raises(*args: Any, **options: Any) -> CommandParser:
            parser = create_parser(*args, **options)
            parser.error = _refuse_arguments  # type: ignore[method-assign]
            return parser

        command.create_parser = create_one_that_raises  # type: ignore[method-assign]
        # Has Django hand the failure on.
        self.argv.insert(2, "--traceback")
        return command


def _refuse_arguments(message: str) -> NoReturn:
    raise CommandRefused(message, code="usage", returncode=2)


def _describe_database_error(error: DatabaseError | InterfaceError) -> CommandRefused:
    """The failure for a database without this version's tables, or that does not answer; raises `error` again where it is our mistake."""
    from django.db.migrations.executor import MigrationExecutor  # only now: it loads every migration

    try:
        executor = MigrationExecutor(connection)
        is_behind = bool(executor.migration_plan(list(executor.loader.graph.leaf_nodes())))
    except (DatabaseError, InterfaceError):
        is_behind = False
    if is_behind:
        text = _(
            "The database does not have the tables of this version yet. Start the panel, which makes them: manage.py up"
        )
        return CommandRefused(text, code="database_not_current")
    if not isinstance(error, (OperationalError, InterfaceError)):
        raise error
    # MariaDB's errors have a number before their words.
    reason = str(error.args[-1]) if error.args else type(error).__name__
    return CommandRefused(_("The database does not answer: %(reason)s") % {"reason": reason}, code="database")


def _slug(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return _("yes") if value else _("no")
    if isinstance(value, datetime):
        return f"{timezone.localtime(value):%Y-%m-%d %H:%M}"
    # People search what a terminal shows with an ordinary space.
    return str(value).replace("\u00a0", " ")


def _width(text: str) -> int:
    # A Chinese character takes two columns of a terminal.
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _pad(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


class TranslatedCommand(BaseCommand):
    """A command whose `help` is a lazy translation, and explains our own options."""

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        self.help = str(self.help)  # argparse measures it, and a lazy text has no length
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        hide_djangos_options(parser)
        return parser


class PanelCommand(TranslatedCommand):
    """A command with `--json`.

    Results go to standard output with `emit` or `emit_one`, progress to standard error with `say`. What cannot be done is a
    `CommandError` with the reason as a sentence, or a `Refusal` of the services: it is printed to standard error and the command exits with 1 (2 for
    wrong arguments). With `--json` the failure is an object on the last line of standard error (`run_command_line`). Nothing is emitted by a command that fails, unless what it found is the very reason.

    A command that `destroys` something has `--yes` and asks with `confirm` before it changes anything.
    """

    as_json = False
    destroys = False
    # They are about the program, not about this panel's state (`make check`), and load every page of it.
    requires_system_checks: Any = []

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        parser = super().create_parser(prog_name, subcommand, **kwargs)
        parser.add_argument("--json", action="store_true", help=_("print JSON instead of a table"))
        if self.destroys:
            parser.add_argument("--yes", action="store_true", help=_("do not ask whether it is meant"))
        return parser

    def run_from_argv(self, argv: list[str]) -> None:
        if "--traceback" in argv:
            super().run_from_argv(argv)
            return
        try:
            # Has Django hand the failure on instead of printing it under the name of its class.
            super().run_from_argv([*argv[:2], "--traceback", *argv[2:]])
        except (CommandError, DatabaseError, InterfaceError) as raised:
            error = _failure(raised)
            self.stderr.write(str(error))
            sys.exit(error.returncode)

    def confirm(self, name: str, question: str, *, is_sure: bool) -> None:
        """Has a person type `name` before what cannot be undone; `is_sure` is the option `--yes`.

        Raises `CommandRefused` (not_confirmed) when something else is typed, or nobody is there to be asked.
        """
        if is_sure:
            return
        if not sys.stdin.isatty():
            text = _("This cannot be undone. Nothing was changed: confirm it by --yes.")
            raise CommandRefused(f"{question} {text}", code="not_confirmed", details={"name": name})
        self.stderr.write(
            f"{question} " + _("This cannot be undone. Type %(name)s to go on:") % {"name": name}, str
        )
        self.stderr.flush()
        if sys.stdin.readline().strip() != name:
            raise CommandRefused(
                _("Not confirmed; nothing was changed."), code="not_confirmed", details={"name": name}
            )

    def execute(self, *args: Any, **options: Any) -> str | None:
        self.as_json = bool(options.get("json"))
        try:
            return super().execute(*args, **options)
        except Refusal as refusal:
            raise CommandError(str(refusal)) from refusal

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

    def emit_part(self, title: Any, rows: Sequence[Row], columns: Mapping[str, Any]) -> None:
        """Print a table under what `emit_one` printed, with a heading; nothing with `--json`, where the one row has them all."""
        if not self.as_json:
            self.stdout.write(f"\n{title}")
            self.emit(rows, columns)

    def say(self, text: str) -> None:
        """Tell a person how it goes, on standard error, so that standard output stays clean for scripts."""
        self.stderr.write(text, str)  # str: Django would print it in the red of errors
        self.stderr.flush()

    def _dump(self, value: Any) -> None:
        self.stdout.write(json.dumps(value, cls=DjangoJSONEncoder, ensure_ascii=False, indent=2))


class ListCommand(PanelCommand):
    """A command that lists rows, the newest first, a page at a time: it reads no more than it prints."""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--limit",
            metavar="N",
            type=number(1, MOST_ROWS),
            default=ROWS,
            help=_("at most so many rows (%(rows)d)") % {"rows": ROWS},
        )
        parser.add_argument(
            "--before",
            metavar="ID",
            type=number(1, _LAST_NUMBER),
            help=_("only rows older than this one; the next page begins after the last ID of this one"),
        )

    def emit_page(
        self,
        rows: QuerySet[Any],
        describe: Callable[[Any], Row],
        columns: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        """Print the page of `rows` that the options name, and say where the next one begins, if there is one."""
        if options["before"] is not None:
            rows = rows.filter(pk__lt=options["before"])
        limit = options["limit"]
        found = list(rows.order_by("-pk")[: limit + 1])
        self.emit([describe(row) for row in found[:limit]], columns)
        if len(found) > limit:
            self.say(_("There are more: --before %(id)s shows the next ones.") % {"id": found[limit - 1].pk})
