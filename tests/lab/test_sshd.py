"""The SSH client against real OpenSSH servers that refuse in every way, each with login shells and passwords of its own."""

import socket
from pathlib import Path

import pytest

from fleet import ssh
from fleet.engine import open_engine
from fleet.engine_errors import EngineError
from fleet.facts import read_facts
from fleet.ssh import Connection, read_host_key, transport
from tests.lab.sshd import PASSWORD, StartSshd

pytestmark = pytest.mark.lab
NOISE = "echo 'Welcome!'; echo 'a warning' >&2; printf 'no newline'\n"


SHELL_FILES = {
    "/bin/bash": ".bashrc",
    "/usr/bin/fish": ".config/fish/config.fish",
    "/bin/bsd-csh": ".cshrc",
    "/bin/tcsh": ".cshrc",
    "/usr/bin/zsh": ".zshenv",
}


@pytest.mark.parametrize("shell", list(SHELL_FILES))
def test_commands_work_when_the_login_shell_prints(start: StartSshd, tmp_path: Path, shell: str) -> None:
    noise = tmp_path / SHELL_FILES[shell]
    noise.parent.mkdir(parents=True, exist_ok=True)
    noise.write_text("echo 'Welcome!'\n" if "csh" in shell else NOISE)
    with Connection.open(start(login_shell=shell).endpoint()) as connection:
        result = connection.run('read -r line || line=given; echo "it\'s $line!"; echo wrong >&2; exit 7')
        assert (result.status, result.stdout, result.stderr) == (7, b"it's given!\n", b"wrong\n")
        assert read_facts(connection, "/nowhere.sock").cores
        with pytest.raises(EngineError) as caught:
            open_engine(connection, str(tmp_path / "no.sock"))
        assert caught.value.code == "no_docker"
        stream = connection.open_session_command("cat")
        stream.sendall(b"\0\1")
        assert stream.recv(10) == b"\0\1"
        stream.close()


def test_hosts_words_are_told_when_the_login_shell_is_nologin(start: StartSshd) -> None:
    server = start("DisableForwarding yes", login_shell="/usr/sbin/nologin")
    with Connection.open(server.endpoint()) as connection, pytest.raises(ssh.CommandFailed) as caught:
        open_engine(connection)
    assert caught.value.code == "no_login_shell"
    assert caught.value.detail == "This account is currently not available. (status 1)"


def test_hosts_words_are_told_when_the_password_has_expired(start: StartSshd) -> None:
    server = start(changed="0")
    endpoint = server.endpoint(key=False, password=PASSWORD)
    with Connection.open(endpoint) as connection, pytest.raises(ssh.CommandFailed) as caught:
        open_engine(connection)
    assert caught.value.code == "password_expired"
    assert "password" in caught.value.detail.lower()


def test_hosts_words_are_told_when_a_command_is_forced(start: StartSshd) -> None:
    server = start("ForceCommand echo 'Please login as the user admin'; exit 142\nDisableForwarding yes")
    with Connection.open(server.endpoint()) as connection, pytest.raises(ssh.CommandFailed) as caught:
        open_engine(connection)
    assert caught.value.code == "no_commands"
    assert caught.value.detail == "Please login as the user admin (status 142)"


@pytest.mark.parametrize("methods", ["publickey,password", "password,publickey"])
def test_sign_in_needs_both_when_the_server_wants_both(start: StartSshd, methods: str) -> None:
    server = start(f"AuthenticationMethods {methods}")
    Connection.open(server.endpoint(password=PASSWORD)).close()
    first = methods.startswith("publickey")
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(server.endpoint(key=first, password="" if first else PASSWORD))
    assert caught.value.code == "key_and_password"
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(server.endpoint(password="wrong"))
    assert caught.value.code == ("password_refused" if first else "authentication_failed")


def test_method_is_named_when_the_server_takes_keys_only(start: StartSshd) -> None:
    server = start("PasswordAuthentication no")
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(server.endpoint(key=False, password=PASSWORD))
    assert (caught.value.code, caught.value.values) == ("password_not_taken", {"methods": "publickey"})


@pytest.mark.parametrize(
    ("config", "code", "offered"),
    [
        ("KexAlgorithms sntrup761x25519-sha512@openssh.com", "no_common_kex", "sntrup761x25519-sha512"),
        ("Ciphers chacha20-poly1305@openssh.com", "no_common_cipher", "chacha20-poly1305@openssh.com"),
        ("Ciphers aes128-ctr\nMACs umac-64@openssh.com", "no_common_mac", "umac-64@openssh.com"),
    ],
)
def test_what_the_server_offers_is_told_when_nothing_is_in_common(
    start: StartSshd, config: str, code: str, offered: str
) -> None:
    server = start(config)
    for ask in (
        lambda: read_host_key("127.0.0.1", server.port),
        lambda: Connection.open(server.endpoint()),
    ):
        with pytest.raises(ssh.Unreachable) as caught:
            ask()
        assert caught.value.code == code
        assert offered in caught.value.detail


def test_host_key_takes_no_place_when_the_server_lets_one_at_a_time_in(
    start: StartSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start("MaxStartups 1")
    turned_away = 0
    for _ in range(8):
        assert read_host_key("127.0.0.1", server.port).line == server.host_key
        with monkeypatch.context() as at_once:
            at_once.setattr(transport, "TURNED_AWAY_PAUSES", ())
            try:
                Connection.open(server.endpoint()).close()
            except ssh.Unreachable as error:
                turned_away += error.code == "turned_away"
    print(f"turned away after reading the host key: {turned_away} of 8")
    # Mostly none; a busy machine may have its sshd count a moment late. Without the wait it is eight.
    assert turned_away < 4


def test_servers_line_is_told_when_it_lets_nobody_else_in(
    start: StartSshd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "TURNED_AWAY_PAUSES", ())
    server = start("MaxStartups 1")
    with socket.create_connection(("127.0.0.1", server.port)) as first:
        assert first.recv(4) == b"SSH-"
        with pytest.raises(ssh.Unreachable) as caught:
            read_host_key("127.0.0.1", server.port)
    assert caught.value.code == "turned_away"
    assert caught.value.detail in {"Exceeded MaxStartups", "Not allowed at this time"}
