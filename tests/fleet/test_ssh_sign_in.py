"""Signing in at SSH servers on loopback, by key and password."""

import logging
from collections.abc import Callable
from typing import Any

import asyncssh
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fleet import ssh
from fleet.ssh import Connection
from tests.fleet.ssh_host import SshHost

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


def test_method_is_named_when_the_server_does_not_take_it(host: SshHost) -> None:
    host.takes_passwords = False
    with pytest.raises(ssh.AuthenticationFailed) as caught:
        Connection.open(host.endpoint(private_key="", password=host.password), 5)
    assert caught.value.code == "password_not_taken"
    assert "publickey" in str(caught.value)
