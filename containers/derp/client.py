"""A blocking DERP client: TLS with a pinned certificate, the HTTP upgrade, the key exchange, then frames.

The protocol is Tailscale's (derp/derp.go, derp/derp_client.go, derp/derpserver/handler.go). Every call has a time limit that
covers all it does, however slowly the far side feeds it, and reads no more than one frame ahead.

A client serves one thread at a time: OpenSSL's connection object cannot be read and written at once.
"""

import hashlib
import hmac
import ipaddress
import json
import secrets
import socket
import ssl
import time
from collections.abc import Iterator
from typing import Self

from containers.derp import frames, keys
from containers.derp.frames import FrameType, Packet, PeerGone, PeerPresent, ProtocolError

_MAX_HTTP_HEADER_BYTES = 8 * 1024
_READ_BYTES = 16 * 1024


class ConnectionClosed(Exception):
    """The relay closed the connection."""


class NotAdmitted(ConnectionClosed):
    """The relay closed the connection after it learned who we are: admission refused us (the protocol has no other answer)."""


class TlsFailed(Exception):
    """What listens on the port does not complete a TLS handshake."""


class PinMismatch(Exception):
    """The port serves another certificate than the expected one. `found` is its SHA-256, hexadecimal."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the certificate's SHA-256 is {found}")
        self.found = found


class ServerKeyMismatch(Exception):
    """The relay has another key than the expected one. `found` is its public key, hexadecimal."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the relay's public key is {found}")
        self.found = found


def open_tcp(host: str, port: int, *, timeout: float) -> socket.socket:
    """Connect to an IP address (no names: resolving one cannot be bounded); raises OSError, TimeoutError among them."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(timeout)
        connection.connect((host, port))
    except BaseException:
        connection.close()
        raise
    return connection


def start_tls(connection: socket.socket, *, timeout: float) -> ssl.SSLSocket:
    """Start TLS over a connected socket, which is used up even on failure. Nothing is verified yet: `check_pin` does.

    Raises TlsFailed, ConnectionClosed, TimeoutError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The certificate is self-signed and known by its hash: no authority or name could say more (`check_pin`).
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    connection.settimeout(timeout)
    try:
        return context.wrap_socket(connection)
    except TimeoutError:
        connection.close()
        raise
    except (ssl.SSLEOFError, ConnectionError) as error:
        connection.close()
        raise ConnectionClosed("closed during the TLS handshake") from error
    except OSError as error:
        connection.close()
        raise TlsFailed(str(error)) from error


def check_pin(connection: ssl.SSLSocket, cert_sha256: str) -> None:
    """Compare the SHA-256 of the served certificate's DER bytes with the expected one; raises PinMismatch."""
    certificate = connection.getpeercert(binary_form=True) or b""
    found = hashlib.sha256(certificate).hexdigest()
    if not hmac.compare_digest(found, cert_sha256.lower()):
        raise PinMismatch(found)


class DerpClient:
    """One client's connection to a relay, under a key of its own (a throw-away one unless `private_key` is given).

    `mesh_key`, the relay's own secret, passes admission and allows `watch_connections` and `close_peer`. Methods raise
    ConnectionClosed when the relay closed the connection, ProtocolError when it broke the protocol and TimeoutError. After a
    ProtocolError, or a TimeoutError while sending, the connection is of no further use.
    """

    def __init__(self, connection: ssl.SSLSocket, *, private_key: str = "", mesh_key: str = "") -> None:
        self._connection = connection
        self._private_key = private_key or keys.generate_private_key()
        self._mesh_key = mesh_key
        self._buffer = bytearray()
        self._is_watching = False
        self.public_key = keys.public_key_of(self._private_key)
        self.server_key = ""

    @classmethod
    def connect(
        cls,
        host: str,
        port: int,
        *,
        cert_sha256: str,
        server_key: str = "",
        private_key: str = "",
        mesh_key: str = "",
        timeout: float = 5.0,
    ) -> Self:
        """Connect, check pin and server key, and introduce ourselves, all within `timeout` seconds.

        `server_key` is the relay's expected public key; "" accepts any. Raises OSError when there is no connection, and
        what `start_tls`, `check_pin` and `handshake` raise.
        """
        deadline = time.monotonic() + timeout
        connection = start_tls(open_tcp(host, port, timeout=timeout), timeout=_left(deadline))
        try:
            check_pin(connection, cert_sha256)
            client = cls(connection, private_key=private_key, mesh_key=mesh_key)
            client.handshake(f"{host}:{port}", server_key=server_key, timeout=_left(deadline))
        except BaseException:
            connection.close()
            raise
        return client

    def handshake(self, authority: str, *, server_key: str = "", timeout: float) -> None:
        """Upgrade HTTP to DERP (`authority` becomes the Host header), check the server's key and introduce ourselves.

        Raises ServerKeyMismatch and NotAdmitted beside what every method raises.
        """
        deadline = time.monotonic() + timeout
        self._send(
            f"GET /derp HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: DERP\r\n\r\n".encode(),
            deadline,
        )
        announced_key = self._read_upgrade(deadline)
        self.server_key = frames.decode_server_key(self._expect(FrameType.SERVER_KEY, deadline))
        if announced_key and announced_key != self.server_key:
            raise ProtocolError("the relay names one public key in HTTP and another one in DERP")
        if server_key and not hmac.compare_digest(self.server_key, server_key.lower()):
            raise ServerKeyMismatch(self.server_key)
        self._introduce(deadline)

    def send_packet(self, destination: str, packet: bytes, *, timeout: float) -> None:
        """Send a packet of at most 64 KiB to the client with the public key `destination`; raises ValueError if larger."""
        if len(packet) > frames.MAX_PACKET_BYTES:
            raise ValueError(f"a packet has at most {frames.MAX_PACKET_BYTES} bytes, not {len(packet)}")
        frame = frames.encode(FrameType.SEND_PACKET, bytes.fromhex(destination), packet)
        self._send(frame, time.monotonic() + timeout)

    def receive_packet(self, *, timeout: float) -> Packet:
        """Wait for the next packet that another client sent us."""
        return frames.decode_packet(self._await(FrameType.RECV_PACKET, time.monotonic() + timeout))

    def receive(self, *, timeout: float) -> Packet | PeerGone | PeerPresent:
        """Wait for the next packet or news about a peer."""
        return self._receive(time.monotonic() + timeout)

    def ping(self, *, timeout: float) -> float:
        """Ask the relay for an answer and return the milliseconds it took; what else arrives meanwhile is dropped."""
        deadline = time.monotonic() + timeout
        token = secrets.token_bytes(frames.PING_BYTES)
        started = time.perf_counter()
        self._send(frames.encode(FrameType.PING, token), deadline)
        while self._await(FrameType.PONG, deadline)[: frames.PING_BYTES] != token:
            pass
        return (time.perf_counter() - started) * 1000

    def watch_connections(self, *, timeout: float) -> Iterator[PeerPresent | PeerGone]:
        """Yield who is connected now, ourselves included, then every coming and going, until `timeout` seconds are over.

        Needs the mesh key: without it the relay closes the connection. May be called again to go on watching; the present
        clients are told only once a connection. A PeerPresent comes for every connection, a PeerGone only when the last
        one of that key ended.
        """
        deadline = time.monotonic() + timeout
        if not self._is_watching:
            self._send(frames.encode(FrameType.WATCH_CONNECTIONS), deadline)
            self._is_watching = True
        while True:
            try:
                message = self._receive(deadline)
            except TimeoutError:
                return
            if not isinstance(message, Packet):
                yield message

    def close_peer(self, key: str, *, timeout: float) -> None:
        """Close every connection of the client with this public key. Needs the mesh key, as `watch_connections` does."""
        self._send(frames.encode(FrameType.CLOSE_PEER, bytes.fromhex(key)), time.monotonic() + timeout)

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read_upgrade(self, deadline: float) -> str:
        """Read the HTTP answer to our upgrade; returns the public key it names, or "" when it names none."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > _MAX_HTTP_HEADER_BYTES:
                raise ProtocolError(f"more than {_MAX_HTTP_HEADER_BYTES} bytes of HTTP header")
            self._fill(deadline)
        head = bytes(self._buffer[:end]).decode("latin-1").split("\r\n")
        del self._buffer[: end + 4]
        status = head[0].split(" ", 2)
        if not status[0].startswith("HTTP/1.") or len(status) < 2:
            raise ProtocolError("the answer is not HTTP")
        if status[1] != "101":
            raise ProtocolError(f"HTTP status {status[1][:20]} instead of 101")
        fields = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head[1:])
        }
        if fields.get("upgrade", "").lower() != "derp":
            raise ProtocolError("the answer upgrades to something that is not DERP")
        return fields.get("derp-public-key", "").lower()

    def _introduce(self, deadline: float) -> None:
        """Send ClientInfo and wait for ServerInfo, whose box proves that the relay has the key that it named."""
        info: dict[str, int | bool | str] = {
            "version": frames.PROTOCOL_VERSION,
            "CanAckPings": True,
            "IsProber": True,
        }
        if self._mesh_key:
            info["meshKey"] = self._mesh_key
        try:
            sealed = keys.seal(
                json.dumps(info).encode(), private_key=self._private_key, public_key=self.server_key
            )
        except ValueError as error:
            raise ProtocolError("the relay's public key is not usable") from error
        self._send(frames.encode(FrameType.CLIENT_INFO, bytes.fromhex(self.public_key), sealed), deadline)
        try:
            answer = self._expect(FrameType.SERVER_INFO, deadline)
        except ConnectionClosed as error:
            raise NotAdmitted("closed after our introduction") from error
        try:
            keys.open_box(answer, private_key=self._private_key, public_key=self.server_key)
        except ValueError as error:
            raise ProtocolError("the relay does not have the key that it names") from error

    def _receive(self, deadline: float) -> Packet | PeerGone | PeerPresent:
        while True:
            frame_type, payload = self._read_frame(deadline)
            if frame_type == FrameType.RECV_PACKET:
                return frames.decode_packet(payload)
            if frame_type == FrameType.PEER_GONE:
                return frames.decode_gone(payload)
            if frame_type == FrameType.PEER_PRESENT:
                return frames.decode_present(payload)

    def _expect(self, wanted: FrameType, deadline: float) -> bytes:
        """Return the payload of the next frame, which has to be of this type."""
        frame_type, payload = self._read_frame(deadline)
        if frame_type != wanted:
            raise ProtocolError(f"frame of type 0x{frame_type:02x} where 0x{wanted:02x} belongs")
        return payload

    def _await(self, wanted: FrameType, deadline: float) -> bytes:
        """Return the payload of the next frame of this type, dropping the others."""
        while True:
            frame_type, payload = self._read_frame(deadline)
            if frame_type == wanted:
                return payload

    def _read_frame(self, deadline: float) -> tuple[int, bytes]:
        """Return type and payload of the next frame, answering pings on the way; a part read before a time-out is kept."""
        while True:
            while len(self._buffer) < frames.HEADER_BYTES:
                self._fill(deadline)
            frame_type, length = frames.decode_header(bytes(self._buffer[: frames.HEADER_BYTES]))
            end = frames.HEADER_BYTES + length
            while len(self._buffer) < end:
                self._fill(deadline)
            payload = bytes(self._buffer[frames.HEADER_BYTES : end])
            del self._buffer[:end]
            if frame_type != FrameType.PING:
                return frame_type, payload
            self._send(frames.encode(FrameType.PONG, payload[: frames.PING_BYTES]), deadline)

    def _fill(self, deadline: float) -> None:
        """Append what the relay sent to the buffer, waiting for at least one byte."""
        self._connection.settimeout(_left(deadline))
        try:
            data = self._connection.recv(_READ_BYTES)
        except TimeoutError:
            raise
        except ssl.SSLError as error:
            raise ProtocolError(f"broken TLS: {error.reason}") from error
        except OSError as error:
            raise ConnectionClosed(error.strerror or "connection lost") from error
        if not data:
            raise ConnectionClosed("closed by the relay")
        self._buffer += data

    def _send(self, data: bytes, deadline: float) -> None:
        rest = memoryview(data)
        while rest:
            self._connection.settimeout(_left(deadline))
            try:
                rest = rest[self._connection.send(rest) :]
            except TimeoutError:
                raise
            except OSError as error:
                raise ConnectionClosed(error.strerror or "connection lost") from error


def _left(deadline: float) -> float:
    """Return the seconds until `deadline` (time.monotonic); raises TimeoutError when it has passed."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the time limit is over")
    return left
