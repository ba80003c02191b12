"""Host keys and private keys, from and to text."""

import base64
import binascii
import hashlib
import io
from dataclasses import dataclass

import paramiko
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fleet.ssh.errors import AuthenticationFailed


@dataclass(frozen=True)
class HostKey:
    """A host's public key as in known_hosts, without the host."""

    type: str
    base64: str

    @classmethod
    def from_line(cls, line: str) -> "HostKey":
        """The key of a line `type base64 [comment]`. Raises ValueError when it is none."""
        words = line.split()
        if len(words) < 2:
            raise ValueError("not a public key line")
        try:
            blob = base64.b64decode(words[1], validate=True)
        except binascii.Error:
            raise ValueError("not a public key line") from None
        # RFC 4253 section 6.6: the blob begins with its own type as a length-prefixed string.
        if blob[4 : 4 + int.from_bytes(blob[:4])] != words[0].encode():
            raise ValueError("not a public key line")
        return cls(words[0], words[1])

    @property
    def line(self) -> str:
        """`type base64`, the form in which it is stored."""
        return f"{self.type} {self.base64}"

    @property
    def fingerprint(self) -> str:
        """`SHA256:…` as ssh-keygen prints it."""
        digest = hashlib.sha256(base64.b64decode(self.base64)).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The signature algorithms that make a server present this key (RFC 8332 for RSA)."""
        return ("rsa-sha2-512", "rsa-sha2-256") if self.type == "ssh-rsa" else (self.type,)


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
