"""DERP's frames: what stands on the wire after TLS and the HTTP upgrade (Tailscale's derp/derp.go).

A frame is one byte of type, four bytes of big-endian length and a payload. This file only packs and unpacks; the limits
here are what keeps a hostile far side from making us wait for, or store, more than one packet.
"""

import ipaddress
import struct
from dataclasses import dataclass
from enum import IntEnum

from containers.derp.keys import KEY_BYTES, NONCE_BYTES

MAGIC = b"DERP\xf0\x9f\x94\x91"
PROTOCOL_VERSION = 2
HEADER_BYTES = 5
MAX_PACKET_BYTES = 64 * 1024
PING_BYTES = 8

_HEADER = struct.Struct(">BI")
_PRESENT = struct.Struct(">32s16sHB")
# The largest frame either side sends: a packet and one key. derper itself tolerates more (1 MiB), but never writes it.
_MAX_PAYLOAD_BYTES = MAX_PACKET_BYTES + KEY_BYTES
_BOX_OVERHEAD_BYTES = NONCE_BYTES + 16


class ProtocolError(Exception):
    """The far side does not speak DERP as we know it. The text says what was wrong, in English, for logs and details."""


class FrameType(IntEnum):
    """The frames we send, understand or answer."""

    SERVER_KEY = 0x01
    CLIENT_INFO = 0x02
    SERVER_INFO = 0x03
    SEND_PACKET = 0x04
    RECV_PACKET = 0x05
    KEEP_ALIVE = 0x06
    NOTE_PREFERRED = 0x07
    PEER_GONE = 0x08
    PEER_PRESENT = 0x09
    WATCH_CONNECTIONS = 0x10
    CLOSE_PEER = 0x11
    PING = 0x12
    PONG = 0x13
    HEALTH = 0x14


class GoneReason(IntEnum):
    """Why a relay has no way to a peer."""

    DISCONNECTED = 0x00
    NOT_HERE = 0x01


# Smallest and largest payload of each type. Upper bounds above what is written today leave room for fields to come,
# as derp.go reserves it ("0+ bytes future use").
_BOUNDS: dict[int, tuple[int, int]] = {
    FrameType.SERVER_KEY: (len(MAGIC) + KEY_BYTES, 1024),
    FrameType.CLIENT_INFO: (KEY_BYTES + _BOX_OVERHEAD_BYTES, 16 * 1024),
    FrameType.SERVER_INFO: (_BOX_OVERHEAD_BYTES, 16 * 1024),
    FrameType.SEND_PACKET: (KEY_BYTES, _MAX_PAYLOAD_BYTES),
    FrameType.RECV_PACKET: (KEY_BYTES, _MAX_PAYLOAD_BYTES),
    FrameType.KEEP_ALIVE: (0, 1024),
    FrameType.NOTE_PREFERRED: (1, 1),
    FrameType.PEER_GONE: (KEY_BYTES, 1024),
    FrameType.PEER_PRESENT: (KEY_BYTES, 1024),
    FrameType.WATCH_CONNECTIONS: (0, 0),
    FrameType.CLOSE_PEER: (KEY_BYTES, KEY_BYTES),
    FrameType.PING: (PING_BYTES, 1000),
    FrameType.PONG: (PING_BYTES, 1000),
    FrameType.HEALTH: (0, 4096),
}


@dataclass(frozen=True)
class Packet:
    """A packet that the relay carried to us; `source` is the sender's public key."""

    source: str
    data: bytes


@dataclass(frozen=True)
class PeerPresent:
    """A client is connected to the relay. `address` is "" and `port` 0 when an old relay does not say.

    `flags`: 1 regular client, 2 mesh peer, 4 prober, 8 not at its ideal node.
    """

    key: str
    address: str
    port: int
    flags: int


@dataclass(frozen=True)
class PeerGone:
    """A client is not, or no longer, connected. `reason` is a GoneReason, or a number of a newer relay's."""

    key: str
    reason: int


def encode(frame_type: int, *parts: bytes) -> bytes:
    """Return one frame of this type whose payload is the parts in order."""
    return b"".join((_HEADER.pack(frame_type, sum(map(len, parts))), *parts))


def decode_header(header: bytes) -> tuple[int, int]:
    """Return type and payload length of a five byte header.

    Raises ProtocolError when that type cannot have that length; unknown types may have up to one packet's length, since
    they have to be read over.
    """
    frame_type, length = _HEADER.unpack(header)
    low, high = _BOUNDS.get(frame_type, (0, _MAX_PAYLOAD_BYTES))
    if not low <= length <= high:
        raise ProtocolError(
            f"frame of type 0x{frame_type:02x} with a length of {length} bytes, not {low} to {high}"
        )
    return frame_type, length


def decode_server_key(payload: bytes) -> str:
    """Return the relay's public key from a ServerKey frame; raises ProtocolError when the magic is not there."""
    if not payload.startswith(MAGIC):
        raise ProtocolError("server key frame without the DERP magic")
    return payload[len(MAGIC) : len(MAGIC) + KEY_BYTES].hex()


def decode_packet(payload: bytes) -> Packet:
    """Read a RecvPacket frame."""
    return Packet(source=payload[:KEY_BYTES].hex(), data=payload[KEY_BYTES:])


def decode_gone(payload: bytes) -> PeerGone:
    """Read a PeerGone frame; without the reason byte, as from old relays, the reason is a disconnection."""
    reason = payload[KEY_BYTES] if len(payload) > KEY_BYTES else GoneReason.DISCONNECTED
    return PeerGone(key=payload[:KEY_BYTES].hex(), reason=reason)


def encode_gone(key: str, reason: GoneReason) -> bytes:
    """Return a PeerGone frame."""
    return encode(FrameType.PEER_GONE, bytes.fromhex(key), bytes([reason]))


def decode_present(payload: bytes) -> PeerPresent:
    """Read a PeerPresent frame; old relays leave out flags, or flags and address."""
    if len(payload) < KEY_BYTES + 18:
        return PeerPresent(key=payload[:KEY_BYTES].hex(), address="", port=0, flags=0)
    key, raw_address, port, flags = _PRESENT.unpack(payload[: _PRESENT.size].ljust(_PRESENT.size, b"\0"))
    address = ipaddress.IPv6Address(raw_address)
    return PeerPresent(key=key.hex(), address=str(address.ipv4_mapped or address), port=port, flags=flags)


def encode_present(peer: PeerPresent) -> bytes:
    """Return a PeerPresent frame; IPv4 addresses are written as IPv4-mapped IPv6 ones, as derper does."""
    address = ipaddress.ip_address(peer.address)
    mapped = (
        address if address.version == 6 else ipaddress.IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    )
    return encode(
        FrameType.PEER_PRESENT, _PRESENT.pack(bytes.fromhex(peer.key), mapped.packed, peer.port, peer.flags)
    )
