"""Commands and streams over SSH where the user's login shell prints, reads and leaves programs behind."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from fleet import ssh
from fleet.ssh import Connection
from tests.fleet.ssh_host import SshHost

MEGABYTES = "yes 'Your password has expired.' | head -c 5000000"
FOREVER = "(while :; do echo noise; echo noise >&2; sleep 0.01; done) &"
SCRIPT = "cat; echo there; echo wrong >&2; exit 7"


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begin = time.monotonic()
    yield
    assert time.monotonic() - begin < seconds


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{MEGABYTES}; {MEGABYTES} >&2", f"{MEGABYTES}; {MEGABYTES} >&2"),
        ("cat >/dev/null; read -r line", "cat"),
        ("sleep 60 &", ""),
        ("", "sleep 60"),
        ("set -x", "set +x"),
        ("echo 'derpmgmt:begin: derpmgmt:end:0:'", "echo derpmgmt:end:0:"),
        ("trap '' PIPE; echo 'Your password has expired.' >&2", "echo 'Your password has expired.' >&2"),
    ],
)
def test_result_is_the_scripts_own_when_the_login_shell_is_wild(
    host: SshHost, connection: Connection, before: str, after: str
) -> None:
    host.before, host.after = before, after
    with within(15):
        result = connection.run(SCRIPT, timeout=20)
        assert (result.status, result.stdout, result.stderr) == (7, b"there\n", b"wrong\n")
        assert connection.run("echo again", timeout=20).stdout == b"again\n"


@pytest.mark.parametrize(("before", "stdout"), [("exec 2>&1", b"there\nwrong\n"), ("exec 2>&-", b"there\n")])
def test_result_is_the_scripts_own_when_the_login_shell_has_no_error_output(
    host: SshHost, connection: Connection, before: str, stdout: bytes
) -> None:
    host.before = before
    result = connection.run(SCRIPT, timeout=20)
    assert (result.status, result.stdout, result.stderr) == (7, stdout, b"")


def test_result_is_there_when_a_command_leaves_programs_behind(connection: Connection) -> None:
    with within(15):
        result = connection.run("sleep 60 & echo there; sleep 60 >&2 & exit 3", timeout=20)
    assert (result.status, result.stdout) == (3, b"there\n")


def test_result_is_there_when_the_login_shell_left_a_program_that_prints_for_ever(
    host: SshHost, connection: Connection
) -> None:
    host.before = FOREVER
    with within(15):
        result = connection.run(SCRIPT, timeout=20)
    assert (result.status, result.stdout.replace(b"noise\n", b"")) == (7, b"there\n")
    assert result.stderr.replace(b"noise\n", b"") == b"wrong\n"


def test_host_is_not_waited_for_for_ever_when_its_login_shell_prints_for_ever(
    host: SshHost, connection: Connection
) -> None:
    host.before = "yes"
    with within(15), pytest.raises(ssh.TimedOut):
        connection.run("true", timeout=1)


@pytest.mark.parametrize("stream", ["", " >&2"])
def test_expired_password_is_no_diagnosis_when_the_login_shell_ends_for_another_reason(
    host: SshHost, connection: Connection, stream: str
) -> None:
    host.before = f"(echo 'Your password has expired.'; echo 'No more work today.'){stream}; exit 1"
    with pytest.raises(ssh.CommandFailed) as caught:
        connection.run("true", timeout=20)
    assert caught.value.code == "no_commands"
    assert "No more work today." in caught.value.detail


def test_expired_password_is_told_when_the_host_runs_nothing_because_of_it(
    host: SshHost, connection: Connection
) -> None:
    host.before = (
        "echo 'WARNING: Your password has expired.' >&2; "
        "echo 'Password change required but no TTY available.' >&2; exit 1"
    )
    for ask in (
        lambda: connection.run("true", timeout=20),
        lambda: connection.open_session_command("cat", 20),
    ):
        with pytest.raises(ssh.CommandFailed) as caught:
            ask()
        assert caught.value.code == "password_expired"


@pytest.mark.parametrize(
    "before", [f"{MEGABYTES}; {MEGABYTES} >&2", FOREVER.replace("echo noise; ", ""), "sleep 60 &"]
)
def test_stream_carries_all_when_the_login_shell_is_wild(
    host: SshHost, connection: Connection, before: str
) -> None:
    host.before = before
    stream = connection.open_session_command("sh -c 'yes wrong | head -c 3000000 >&2; cat'", 20)
    data, echoed = bytes(1024 * 1024), 0
    stream.sendall(data)
    while echoed < len(data):
        echoed += len(stream.recv(65536))
    assert echoed == len(data)
    stream.close()


def test_stream_begins_when_much_is_there_before_anybody_reads(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a busy machine."""
    start = Connection._start

    def start_and_be_busy(*values: Any) -> Any:
        channel = start(*values)
        time.sleep(1)
        return channel

    monkeypatch.setattr(Connection, "_start", start_and_be_busy)
    stream = connection.open_session_command("sh -c 'yes wrong | head -c 3000000 >&2; cat'", 20)
    stream.sendall(b"there")
    assert stream.recv(10) == b"there"
    stream.close()


def test_stream_says_so_when_the_login_shell_reads_its_input(host: SshHost, connection: Connection) -> None:
    host.before = "read -r line"
    with within(8), pytest.raises(ssh.CommandFailed) as caught:
        connection.open_session_command("cat", 4)
    assert caught.value.code == "shell_reads_input"
    host.before = ""
    assert connection.run("echo there").stdout == b"there\n"
