"""STUN binding requests and answers, as far as DERP relays use them (RFC 5389; Tailscale's net/stun/stun.go).

derper answers only requests that carry SOFTWARE = "tailnode" and end in a FINGERPRINT, so that it cannot be used by others.
"""

import ipaddress
import secrets
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

from containers.derp.frames import ProtocolError

TRANSACTION_BYTES = 12

_BINDING_REQUEST = 0x0001
_BINDING_SUCCESS = 0x0101
_COOKIE = 0x2112A442
_SOFTWARE = 0x8022
_FINGERPRINT = 0x8028
_XOR_MAPPED_ADDRESS = 0x0020
_SOFTWARE_NAME = b"tailnode"
_HEADER = struct.Struct(">HHI12s")
_ATTRIBUTE = struct.Struct(">HH")
_FINGERPRINT_BYTES = 8
# How long each try listens before the request is sent again; the last one listens as long as the caller lets it.
_TRY_SECONDS = (0.5, 1.0, float("inf"))


@dataclass(frozen=True)
class StunAnswer:
    """What a relay's STUN service sees of us: our address and port from its side, and the time it took.

    `asked_from` is the address of our own socket: `address` is another where something on the way translates.
    """

    address: str
    port: int
    milliseconds: float
    asked_from: str


def query(host: str, port: int, *, timeout: float) -> StunAnswer:
    """Ask a STUN server who we are, sending up to three requests within `timeout` seconds.

    `host` is an IP address. Raises TimeoutError when nobody answers, ConnectionRefusedError when the host says that nobody
    listens there, ProtocolError when what answers is not the answer to our question, OSError when the network has no way.
    """
    with _connect(host, port) as connection:
        return _ask(connection, timeout)


@dataclass(frozen=True)
class Quality:
    """How well packets get there and back: the share of 1 that was lost, and how much the times of those that were not differ from
    one to the next, in milliseconds on average; None with fewer than two answers."""

    loss: float
    jitter_ms: float | None


def measure(
    host: str,
    port: int,
    *,
    packets: int = 8,
    pause: float = 0.03,
    patience: float = 0.6,
    timeout: float = 2.0,
) -> Quality:
    """Ask a STUN server `packets` times from one port, `pause` seconds apart; what has not come back `patience` seconds after the last,
    or `timeout` after the first, is lost. `host` is an IP address. Raises OSError when the network has no way."""
    with _connect(host, port) as connection:
        sent: dict[bytes, float] = {}
        times: dict[bytes, float] = {}
        begun = time.perf_counter()
        next_at, end = begun, begun + timeout
        while len(times) < packets and (now := time.perf_counter()) < end:
            if len(sent) < packets and now >= next_at:
                transaction = secrets.token_bytes(TRANSACTION_BYTES)
                sent[transaction] = now
                with suppress(ConnectionRefusedError):  # the word about one before
                    connection.send(encode_request(transaction))
                next_at += pause
                if len(sent) == packets:
                    end = min(end, now + patience)
            until = next_at if len(sent) < packets else end
            connection.settimeout(max(until - time.perf_counter(), 0.001))
            with suppress(TimeoutError, ConnectionRefusedError, ProtocolError):
                datagram = connection.recv(2048)
                answered = datagram[8 : 8 + TRANSACTION_BYTES]
                if answered in sent and answered not in times:
                    decode_answer(datagram, answered)
                    times[answered] = (time.perf_counter() - sent[answered]) * 1000
        return Quality(1 - len(times) / packets, jitter_of([times[each] for each in sent if each in times]))


def jitter_of(times: Sequence[float]) -> float | None:
    """By how much each of these times differs from the one before it, on average; None where there are no two."""
    if len(times) < 2:
        return None
    return sum(abs(later - earlier) for earlier, later in pairwise(times)) / (len(times) - 1)


class KeptPort:
    """A UDP port of ours that goes on asking one STUN service, as a client does that keeps its port while a relay is remade.

    Where the host's connection tracking goes on leading such a client nowhere once the relay is back, only this port notices:
    any other is answered. Entered, it asks every `INTERVAL` seconds; `query` ends that and asks for an answer.
    """

    INTERVAL = 0.25

    def __init__(self, host: str, port: int) -> None:
        self._connection = _connect(host, port)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "KeptPort":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._settle()
        self._connection.close()

    def query(self, *, timeout: float) -> StunAnswer:
        """Ask from the kept port; raises what the function `query` does."""
        self._settle()
        return _ask(self._connection, timeout)

    def _settle(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.INTERVAL):
            # Refused, or on no way at all, while nobody is there: that is what is waited out.
            with suppress(OSError):
                self._connection.send(encode_request(secrets.token_bytes(TRANSACTION_BYTES)))


def _connect(host: str, port: int) -> socket.socket:
    """A socket that takes datagrams from this peer only, and learns of "port unreachable"."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_DGRAM)
    try:
        connection.connect((host, port))
    except OSError:
        connection.close()
        raise
    return connection


def _ask(connection: socket.socket, timeout: float) -> StunAnswer:
    deadline = time.monotonic() + timeout
    own = str(connection.getsockname()[0])
    failure: Exception = TimeoutError("no answer")
    sent: dict[bytes, float] = {}
    for wait in _TRY_SECONDS:
        try_until = min(time.monotonic() + wait, deadline)
        transaction = secrets.token_bytes(TRANSACTION_BYTES)
        sent[transaction] = time.perf_counter()
        try:
            connection.send(encode_request(transaction))
            while (left := try_until - time.monotonic()) > 0:
                connection.settimeout(left)
                datagram = connection.recv(2048)
                try:
                    return _read_answer(datagram, sent, own)
                except ProtocolError as error:
                    failure = error
        except TimeoutError:
            continue
        except ConnectionRefusedError as error:
            failure = error
            if wait != _TRY_SECONDS[-1]:
                time.sleep(max(0.0, try_until - time.monotonic()))
    raise failure


def _read_answer(datagram: bytes, sent: dict[bytes, float], own: str) -> StunAnswer:
    """Read the answer to any of our requests: a slow network answers the first one while we wait for the second."""
    received = time.perf_counter()
    transaction = datagram[8 : 8 + TRANSACTION_BYTES]
    if transaction not in sent:
        raise ProtocolError("the answer belongs to another request")
    address, port = decode_answer(datagram, transaction)
    return StunAnswer(address, port, (received - sent[transaction]) * 1000, own)


def encode_request(transaction: bytes) -> bytes:
    """Return a binding request with SOFTWARE and FINGERPRINT."""
    software = _ATTRIBUTE.pack(_SOFTWARE, len(_SOFTWARE_NAME)) + _SOFTWARE_NAME
    unsigned = (
        _HEADER.pack(_BINDING_REQUEST, len(software) + _FINGERPRINT_BYTES, _COOKIE, transaction) + software
    )
    return unsigned + _ATTRIBUTE.pack(_FINGERPRINT, 4) + _fingerprint(unsigned)


def decode_request(datagram: bytes) -> bytes:
    """Return the transaction id of a well-formed request of a Tailscale client; raises ProtocolError for all else."""
    kind, transaction, attributes = _split(datagram)
    if kind != _BINDING_REQUEST:
        raise ProtocolError("not a binding request")
    if (_SOFTWARE, _SOFTWARE_NAME) not in attributes:
        raise ProtocolError("not a request of Tailscale software")
    if attributes[-1] != (_FINGERPRINT, _fingerprint(datagram[:-_FINGERPRINT_BYTES])):
        raise ProtocolError("no valid fingerprint at the end")
    return transaction


def encode_answer(transaction: bytes, address: str, port: int) -> bytes:
    """Return the success answer that tells a client its address as XOR-MAPPED-ADDRESS (RFC 5389, section 15.2)."""
    ip = ipaddress.ip_address(address)
    value = struct.pack(">BBH", 0, 1 if ip.version == 4 else 2, port ^ (_COOKIE >> 16)) + _xor(
        ip.packed, transaction
    )
    attribute = _ATTRIBUTE.pack(_XOR_MAPPED_ADDRESS, len(value)) + value
    return _HEADER.pack(_BINDING_SUCCESS, len(attribute), _COOKIE, transaction) + attribute


def decode_answer(datagram: bytes, transaction: bytes) -> tuple[str, int]:
    """Return address and port of the answer to the request `transaction`; raises ProtocolError for all else.

    derper listens on a dual-stack socket and tells an IPv4 client `::ffff:a.b.c.d`: that is IPv4 again here.
    """
    kind, answered, attributes = _split(datagram)
    if kind != _BINDING_SUCCESS:
        raise ProtocolError("not a binding success answer")
    if answered != transaction:
        raise ProtocolError("the answer belongs to another request")
    for attribute, value in attributes:
        if attribute != _XOR_MAPPED_ADDRESS:
            continue
        if (len(value), value[1:2]) in ((8, b"\x01"), (20, b"\x02")):
            port = struct.unpack(">H", value[2:4])[0] ^ (_COOKIE >> 16)
            told = ipaddress.ip_address(_xor(value[4:], transaction))
            mapped = told.ipv4_mapped if isinstance(told, ipaddress.IPv6Address) else None
            return str(mapped or told), port
        raise ProtocolError("malformed mapped address")
    raise ProtocolError("an answer without a mapped address")


def _split(datagram: bytes) -> tuple[int, bytes, list[tuple[int, bytes]]]:
    """Return kind, transaction id and attributes of a STUN message."""
    if len(datagram) < _HEADER.size:
        raise ProtocolError("too short for STUN")
    kind, length, cookie, transaction = _HEADER.unpack_from(datagram)
    if cookie != _COOKIE or kind & 0xC000 or length != len(datagram) - _HEADER.size:
        raise ProtocolError("not a STUN message")
    return kind, transaction, list(_attributes(datagram[_HEADER.size :]))


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while data:
        if len(data) < _ATTRIBUTE.size:
            raise ProtocolError("malformed STUN attributes")
        kind, length = _ATTRIBUTE.unpack_from(data)
        end = _ATTRIBUTE.size + length
        padded = end + -length % 4
        if padded > len(data):
            raise ProtocolError("malformed STUN attributes")
        yield kind, data[_ATTRIBUTE.size : end]
        data = data[padded:]


def _fingerprint(message: bytes) -> bytes:
    """Return the FINGERPRINT value of a message that ends before that attribute (RFC 5389, section 15.5)."""
    return struct.pack(">I", zlib.crc32(message) ^ 0x5354554E)


def _xor(address: bytes, transaction: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(address, struct.pack(">I", _COOKIE) + transaction, strict=False))
