"""Scripts reach `sh` through every login shell, whatever that prints by itself."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.engine import socket_check
from fleet.facts import FACTS_SCRIPT, parse_facts
from fleet.ssh import CommandFailed
from fleet.ssh.shell import Marked, Wrapped, not_run

SHELLS = ["sh", "bash", "dash", "zsh", "fish", "csh", "bsd-csh", "tcsh"]
WILD = r"""# it's a "wild" one!
say() { printf '%s\n' "$1"; }
read -r line || say "reads nothing"
say 'a\b!!$HOME`id`%s'
say "zwölf 中文"
# nothing
echo 'to stderr' >&2
exit 7"""
BEFORE, AFTER = b"Welcome! 3 updates\nno newline", b"logout\n"


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    if shutil.which(name) is None and os.environ.get("DERPMGMT_LAB") != "required":
        pytest.skip(f"no {name} here")
    return name


def run(shell: str, wrapped: Wrapped, given: bytes = b"") -> tuple[Marked, Marked, int]:
    """Both outputs of a script whose login shell prints before and after it, as they come: in pieces."""
    ended = subprocess.run(
        [shell, "-c", wrapped.command], input=given, capture_output=True, check=False, timeout=60
    )
    marked = wrapped.output(100_000), wrapped.errors(100_000)
    for output, said in zip(marked, (ended.stdout, ended.stderr), strict=True):
        for piece in batched(BEFORE + said + AFTER, 7):
            output.feed(bytes(piece))
    return *marked, ended.returncode


def batched(data: bytes, size: int) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def test_script_runs_whole_when_the_login_shell_is_any(shell: str) -> None:
    out, err, status = run(shell, Wrapped(WILD), b"not the script's\n")
    assert (status, out.status, err.status) == (7, 7, 7)
    assert out.text.decode() == "reads nothing\na\\b!!$HOME`id`%s\nzwölf 中文\n"
    assert err.text == b"to stderr\n"


def test_facts_are_read_when_the_login_shell_is_any(shell: str) -> None:
    out, _err, _status = run(shell, Wrapped(f"set -- '/no where' ''\n{FACTS_SCRIPT}"))
    assert parse_facts(out.text.decode(), 0).docker_socket is False


def test_socket_is_judged_when_the_login_shell_is_any(shell: str, tmp_path: Path) -> None:
    out, _err, _status = run(shell, Wrapped(socket_check(str(tmp_path / "it's not here!"))))
    assert out.text == b"absent\n"


def test_stream_begins_with_the_programs_first_byte_when_the_login_shell_is_any(shell: str) -> None:
    out, _err, _status = run(shell, Wrapped("exec cat", stream=True), b"\0\1HTTP")
    assert out.text == b"\0\1HTTP" + AFTER


def test_script_longer_than_a_word_of_csh_arrives_whole(shell: str) -> None:
    text = "!" * 3000
    out, _err, _status = run(shell, Wrapped(f"echo '{text}'"))
    assert out.text.decode() == f"{text}\n"


def test_marks_of_another_script_are_its_words(shell: str) -> None:
    inner = Wrapped("echo inner")
    out, _err, _status = run(shell, Wrapped(inner.command))
    assert b"inner\n" in out.text
    assert out.text.startswith(b"derpmgmt:begin:")


def test_memory_stays_small_when_the_login_shell_prints_much() -> None:
    wrapped = Wrapped("true")
    out = wrapped.output(100)
    begin, end = f"derpmgmt:begin:{wrapped.mark}:".encode(), f"derpmgmt:end:{wrapped.mark}:0:".encode()
    for _ in range(1000):
        out.feed(b"x" * 10_000)
        assert len(out.before) <= Marked.TAIL
    out.feed(b"noise" + begin + b"words" + end)
    for _ in range(1000):
        out.feed(b"x" * 10_000)
    assert (bytes(out.text), out.status) == (b"words", 0)
    with pytest.raises(CommandFailed) as caught:
        Wrapped("true", mark=wrapped.mark).output(3).feed(begin + b"words" + end)
    assert caught.value.code == "output_too_long"


@pytest.mark.parametrize(
    ("stdout", "stderr", "code"),
    [
        (b"", b"WARNING: Your password has expired.\nPassword change required but no TTY available.\n", "password_expired"),
        (b"", b"You are required to change your password immediately (administrator enforced).\n", "password_expired"),
        (b"This account is currently not available.\n", b"", "no_login_shell"),
        (b"Welcome\nPlease login as the user \"ubuntu\" rather than the user \"root\".\n", b"", "no_commands"),
        (b"This service allows sftp connections only.\n", b"", "no_commands"),
        (b"", b"", "no_commands"),
    ],
)  # fmt: skip
def test_hosts_words_are_told_when_it_runs_nothing(stdout: bytes, stderr: bytes, code: str) -> None:
    error = not_run(stdout, stderr, 1)
    assert error.code == code
    assert error.detail == " ".join([*(stdout + stderr).decode().split(), "(status 1)"])


def test_reason_is_told_when_much_is_printed_before_it() -> None:
    error = not_run(b"motd " * 1000 + b"\nThis account is currently not available.\n", b"", 1)
    assert error.code == "no_login_shell"
    assert error.detail.endswith("This account is currently not available. (status 1)")


@pytest.mark.parametrize(
    ("stdout", "stderr", "status"),
    [
        (b"If your password has expired, ask the desk.\nWARNING: Your password has expired.\n", b"", 1),
        (b"", b"WARNING: Your password has expired.\nDisk quota exceeded.\n", 1),
        (b"", b"Once your password has expired: https://desk.example\n", 1),
        (b"", b"WARNING: Your password has expired.\n", 126),
        (b"Your account has expired? Ask the desk.\n", b"sh: not found\n", 127),
        (b"Says 'this account is currently not available': no.\n", b"", 1),
    ],
)
def test_expiry_is_no_diagnosis_when_the_host_only_speaks_of_it(
    stdout: bytes, stderr: bytes, status: int
) -> None:
    assert not_run(stdout, stderr, status).code == "no_commands"
