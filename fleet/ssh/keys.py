"""Host keys, from and to text."""

import base64
import binascii
import hashlib
from dataclasses import dataclass


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
