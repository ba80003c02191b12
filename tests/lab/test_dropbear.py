"""The SSH client against dropbear, which is smaller than OpenSSH: no sockets, no dialogues, few tries."""

from collections.abc import Iterator
from pathlib import Path

import asyncssh
import pytest

from fleet import ssh
from fleet.engine import open_engine
from fleet.engine_errors import EngineError
from fleet.facts import read_facts
from fleet.ssh import Connection, Endpoint, read_host_key
from tests.lab.sshd import PASSWORD, Sshd, dropbear

pytestmark = pytest.mark.lab


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Sshd]:
    with dropbear(tmp_path) as running:
        yield running


@pytest.mark.parametrize("key", [True, False])
def test_commands_work_when_signed_in_by_key_or_password(server: Sshd, key: bool) -> None:
    assert read_host_key("127.0.0.1", server.port).line == server.host_key
    with Connection.open(server.endpoint(key=key, password="" if key else PASSWORD)) as connection:
        assert connection.ping()
        result = connection.run("cat; echo there; echo wrong >&2; exit 7")
        assert (result.status, result.stdout, result.stderr) == (7, b"there\n", b"wrong\n")
        assert read_facts(connection, "/nowhere.sock").cores
        stream = connection.open_session_command("cat")
        stream.sendall(b"\0\1")
        assert stream.recv(10) == b"\0\1"
        stream.close()
        assert connection.run("sleep 60 & echo there", timeout=20).stdout == b"there\n"


def test_reason_is_told_when_it_forwards_no_sockets_and_there_is_no_docker(
    server: Sshd, tmp_path: Path
) -> None:
    with Connection.open(server.endpoint()) as connection:
        with pytest.raises(EngineError) as absent:
            open_engine(connection, str(tmp_path / "absent.sock"))
        assert absent.value.code == "no_docker"
        with pytest.raises(ssh.ForwardingRefused) as caught:
            connection.open_unix("/run/any.sock")
        assert caught.value.is_unknown
        assert "dropbear" in connection.server_program


@pytest.mark.parametrize("most", ["1", "10"])
def test_reason_is_told_when_the_sign_in_is_refused(tmp_path: Path, most: str) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with dropbear(tmp_path, "-T", most) as server:

        def endpoint(key: str, password: str) -> Endpoint:
            return Endpoint("127.0.0.1", server.port, "root", server.host_key, key, password)

        Connection.open(endpoint(other, PASSWORD)).close()
        for key, password in ((other, ""), ("", "wrong"), (other, "wrong")):
            with pytest.raises(ssh.RemoteError) as caught:
                Connection.open(endpoint(key, password))
            # It counts passwords only, and ends the connection without a word.
            is_last = most == "1" and password
            assert caught.value.code == ("closed_at_sign_in" if is_last else "authentication_failed")


def test_method_is_named_when_it_takes_no_passwords(tmp_path: Path) -> None:
    with dropbear(tmp_path, "-s") as server, pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(server.endpoint(key=False, password=PASSWORD))
    assert caught.value.code == "password_not_taken"


def test_next_command_works_when_a_stream_was_closed_before_its_program_ended(server: Sshd) -> None:
    for _ in range(25):
        with Connection.open(server.endpoint()) as connection:
            stream = connection.open_session_command("cat")
            stream.sendall(b"x")
            assert stream.recv(10) == b"x"
            stream.close()
            assert connection.run("echo there", timeout=20).stdout == b"there\n"
