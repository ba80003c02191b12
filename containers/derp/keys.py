"""DERP keys as text, and the NaCl boxes made with them.

Every key here is Curve25519 and travels through the project as 64 lowercase hexadecimal characters. Tailscale writes the
same keys with a prefix that names their kind (types/key/node.go): `privkey:` in derper's configuration file, `nodekey:` in
policies and admission questions.
"""

import re
import secrets

from nacl.exceptions import CryptoError
from nacl.public import Box, PrivateKey, PublicKey

KEY_BYTES = 32
NONCE_BYTES = Box.NONCE_SIZE

_PRIVATE_PREFIX = "privkey:"
_NODE_PREFIX = "nodekey:"
_HEX_KEY = re.compile(r"[0-9a-fA-F]{64}")


def generate_private_key() -> str:
    """Return a new private key, clamped as Tailscale clamps its own (types/key/util.go)."""
    key = bytearray(secrets.token_bytes(KEY_BYTES))
    key[0] &= 0b1111_1000
    key[31] = (key[31] & 0b0111_1111) | 0b0100_0000
    return key.hex()


def generate_mesh_key() -> str:
    """Return a new mesh key: the 64 lowercase hexadecimal characters that `-mesh-psk-file` holds."""
    return secrets.token_hex(KEY_BYTES)


def public_key_of(private_key: str) -> str:
    """Return the public key that belongs to a private one."""
    return bytes(PrivateKey(bytes.fromhex(private_key)).public_key).hex()


def parse_private_key(text: str) -> str:
    """Read `privkey:<hex>` or bare hexadecimal; raises ValueError, whose text never holds the key."""
    return _parse(text, _PRIVATE_PREFIX)


def parse_node_key(text: str) -> str:
    """Read `nodekey:<hex>` or bare hexadecimal; raises ValueError."""
    return _parse(text, _NODE_PREFIX)


def format_private_key(key: str) -> str:
    """Return a private key as derper's configuration file wants it: `privkey:<hex>`."""
    return _PRIVATE_PREFIX + parse_private_key(key)


def format_node_key(key: str) -> str:
    """Return a public key as admission questions name it: `nodekey:<hex>`."""
    return _NODE_PREFIX + parse_node_key(key)


def seal(message: bytes, *, private_key: str, public_key: str) -> bytes:
    """Box a message for the owner of `public_key`: 24 bytes nonce, then the NaCl box.

    Raises ValueError when `public_key` is not a usable point, such as all zeros.
    """
    try:
        return bytes(_box(private_key, public_key).encrypt(message))
    except CryptoError as error:
        raise ValueError("not a usable public key") from error


def open_box(sealed: bytes, *, private_key: str, public_key: str) -> bytes:
    """Open what `seal` of the owner of `public_key` made; raises ValueError when it does not open."""
    try:
        return _box(private_key, public_key).decrypt(sealed)
    except (CryptoError, ValueError) as error:
        raise ValueError("the box does not open") from error


def _box(private_key: str, public_key: str) -> Box:
    return Box(PrivateKey(bytes.fromhex(private_key)), PublicKey(bytes.fromhex(public_key)))


def _parse(text: str, prefix: str) -> str:
    key = text.strip().removeprefix(prefix)
    if not _HEX_KEY.fullmatch(key):
        raise ValueError(f"not a key: expected {prefix} and 64 hexadecimal characters")
    return key.lower()
