"""Commands at real OpenSSH servers that run one at a time, and whose login shells print, read and leave programs behind."""

import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet import ssh
from fleet.facts import read_facts
from fleet.ssh import Connection
from tests.lab.sshd import StartSshd

pytestmark = pytest.mark.lab
MEGABYTES = "yes 'Your password has expired.' | head -c 5000000"


def test_commands_work_when_the_server_runs_one_at_a_time(start: StartSshd, tmp_path: Path) -> None:
    server = start("MaxSessions 1")
    (tmp_path / "echo").unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listening, Connection.open(server.endpoint()) as connection:
        listening.bind(str(tmp_path / "echo"))
        listening.listen()
        streams = [connection.open_unix(str(tmp_path / "echo")) for _ in range(3)]
        for _ in range(20):
            assert read_facts(connection, "/nowhere.sock").cores
        with ThreadPoolExecutor(4) as threads:
            said = list(threads.map(lambda number: connection.run(f"echo {number}").stdout, range(20)))
        assert said == [f"{number}\n".encode() for number in range(20)]
        for stream in streams:
            stream.close()


def test_command_waits_for_the_other_and_says_so_when_that_does_not_end(start: StartSshd) -> None:
    with Connection.open(start("MaxSessions 1").endpoint()) as connection:
        stream = connection.open_session_command("cat")
        with pytest.raises(ssh.CommandFailed) as caught:
            connection.run("true", timeout=1)
        assert caught.value.code == "too_few_sessions"
        threading.Timer(1, stream.close).start()
        assert connection.run("echo there", timeout=10).stdout == b"there\n"


def test_reason_is_told_when_the_server_runs_nothing(start: StartSshd) -> None:
    with Connection.open(start("MaxSessions 0").endpoint()) as connection:
        with pytest.raises(ssh.CommandFailed) as caught:
            connection.run("true")
        assert caught.value.code == "session_refused"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (f"{MEGABYTES}; {MEGABYTES} >&2", f"{MEGABYTES}; {MEGABYTES} >&2"),
        ("cat; read -r line", ""),
        ("sleep 60 &", ""),
        ("(while :; do echo noise >&2; sleep 0.01; done) &", ""),
        ("", "sleep 60"),
        ("echo 'Your password has expired.' >&2", "echo 'Your password has expired.' >&2; exit 1"),
    ],
)
def test_result_is_the_scripts_own_when_the_login_shell_is_wild(
    start: StartSshd, tmp_path: Path, before: str, after: str
) -> None:
    (tmp_path / ".bashrc").write_text(f'{before}\ntrap "{after}" EXIT\n')
    server = start("MaxSessions 1", login_shell="/bin/bash")
    with Connection.open(server.endpoint()) as connection:
        begin = time.monotonic()
        result = connection.run("cat; echo there; exit 7", timeout=20)
        assert (result.status, result.stdout) == (7, b"there\n")
        assert time.monotonic() - begin < 10


def test_result_is_there_when_a_command_leaves_programs_behind(start: StartSshd) -> None:
    with Connection.open(start("MaxSessions 1").endpoint()) as connection:
        begin = time.monotonic()
        for number in range(3):
            result = connection.run(f"sleep 60 & echo there; sleep 60 >&2 & exit {number}", timeout=20)
            assert (result.status, result.stdout) == (number, b"there\n")
        assert time.monotonic() - begin < 10


def test_status_is_told_when_the_script_is_killed(start: StartSshd) -> None:
    with Connection.open(start().endpoint()) as connection:
        result = connection.run("echo there; sleep 0.5; kill -9 $$", timeout=20)
        # -1 where the login shell has become the script, else that shell’s word for it.
        assert result.status in {-1, 128 + 9}
        assert result.stdout == b"there\n"


def test_stream_says_so_when_the_login_shell_reads_its_input(start: StartSshd, tmp_path: Path) -> None:
    (tmp_path / ".bashrc").write_text("cat >/dev/null\n")
    with Connection.open(start(login_shell="/bin/bash").endpoint()) as connection:
        with pytest.raises(ssh.CommandFailed) as caught:
            connection.open_session_command("cat", 4)
        assert caught.value.code == "shell_reads_input"
        assert connection.run("echo there").stdout == b"there\n"


def test_large_output_arrives_whole_when_the_script_ends_at_once(start: StartSshd) -> None:
    with Connection.open(start().endpoint()) as connection:
        for _ in range(5):
            assert len(connection.run("head -c 1048576 /dev/zero", timeout=20).stdout) == 1048576
