"""Private keys, from text."""

import io

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fleet.ssh.errors import AuthenticationFailed


def load_private_key(text: str) -> paramiko.PKey:
    """The private key in a text. Raises AuthenticationFailed (bad_key) without repeating a letter of it."""
    data = text.strip().encode() + b"\n"
    load = (
        serialization.load_ssh_private_key
        if b"OPENSSH PRIVATE KEY" in data
        else serialization.load_pem_private_key
    )
    try:
        loaded = load(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        loaded = None  # the reason is not passed on: it may repeat a piece of the key
    kinds: list[tuple[type, type[paramiko.PKey]]] = [
        (ed25519.Ed25519PrivateKey, paramiko.Ed25519Key),
        (rsa.RSAPrivateKey, paramiko.RSAKey),
        (ec.EllipticCurvePrivateKey, paramiko.ECDSAKey),
    ]
    for kind, key_class in kinds:
        if loaded is not None and isinstance(loaded, kind):
            plain = loaded.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
            return key_class.from_private_key(io.StringIO(plain.decode()))
    raise AuthenticationFailed(code="bad_key")
