"""Connecting to an SSH server on loopback, its host key, and hosts that are no SSH servers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import asyncssh
import pytest

from fleet import ssh
from fleet.ssh import Connection, HostKey, read_host_key, transport
from tests.fleet.ssh_host import SshHost, ssh_host

ED25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8g"


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
