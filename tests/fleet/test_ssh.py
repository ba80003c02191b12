"""The SSH client against a real SSH server on loopback, and against hosts that are none."""

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fleet import ssh
from fleet.ssh import Connection, ConnectionPool, HostKey, read_host_key, transport
from tests.fleet.ssh_host import SshHost, ssh_host

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"


@pytest.fixture
def host() -> Iterator[SshHost]:
    with ssh_host() as running:
        yield running


@pytest.fixture
def connection(host: SshHost) -> Iterator[Connection]:
    opened = Connection.open(host.endpoint(), 5)
    yield opened
    opened.close()


def test_read_host_key_prefers_ed25519_when_server_has_several() -> None:
    with ssh_host("ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519") as host:
        key = read_host_key("127.0.0.1", host.port, 5)
    assert key.line == host.line("ssh-ed25519")
    assert key.fingerprint == host.host_keys["ssh-ed25519"].get_fingerprint()


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"])
def test_open_gets_the_pinned_key_when_server_has_several(kind: str) -> None:
    with ssh_host("ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519") as host:
        connection = Connection.open(host.endpoint(host_key=host.line(kind)), 5)
        assert connection.run("echo there").stdout == b"there\n"
        connection.close()


def test_open_refuses_and_sends_nothing_when_host_key_changed(host: SshHost) -> None:
    other = asyncssh.generate_private_key("ssh-ed25519")
    pinned = " ".join(other.export_public_key().decode().split()[:2])
    with pytest.raises(ssh.HostKeyChanged) as caught:
        Connection.open(host.endpoint(host_key=pinned, password="secret"), 5)
    assert caught.value.pinned == other.get_fingerprint()
    assert caught.value.presented == HostKey.from_line(host.line()).fingerprint
    assert caught.value.pinned in str(caught.value)
    assert caught.value.presented in str(caught.value)
    assert host.sign_ins == []


def test_open_names_the_new_key_when_the_pinned_kind_is_gone(host: SshHost) -> None:
    other = asyncssh.generate_private_key("ecdsa-sha2-nistp256")
    with pytest.raises(ssh.HostKeyChanged) as caught:
        Connection.open(host.endpoint(host_key=other.export_public_key().decode()), 5)
    assert caught.value.presented == HostKey.from_line(host.line()).fingerprint
    assert host.sign_ins == []


@pytest.mark.parametrize("line", ["", "ssh-ed25519", "ssh-ed25519 ???", "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAA"])
def test_host_key_is_refused_when_line_is_none(line: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        HostKey.from_line(line)


FORMS = [(kind, form) for kind in ("ed25519", "rsa", "ecdsa") for form in ("openssh", "pkcs8", "traditional")]
FORMS.remove(("ed25519", "traditional"))  # there is no such form


@pytest.mark.parametrize(("kind", "form"), FORMS)
def test_open_signs_in_when_key_is_of_any_kind_and_form(host: SshHost, kind: str, form: str) -> None:
    keys: dict[str, Callable[[], Any]] = {
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ecdsa": lambda: ec.generate_private_key(ec.SECP384R1()),
    }
    forms = {
        "openssh": serialization.PrivateFormat.OpenSSH,
        "pkcs8": serialization.PrivateFormat.PKCS8,
        "traditional": serialization.PrivateFormat.TraditionalOpenSSL,
    }
    key = keys[kind]()
    text = key.private_bytes(serialization.Encoding.PEM, forms[form], serialization.NoEncryption()).decode()
    host.authorized = [asyncssh.import_private_key(text).export_public_key().decode()]
    # Pasted into a form, a key comes with other line ends and spaces around it.
    connection = Connection.open(host.endpoint(private_key="\r\n" + text.replace("\n", "\r\n")), 5)
    assert connection.run("echo there").stdout == b"there\n"
    connection.close()


def test_open_signs_in_with_password_when_there_is_no_key(host: SshHost) -> None:
    connection = Connection.open(host.endpoint(private_key="", password=host.password), 5)
    assert connection.is_alive
    connection.close()


@pytest.mark.parametrize("wrong", ["key", "password", "nothing"])
def test_open_fails_in_words_without_secrets_when_sign_in_is_refused(
    host: SshHost, caplog: pytest.LogCaptureFixture, wrong: str
) -> None:
    caplog.set_level(logging.DEBUG)
    key = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    endpoint = {
        "key": host.endpoint(private_key=key),
        "password": host.endpoint(private_key="", password="wrong horse"),
        "nothing": host.endpoint(private_key=""),
    }[wrong]
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(endpoint, 5)
    assert caught.value.code == "authentication_failed"
    seen = repr(endpoint) + str(caught.value) + caught.value.detail + caplog.text
    for secret in ("wrong horse", *key.splitlines()):
        assert secret not in seen
    assert not [record for record in caplog.records if record.name.startswith("paramiko")]


def test_open_says_so_without_repeating_it_when_key_is_unreadable(host: SshHost) -> None:
    encrypted = ed25519.Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"x"),
    )
    for text in ("my secret words", encrypted.decode()):
        with pytest.raises(ssh.AuthenticationFailed) as caught:
            Connection.open(host.endpoint(private_key=text), 5)
        assert caught.value.code == "bad_key"
        assert caught.value.detail == ""
        assert text not in str(caught.value)


def test_open_times_out_when_host_accepts_and_is_silent() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ssh.TimedOut):
            read_host_key("127.0.0.1", port, 0.4)


def test_open_times_out_when_host_stops_during_the_handshake(host: SshHost) -> None:
    with host.paused(), pytest.raises(ssh.TimedOut):
        Connection.open(host.endpoint(), 0.5)


def test_open_is_unreachable_when_nothing_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ssh.Unreachable) as caught:
        read_host_key("127.0.0.1", port, 5)
    assert caught.value.code == "refused"
    assert str(port) in str(caught.value)


@contextmanager
def speaker(words: bytes) -> Iterator[int]:
    """A server that says the same to everybody and ends the connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    client, _address = server.accept()
                    with client, suppress(ConnectionError):
                        client.sendall(words)
                        client.shutdown(socket.SHUT_WR)
                        while client.recv(1000):
                            pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(10)


@pytest.mark.parametrize(
    ("words", "code", "detail"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" * 120, "not_ssh", "HTTP/1.1 400 Bad Request"),
        (b"220 mail.example.com ESMTP\r\n", "not_ssh", "220 mail.example.com ESMTP"),
        (b"Not allowed at this time\r\n", "turned_away", "Not allowed at this time"),
        (b"Exceeded MaxStartups\r\n", "turned_away", "Exceeded MaxStartups"),
        (b"", "closed", ""),
        (b"SSH-1.5-Cisco-1.25\r\n", "no_common_version", "1.5"),
        (b"SSH-2.0-Odd\r\n", "greeting", ""),
    ],
)
def test_open_tells_what_the_host_said_when_no_ssh_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, words: bytes, code: str, detail: str
) -> None:
    monkeypatch.setattr(transport, "TURNED_AWAY_PAUSES", (0.01, 0.01))
    with speaker(words) as port:
        for ask in (
            lambda: read_host_key("127.0.0.1", port, 10),
            lambda: Connection.open(ssh.Endpoint("127.0.0.1", port, "root", ED25519, password="x"), 10),
        ):
            with pytest.raises(ssh.Unreachable) as caught:
                ask()
            assert caught.value.code == code
            assert detail in caught.value.detail
            assert "%(" not in str(caught.value)


def test_open_comes_again_when_the_server_takes_no_connection_for_a_moment(host: SshHost) -> None:
    """As a server with MaxStartups 1, while another of the panel's processes is signing in."""
    turned_away = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def relay() -> None:
            client, _address = server.accept()
            client.sendall(b"Exceeded MaxStartups\r\n")
            client.close()
            turned_away.set()
            client, _address = server.accept()
            inner = socket.create_connection(("127.0.0.1", host.port))
            pumps = [threading.Thread(target=pump, args=pair) for pair in ((client, inner), (inner, client))]
            for thread in pumps:
                thread.start()
            for thread in pumps:
                thread.join(20)

        def pump(source: socket.socket, target: socket.socket) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    target.sendall(data)
                target.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=relay)
        thread.start()
        connection = Connection.open(host.endpoint(port=server.getsockname()[1]), 20)
        assert turned_away.is_set()
        assert connection.run("echo there").stdout == b"there\n"
        connection.close()
        host.drop_connections()
        thread.join(20)


@pytest.mark.parametrize(
    ("offered", "code", "name"),
    [
        ({"kex_algs": ["diffie-hellman-group1-sha1"]}, "no_common_kex", "diffie-hellman-group1-sha1"),
        (
            {"encryption_algs": ["chacha20-poly1305@openssh.com"]},
            "no_common_cipher",
            "chacha20-poly1305@openssh.com",
        ),
        (
            {"mac_algs": ["umac-64@openssh.com"], "encryption_algs": ["aes128-ctr"]},
            "no_common_mac",
            "umac-64@openssh.com",
        ),
    ],
)
def test_open_names_what_the_host_offers_when_nothing_is_in_common(
    offered: dict[str, list[str]], code: str, name: str
) -> None:
    with ssh_host(**offered) as host:
        for ask in (
            lambda: read_host_key("127.0.0.1", host.port, 5),
            lambda: Connection.open(host.endpoint(), 5),
        ):
            with pytest.raises(ssh.Unreachable) as caught:
                ask()
            assert caught.value.code == code
            assert name in caught.value.detail


def test_method_is_named_when_the_server_does_not_take_it(host: SshHost) -> None:
    host.takes_passwords = False
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(host.endpoint(private_key="", password=host.password), 5)
    assert caught.value.code == "password_not_taken"
    assert "publickey" in str(caught.value)


def test_run_gives_status_and_both_outputs_when_command_ends(connection: Connection) -> None:
    result = connection.run('cat; echo "it\'s" >&2; exit 7', b"in\0put")
    assert (result.status, result.stdout, result.stderr) == (7, b"in\0put", b"it's\n")


def test_run_takes_a_megabyte_each_way_when_command_echoes(connection: Connection) -> None:
    data = b"0123456789abcdef" * 65536
    assert connection.run("cat", data, 10).stdout == data


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


def test_pool_keeps_one_connection_when_many_threads_ask(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda _number: pool.get(host.endpoint()), range(16)))
    assert len(set(map(id, got))) == 1
    assert len(host.connections) == 1
    pool.close()
    assert not got[0].is_alive


def test_pool_connects_anew_when_connection_was_dropped(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    first = pool.get(host.endpoint())
    first.close()
    second = pool.get(host.endpoint())
    pool.drop(host.endpoint())
    assert not second.is_alive
    third = pool.get(host.endpoint())
    assert third.run("echo there").stdout == b"there\n"
    assert len({id(first), id(second), id(third)}) == 3
    pool.close()


def test_pool_connects_anew_when_credentials_changed(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    by_key = pool.get(host.endpoint())
    by_password = pool.get(host.endpoint(private_key="", password=host.password))
    assert by_password.is_alive
    assert not by_key.is_alive
    pool.close()


def test_pool_asks_for_a_sign_of_life_when_connection_was_idle(host: SshHost) -> None:
    pool = ConnectionPool(timeout=5)
    first = pool.get(host.endpoint())
    first.used_at -= pool.IDLE_SECONDS
    assert pool.get(host.endpoint()) is first
    assert time.monotonic() - first.used_at < pool.IDLE_SECONDS
    with host.paused():
        assert not first.ping(0.3)
    assert not first.is_alive
    assert pool.get(host.endpoint()) is not first
    pool.close()


def test_pool_limits_the_starts_when_many_hosts_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    starting, most, lock = 0, 0, threading.Lock()
    really_open = Connection.open

    def counting_open(endpoint: ssh.Endpoint, timeout: float) -> Connection:
        nonlocal starting, most
        with lock:
            starting += 1
            most = max(most, starting)
        time.sleep(0.05)
        try:
            return really_open(endpoint, timeout)
        finally:
            with lock:
                starting -= 1

    monkeypatch.setattr(Connection, "open", counting_open)
    pool = ConnectionPool(starts=2, timeout=5)
    with ssh_host() as host, ThreadPoolExecutor(6) as threads:
        users = [host.endpoint(user=f"user{number}") for number in range(6)]
        assert all(connection.is_alive for connection in threads.map(pool.get, users))
        pool.close()
    assert most == 2
