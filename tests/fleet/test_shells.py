"""Scripts reach `sh` through every login shell, whatever that prints by itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.engine import socket_check
from fleet.facts import FACTS_SCRIPT, parse_facts
from fleet.ssh import CommandFailed
from fleet.ssh.shell import command_line, read_marked, stream_line

SHELLS = ["sh", "bash", "dash", "zsh", "fish", "csh", "bsd-csh", "tcsh"]
WILD = r"""# it's a "wild" one!
read -r line
say() { printf '%s\n' "$1"; }
say "$line"
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


def run(shell: str, line: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([shell, "-c", line], input=given, capture_output=True, check=False, timeout=60)


def test_script_runs_whole_when_the_login_shell_is_any(shell: str) -> None:
    ended = run(shell, command_line(WILD), b"given\n")
    out, err = read_marked(BEFORE + ended.stdout + AFTER, BEFORE + ended.stderr + AFTER, ended.returncode)
    assert ended.returncode == 7
    assert out.decode() == "given\na\\b!!$HOME`id`%s\nzwölf 中文\n"
    assert err == b"to stderr\n"


def test_facts_are_read_when_the_login_shell_is_any(shell: str) -> None:
    ended = run(shell, command_line(FACTS_SCRIPT), b"/nowhere\n\n")
    out, _err = read_marked(ended.stdout, ended.stderr, 0)
    assert parse_facts(out.decode(), 0).docker_socket is False


def test_socket_is_judged_when_the_login_shell_is_any(shell: str, tmp_path: Path) -> None:
    ended = run(shell, command_line(socket_check(str(tmp_path / "it's not here!"))))
    assert read_marked(ended.stdout, ended.stderr, 0)[0] == b"absent\n"


def test_stream_begins_with_the_programs_first_byte_when_the_login_shell_is_any(shell: str) -> None:
    ended = run(shell, stream_line("exec cat"), b"\0\1HTTP")
    assert read_marked(BEFORE + ended.stdout, ended.stderr, 0)[0] == b"\0\1HTTP"


def test_script_longer_than_a_word_of_csh_arrives_whole(shell: str) -> None:
    text = "!" * 3000
    ended = run(shell, command_line(f"echo '{text}'"))
    assert read_marked(ended.stdout, ended.stderr, 0)[0].decode() == f"{text}\n"


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
    with pytest.raises(CommandFailed) as caught:
        read_marked(stdout, stderr, 1)
    assert caught.value.code == code
    last = (stdout + stderr).decode().strip().splitlines()[-1:]
    assert caught.value.detail == " ".join([*(stdout + stderr).decode().split(), "(status 1)"])
    assert all(line in caught.value.detail for line in last)


def test_reason_is_told_when_much_is_printed_before_it() -> None:
    with pytest.raises(CommandFailed) as caught:
        read_marked(b"motd " * 1000 + b"\nThis account is currently not available.\n", b"", 1)
    assert caught.value.detail.endswith("This account is currently not available. (status 1)")
