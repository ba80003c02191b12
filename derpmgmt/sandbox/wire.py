"""What goes over the network interfaces of a server's containers, counted as a kernel counts it.

The sandbox has no interfaces, so that what its programs say and hear is counted where they do so, with what TLS and TCP over IPv4
add on Ethernet. Acknowledgements, lost packets and the handshakes' exact sizes are those of no real network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

_TLS_RECORD = 22
_TLS_HELLO, _TLS_CERTIFICATE = 600, 1500
_SEGMENT, _TCP_HEADERS, _UDP_HEADERS = 1448, 66, 42


@dataclass
class Interface:
    """One end of a container on a network; one that came back is another."""

    name: str
    index: int
    received: int = 0
    sent: int = 0


class Wire(Protocol):
    """Where bytes of frames are counted that a program received and sent."""

    def __call__(self, received: int = 0, sent: int = 0) -> None: ...


def nowhere(received: int = 0, sent: int = 0) -> None:
    """For programs on no network."""


def count_message(wire: Wire, *, received: int = 0, sent: int = 0) -> None:
    """A message of this many bytes over TLS, with the acknowledgement in the other direction."""
    there, back = _over_tcp(received + sent), _TCP_HEADERS
    if received:
        wire(there, back)
    else:
        wire(back, there)


def count_greeting(wire: Wire) -> None:
    """A new connection of a client's, with its TLS handshake."""
    wire(_TLS_HELLO + 3 * _TCP_HEADERS, _TLS_CERTIFICATE + 3 * _TCP_HEADERS)


def count_datagram(wire: Wire, *, received: int = 0, sent: int = 0) -> None:
    """A UDP datagram in either direction."""
    wire(received + _UDP_HEADERS if received else 0, sent + _UDP_HEADERS if sent else 0)


def _over_tcp(length: int) -> int:
    length += _TLS_RECORD
    return length + _TCP_HEADERS * -(-length // _SEGMENT)
