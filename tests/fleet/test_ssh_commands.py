"""Commands and streams over SSH, with a server on loopback."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fleet import ssh
from fleet.ssh import Connection
from tests.fleet.ssh_host import SshHost


def test_run_gives_status_and_both_outputs_when_command_ends(connection: Connection) -> None:
    result = connection.run('cat; printf "out\\000put"; echo "it\'s" >&2; exit 7')
    assert (result.status, result.stdout, result.stderr) == (7, b"out\0put", b"it's\n")


def test_run_takes_a_megabyte_when_command_writes_it(connection: Connection) -> None:
    assert connection.run("head -c 1048576 /dev/zero", 10).stdout == bytes(1024 * 1024)


def test_run_raises_with_the_hosts_words_when_checked_command_fails(connection: Connection) -> None:
    with pytest.raises(ssh.CommandFailed) as caught:
        connection.run("echo no such thing >&2; exit 3", check=True)
    assert caught.value.detail == "no such thing  (status 3)"


def test_run_fails_and_connection_lives_when_output_is_endless(connection: Connection) -> None:
    with pytest.raises(ssh.CommandFailed) as caught:
        connection.run(
            "while :; do echo yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy; done"
        )
    assert caught.value.code == "output_too_long"
    assert connection.run("echo there").stdout == b"there\n"


def test_run_times_out_and_connection_is_dropped_when_command_hangs(connection: Connection) -> None:
    with pytest.raises(ssh.TimedOut):
        connection.run("sleep 30", timeout=0.3)
    assert not connection.is_alive


def test_run_times_out_and_connection_is_dropped_when_host_hangs(
    host: SshHost, connection: Connection
) -> None:
    with host.paused(), pytest.raises(ssh.TimedOut):
        connection.run("true", timeout=0.3)
    assert not connection.is_alive


def test_run_is_unreachable_when_connection_breaks_meanwhile(host: SshHost, connection: Connection) -> None:
    timer = threading.Timer(0.3, host.drop_connections)
    timer.start()
    with pytest.raises(ssh.Unreachable) as caught:
        connection.run("sleep 30", timeout=10)
    timer.join()
    assert caught.value.code == "lost"


@pytest.fixture
def echo_socket(tmp_path: Path) -> Iterator[str]:
    """A unix socket that answers every piece with the same in capitals."""
    path = str(tmp_path / "echo")
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def serve() -> None:
        try:
            while True:
                client, _address = server.accept()
                with client:
                    while data := client.recv(65536):
                        client.sendall(data.upper())
        except OSError:
            return

    thread = threading.Thread(target=serve)
    thread.start()
    yield path
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


def test_open_unix_carries_bytes_both_ways_when_allowed(connection: Connection, echo_socket: str) -> None:
    stream = connection.open_unix(echo_socket, 5)
    stream.sendall(b"hello")
    assert stream.recv(100) == b"HELLO"
    stream.close()


def test_open_unix_is_refused_and_connection_lives_when_forbidden(
    host: SshHost, connection: Connection, echo_socket: str
) -> None:
    host.forwarding = False
    with pytest.raises(ssh.ForwardingRefused):
        connection.open_unix(echo_socket, 5)
    assert connection.run("echo there").stdout == b"there\n"


def test_open_unix_tells_refusals_apart_when_threads_open_at_once(
    connection: Connection, echo_socket: str
) -> None:
    def attempt(number: int) -> bool:
        try:
            stream = connection.open_unix(echo_socket if number % 2 else f"{echo_socket}-absent", 5)
        except ssh.ForwardingRefused:
            return False
        stream.close()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, range(24))) == [bool(number % 2) for number in range(24)]


def test_stream_times_out_and_connection_is_dropped_when_far_side_is_silent(
    connection: Connection, echo_socket: str
) -> None:
    stream = connection.open_unix(echo_socket, 5)
    stream.settimeout(0.2)
    with pytest.raises(ssh.TimedOut):
        stream.recv(1)
    assert not connection.is_alive


def test_stream_is_unreachable_when_connection_breaks(
    host: SshHost, connection: Connection, echo_socket: str
) -> None:
    stream = connection.open_unix(echo_socket, 5)
    host.drop_connections()
    with pytest.raises(ssh.Unreachable):
        stream.recv(1)


def test_session_command_streams_when_it_is_a_filter(connection: Connection) -> None:
    stream = connection.open_session_command("cat", 5)
    for piece in (b"one", b"two"):
        stream.sendall(piece)
        assert stream.recv(100) == piece
    stream.close()
