"""Signing in at real OpenSSH servers that ask questions, count tries and have PAM refuse accounts."""

from pathlib import Path

import asyncssh
import pytest

from fleet import ssh
from fleet.ssh import Connection
from tests.lab.sshd import PASSWORD, StartSshd

pytestmark = pytest.mark.lab
PAM = "UsePAM yes\n"
ASKS = f"{PAM}KbdInteractiveAuthentication yes\nPasswordAuthentication no\n"
EXPIRED_DAY = "10000"


def refusal(server_endpoint: ssh.Endpoint) -> ssh.RemoteError:
    with pytest.raises(ssh.RemoteError) as caught:
        Connection.open(server_endpoint, 30).close()
    assert PASSWORD not in repr(caught.value.__dict__)
    return caught.value


@pytest.mark.parametrize("config", [ASKS, PAM])
def test_password_signs_in_when_pam_asks(start: StartSshd, config: str) -> None:
    server = start(config)
    with Connection.open(server.endpoint(key=False, password=PASSWORD), 30) as connection:
        assert connection.run("echo there").stdout == b"there\n"
    assert refusal(server.endpoint(key=False, password="wrong")).code == "authentication_failed"


def test_expired_password_is_told_when_pam_asks(start: StartSshd) -> None:
    error = refusal(start(ASKS, changed="0").endpoint(key=False, password=PASSWORD))
    assert error.code == "password_expired"
    assert "required to change your password" in error.detail


@pytest.mark.parametrize("key", [True, False])
def test_expired_password_is_told_when_pam_signs_in_and_runs_nothing(start: StartSshd, key: bool) -> None:
    server = start(PAM, changed="0")
    endpoint = server.endpoint(key=key, password="" if key else PASSWORD)
    with Connection.open(endpoint, 30) as connection, pytest.raises(ssh.CommandFailed) as caught:
        connection.run("true")
    assert caught.value.code == "password_expired"
    assert "Your password has expired" in caught.value.detail


@pytest.mark.parametrize("config", [ASKS, PAM])
@pytest.mark.parametrize("key", [True, False])
def test_expired_account_is_told_when_pam_refuses_it(start: StartSshd, config: str, key: bool) -> None:
    server = start(config, expires=EXPIRED_DAY)
    error = refusal(server.endpoint(key=key, password="" if key else PASSWORD))
    assert error.code == "account_expired"
    assert "Your account has expired" in error.detail


def test_expiry_is_no_diagnosis_when_the_banner_speaks_of_it(start: StartSshd, tmp_path: Path) -> None:
    (tmp_path / "banner").write_text("Your account has expired.\nYour password has expired.\n")
    server = start(f"{ASKS}Banner {tmp_path}/banner\n")
    assert refusal(server.endpoint(key=False, password="wrong")).code == "authentication_failed"


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_both_are_given_when_the_server_wants_both(start: StartSshd, method: str) -> None:
    config = PAM if method == "password" else ASKS
    server = start(f"{config}AuthenticationMethods publickey,{method}\n")
    Connection.open(server.endpoint(password=PASSWORD), 30).close()
    assert refusal(server.endpoint()).code == "key_and_password"
    assert refusal(server.endpoint(key=False, password=PASSWORD)).code == "password_not_taken"
    assert refusal(server.endpoint(password="wrong")).code == "password_refused"


@pytest.mark.parametrize("config", ["", ASKS])
def test_one_try_is_enough_when_the_server_allows_one(start: StartSshd, config: str) -> None:
    server = start(f"{config}MaxAuthTries 1\n")
    other = stranger()
    error = refusal(server.endpoint(key=False, password="wrong"))
    assert error.code == "authentication_failed"
    assert "Too many authentication failures" in error.detail
    with_other_key = ssh.Endpoint("127.0.0.1", server.port, "root", server.host_key, other, PASSWORD)
    Connection.open(with_other_key, 30).close()
    both_wrong = ssh.Endpoint("127.0.0.1", server.port, "root", server.host_key, other, "wrong")
    assert refusal(both_wrong).code == "authentication_failed"


@pytest.mark.parametrize("method", ["password", "keyboard-interactive"])
def test_wrong_password_is_told_when_the_server_wants_both_and_allows_one_try(
    start: StartSshd, method: str
) -> None:
    config = PAM if method == "password" else ASKS
    server = start(f"{config}MaxAuthTries 1\nAuthenticationMethods publickey,{method}\n")
    Connection.open(server.endpoint(password=PASSWORD), 30).close()
    assert refusal(server.endpoint(password="wrong")).code == "password_refused"


def stranger() -> str:
    """A key that may sign in nowhere."""
    return asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
