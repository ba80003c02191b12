"""`manage.py` itself: the terminal's language, failures as JSON, readers that go away, and what is asked before it is done."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.exceptions import ImproperlyConfigured, ValidationError
from django.core.management import (
    BaseCommand,
    CommandError,
    CommandParser,
    call_command,
    get_commands,
    load_command_class,
)
from django.db import IntegrityError, OperationalError
from django.utils import translation

from accounts.models import User
from accounts.services import ClosingRefused
from derpmgmt.lib import env
from derpmgmt.lib.commands import CommandRefused, PanelCommand, describe_error, run_command_line
from derpmgmt.lib.language import terminal_language
from fleet.ssh import Unreachable
from serials.numbers.services import SerialRefused
from tests.factories import WholeRentalFactory
from tests.panel import preloaded
from tests.panel.running import ROOT, Folder

pytestmark = pytest.mark.slow

LOCALES = ("LC_ALL", "LC_MESSAGES", "LANG", "DERPMGMT_LANGUAGE")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Folder:
    """A state folder whose database has every table."""
    return Folder(tmp_path_factory.mktemp("manage") / "var").fill(migrated)


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the variables that decide the language, and no others of them."""
    monkeypatch.setattr(env, "read_running", dict)

    def give(**variables: str) -> None:
        for name in LOCALES:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return give


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({}, "zh-hans"),
        ({"LANG": "zh_CN.UTF-8"}, "zh-hans"),
        ({"LANG": "zh_TW.UTF-8"}, "zh-hans"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "POSIX"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_CN.UTF-8"}, "zh-hans"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_GB"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, "zh-hans"),
        ({"LANG": "zh_CN.UTF-8", "DERPMGMT_LANGUAGE": "en"}, "en"),
        ({"LC_ALL": "en_US.UTF-8", "DERPMGMT_LANGUAGE": "zh"}, "zh-hans"),
        ({"DERPMGMT_LANGUAGE": "zh-Hans"}, "zh-hans"),
        ({"DERPMGMT_LANGUAGE": "zh_CN.UTF-8"}, "zh-hans"),
        ({"DERPMGMT_LANGUAGE": "EN"}, "en"),
    ],
)
def test_language_is_the_variables_or_the_locales(
    bare: Callable[..., None], variables: dict[str, str], language: str
) -> None:
    bare(**variables)
    assert terminal_language() == language


def test_language_is_refused_when_the_panel_does_not_speak_it(bare: Callable[..., None]) -> None:
    bare(DERPMGMT_LANGUAGE="french")
    with pytest.raises(ImproperlyConfigured, match=r"DERPMGMT_LANGUAGE.*zh-hans.*en.*french"):
        terminal_language()


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"LC_ALL": "zh_CN.UTF-8"}, "没有区域 xx"),
        ({"LC_ALL": "en_US.UTF-8"}, "There is no region xx"),
        ({"LC_ALL": "en_US.UTF-8", "DERPMGMT_LANGUAGE": "zh"}, "没有区域 xx"),
    ],
)
def test_commands_speak_the_terminals_language(folder: Folder, variables: dict[str, str], words: str) -> None:
    done = folder.manage("server_list", "--region", "xx", **variables)
    assert done.returncode == 1
    assert words in done.stderr, done.stderr


def test_mail_of_a_command_is_in_the_terminals_language(settings: Any) -> None:
    settings.EMAIL_BACKEND = "django.core.mail.backends.locmem.EmailBackend"
    subjects = []
    for language in ("zh-hans", "en"):
        with translation.override(language):
            call_command("mail_test", "somebody@example.com", stdout=StringIO(), stderr=StringIO())
        subjects.append(mail.outbox[-1].subject)
    assert not subjects[0].isascii()
    assert subjects[1].isascii()


def test_failure_is_one_json_object_and_the_exit_code_stays(folder: Folder) -> None:
    for arguments, status, code in (
        (["server_list", "--region", "xx"], 1, "no_region"),
        (["server_list", "--nonsense"], 2, "usage"),
        (["server_list", "--status", "nonsense"], 2, "usage"),
        (["device_revoke", "nobody@example.com", "x"], 1, "refused"),
        (["user_create", "no address"], 1, "invalid"),
    ):
        done = folder.manage(*arguments, "--json", LC_ALL="en_US.UTF-8")
        assert done.returncode == status, (arguments, done.stderr)
        assert done.stdout == ""
        told = json.loads(done.stderr.splitlines()[-1])
        assert told.keys() == {"code", "message", "details"}
        assert told["code"] == code
        assert told["message"]
    done = folder.manage("server_list", "--json", DERPMGMT_LANGUAGE="french")
    assert (done.returncode, json.loads(done.stderr.splitlines()[-1])["code"]) == (1, "configuration")


@pytest.mark.parametrize(
    ("arguments", "status", "code", "words"),
    [
        (["nonsense", "--json"], 1, "unknown_command", "nonsense"),
        (["--json"], 1, "unknown_command", "--json"),
        (["help", "nonsense", "--json"], 1, "unknown_command", "nonsense"),
        (["server_edit", "--json"], 2, "usage", "required"),
        (["server_list", "--json", "--status"], 2, "usage", "--status"),
        (["server_list", "--js", "--nonsense"], 2, "usage", "--nonsense"),
        (["server_list", "--json=yes"], 2, "usage", "--json"),
        (["up", "--json"], 2, "usage", "--json"),
        (["demo", "--with-parent", "--json"], 2, "usage", "--json"),
        (["migrate", "--json"], 2, "usage", "--json"),
        (["dumpdata", "--format", "--json"], 2, "usage", "--format"),
        (["clearsessions", "--json", "--nonsense"], 2, "usage", "--nonsense"),
        (["shell", "--json", "-c", "1/0"], 2, "usage", "--json"),
    ],
)
def test_every_failure_is_json_where_json_is_asked_for(
    folder: Folder, arguments: list[str], status: int, code: str, words: str
) -> None:
    """Also where the command line is wrong, or the command is Django's and knows no JSON at all."""
    done = folder.manage(*arguments, LC_ALL="en_US.UTF-8")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1), done
    told = json.loads(done.stderr)
    assert told.keys() == {"code", "message", "details"}
    assert told["code"] == code
    assert words in told["message"]


def test_a_command_of_others_with_json_fails_in_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Others(BaseCommand):
        requires_system_checks: Any = []
        error: Exception = CommandError("Why.", returncode=3)

        def add_arguments(self, parser: CommandParser) -> None:
            parser.add_argument("--json", action="store_true")

        def handle(self, *args: object, **options: object) -> None:
            raise self.error

    monkeypatch.setitem(get_commands(), "others", Others())  # type: ignore[arg-type]
    with pytest.raises(SystemExit) as ended:
        run_command_line(["manage.py", "others", "--json"])
    assert ended.value.code == 3
    assert json.loads(capsys.readouterr().err) == {"code": "refused", "message": "Why.", "details": {}}
    # A mistake of ours has its traceback, and the object on the last line.
    Others.error = ZeroDivisionError("a mistake of ours")
    with pytest.raises(SystemExit) as ended:
        run_command_line(["manage.py", "others", "--json"])
    said = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" in said
    assert json.loads(said.splitlines()[-1])["code"] == "internal"


@pytest.mark.parametrize("arguments", [["server_list"], ["user_create", "a@example.com"], ["relay_list"]])
def test_command_says_that_the_database_has_no_tables_yet(tmp_path: Path, arguments: list[str]) -> None:
    folder = Folder(tmp_path / "var")
    done = folder.manage(*arguments, LC_ALL="en_US.UTF-8")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "manage.py up" in done.stderr
    done = folder.manage(*arguments, "--json", LC_ALL="zh_CN.UTF-8")
    told = json.loads(done.stderr)
    assert (done.returncode, told["code"]) == (1, "database_not_current")
    assert "数据库" in told["message"]


@pytest.mark.django_db
def test_command_says_that_the_database_does_not_answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asking(PanelCommand):
        requires_system_checks: Any = []
        error: Exception = OperationalError(2002, "Can't connect to server on '127.0.0.1' (111)")

        def handle(self, *args: object, **options: object) -> None:
            raise self.error

    monkeypatch.setitem(get_commands(), "asking", Asking())  # type: ignore[arg-type]
    for flag, is_json in (([], False), (["--json"], True)):
        with translation.override("en"), pytest.raises(SystemExit) as ended:
            run_command_line(["manage.py", "asking", *flag])
        said = capsys.readouterr().err
        assert ended.value.code == 1
        message = json.loads(said)["message"] if is_json else said.strip()
        assert message == "The database does not answer: Can't connect to server on '127.0.0.1' (111)"
        assert not is_json or json.loads(said)["code"] == "database"
    Asking.error = IntegrityError("a mistake of ours")
    with pytest.raises(IntegrityError):
        run_command_line(["manage.py", "asking"])


@pytest.mark.parametrize(
    ("cause", "code", "details"),
    [
        (
            Unreachable(code="refused", detail="Connection refused", host="h", port=22),
            "refused",
            {"host": "h", "port": 22, "words": "Connection refused"},
        ),
        (ValidationError({"name": ["Taken."]}), "invalid", {"name": ["Taken."]}),
        (ValidationError("Wrong."), "invalid", {"errors": ["Wrong."]}),
        (ClosingRefused(["It has money."]), "closing_refused", {"reasons": ["It has money."]}),
        (None, "refused", {}),
    ],
)
def test_failure_has_the_code_and_details_of_its_cause(
    cause: Exception | None, code: str, details: dict[str, Any]
) -> None:
    error = CommandError("Why.")
    error.__cause__ = cause
    assert describe_error(error) == {"code": code, "message": "Why.", "details": details}


def test_refused_serial_number_has_the_code_of_its_refusal() -> None:
    for kind in SerialRefused.__subclasses__():
        error = CommandError("Why.")
        error.__cause__ = kind()
        assert describe_error(error)["code"] == kind.code


@pytest.mark.parametrize(
    "arguments",
    [
        ["help"],
        ["server_add", "--help"],
        ["server_list"],
        ["server_list", "--json"],
        ["relay_list"],
        ["serials_create", "--days", "30", "--count", "300"],
    ],
)
@pytest.mark.parametrize("both", [False, True], ids=["output", "errors too"])
def test_command_ends_quietly_when_its_reader_has_gone(
    folder: Folder, tmp_path: Path, arguments: list[str], both: bool
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with (tmp_path / "errors").open("wb") as errors, Path(os.devnull).open() as nothing:
        streams = [nothing.fileno(), writing, writing if both else errors.fileno()]
        code = preloaded.run_on(["manage.py", *arguments], folder.environment(), streams)
    os.close(writing)
    assert code in {0, 141}
    assert (tmp_path / "errors").read_text() == ""


# What cannot be undone


def ask(folder: Folder, typed: str, *arguments: str) -> tuple[int, str]:
    """A command on a terminal at which somebody types that; its exit code and what is seen."""
    terminal, end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=folder.environment(LC_ALL="en_US.UTF-8"),
        stdin=end,
        stdout=end,
        stderr=end,
        start_new_session=True,
    )
    os.close(end)
    os.write(terminal, typed.encode() + b"\n")
    seen = b""
    try:
        while piece := os.read(terminal, 4096):
            seen += piece
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return process.wait(60), seen.decode()


def test_closing_an_account_asks_at_the_terminal(folder: Folder) -> None:
    folder.manage("user_create", "leaves@example.com")
    show = "from accounts.models import User; print(User.objects.filter(email='leaves@example.com').count())"
    done = folder.manage("account_close", "leaves@example.com", "--json")
    assert (done.returncode, json.loads(done.stderr.splitlines()[-1])["code"]) == (1, "not_confirmed")
    status, seen = ask(folder, "yes", "account_close", "leaves@example.com")
    assert status == 1
    assert "nothing was changed" in seen
    assert folder.python(show) == "1"
    status, seen = ask(folder, "leaves@example.com", "account_close", "leaves@example.com")
    assert status == 0, seen
    assert folder.python(show) == "0"


@pytest.mark.django_db
def test_account_stays_when_nobody_confirms_its_end() -> None:
    user = WholeRentalFactory().user
    with pytest.raises(CommandRefused) as refusal:
        call_command("account_close", user.email, stdout=StringIO(), stderr=StringIO())
    assert refusal.value.code == "not_confirmed"
    assert User.objects.get(pk=user.pk).closing_at is None
    call_command("account_close", user.email, "--yes", stdout=StringIO(), stderr=StringIO())
    assert User.objects.get(pk=user.pk).closing_at is not None


def test_commands_that_destroy_something_ask_and_no_others() -> None:
    ours = {
        name: command
        for name, app in get_commands().items()
        if isinstance(command := load_command_class(app, name), PanelCommand)
    }
    destroying = {name for name, command in ours.items() if command.destroys}
    assert destroying == {"account_close", "serial_recall", "server_remove"}
