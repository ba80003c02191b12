"""A relay that speaks real DERP and STUN on an address of this machine, for hosts that are not there.

It behaves as derper does (Tailscale's derp/derpserver/derpserver.go, derp/derpserver/handler.go, cmd/derper/derper.go) in what
clients, probes and the panel can see: HTTP pages, key exchange, admission, forwarding, mesh watchers, counters and STUN. It does
not mesh with other relays or speak WebSocket.
"""

import asyncio
import hmac
import ipaddress
import json
import logging
import ssl
import tempfile
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from containers.derp import frames, keys, stun
from containers.derp.frames import FrameType, GoneReason, PeerPresent, ProtocolError
from derpmgmt.sandbox.peer import Peer
from derpmgmt.sandbox.program import Resolve
from derpmgmt.sandbox.rates import RateConfig
from derpmgmt.sandbox.verify_client import is_admitted
from derpmgmt.sandbox.wire import Wire, count_datagram, count_greeting, count_message, nowhere

logger = logging.getLogger(__name__)

VERSION = "1.102.5-sandbox"

# derper's own limits.
_REQUEST_SECONDS = 30.0
_INTRODUCTION_SECONDS = 10.0
_CLOSE_SECONDS = 2.0

_MAX_REQUEST_BYTES = 16 * 1024
_DISCO_MAGIC = b"TS\xf0\x9f\x92\xac"
_DISCO_MIN_BYTES = 62
# What ends a session: the network, the clock, or a client that sends nonsense.
_SESSION_ENDS = (
    OSError,
    TimeoutError,
    EOFError,
    asyncio.LimitOverrunError,
    ProtocolError,
    ValueError,
    RecursionError,
)
_CHALLENGE_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:")


class SandboxRelay:
    """One relay: a TLS listener and a STUN socket on `address`.

    `private_key` is hexadecimal; `mesh_key` "" means that nobody may watch; `verify_url` "" that everybody is admitted;
    `fail_open` that a silent URL admits; `resolve` says where that URL's host is, for a relay whose names are not the machine's;
    `seen_source` is the address that everybody seems to come from where something on the host rewrites it ("" = nothing does).
    `wire` counts what comes and goes. With a `debug_key`, `/debug/vars?debugkey=` answers its holders. A port of 0 lets the system choose: `derp_port` and
    `stun_port` tell which one after `start`.
    """

    def __init__(
        self,
        address: str,
        derp_port: int,
        stun_port: int,
        certificate_pem: bytes,
        key_pem: bytes,
        private_key: str,
        mesh_key: str = "",
        verify_url: str = "",
        *,
        fail_open: bool = True,
        debug_key: str = "",
        resolve: Resolve | None = None,
        seen_source: str = "",
        wire: Wire = nowhere,
    ) -> None:
        self.address = address
        self.derp_port = derp_port
        self.stun_port = stun_port
        self.public_key = keys.public_key_of(private_key)
        self.counters = dict.fromkeys(
            ("accepts", "bytes_received", "bytes_sent", "packets_received", "packets_sent"), 0
        )
        self._private_key = private_key
        self._mesh_key = mesh_key
        self._verify_url = verify_url
        self._fail_open = fail_open
        self._debug_key = debug_key
        self._resolve = resolve
        self._seen_source = seen_source
        self._wire = wire
        self._tls = _server_context(certificate_pem, key_pem)
        self._server: asyncio.Server | None = None
        self._stun: asyncio.DatagramTransport | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        # Connections by key, the one that spoke last at the end: it gets the packets.
        self._peers: dict[str, list[Peer]] = {}
        self._watchers: set[Peer] = set()
        self._rates = RateConfig()

    async def start(self) -> None:
        """Listen on both ports; raises OSError when one is taken, and then holds none."""
        self._server = await asyncio.start_server(
            self._accept,
            self.address,
            self.derp_port,
            ssl=self._tls,
            ssl_handshake_timeout=_REQUEST_SECONDS,
            limit=_MAX_REQUEST_BYTES,
        )
        try:
            self._stun, _ = await asyncio.get_running_loop().create_datagram_endpoint(
                lambda: _StunProtocol(self._seen_source, self._wire),
                local_addr=(self.address, self.stun_port),
            )
        except OSError:
            await self.stop()
            raise
        self.derp_port = self._server.sockets[0].getsockname()[1]
        self.stun_port = self._stun.get_extra_info("sockname")[1]

    async def stop(self) -> None:
        """Close both ports and every connection at once."""
        if self._stun is not None:
            self._stun.close()
        if self._server is not None:
            self._server.close()
        # Told again, and not waited for without end: a cancellation may get lost in a task that was just being woken.
        for _time in range(20):
            if not self._tasks:
                break
            for task in list(self._tasks):
                task.cancel()
            await asyncio.wait(list(self._tasks), timeout=0.25)
        # asyncio frees a datagram socket's port in the next turn of its loop.
        await asyncio.sleep(0)

    def limit(self, rates: RateConfig) -> None:
        """From now on each client, those that are connected too, sends no more than that; trusted ones as much as they like."""
        self._rates = rates
        for connections in self._peers.values():
            for peer in connections:
                peer.limit(rates)

    @property
    def open_connections(self) -> int:
        """How many TCP connections there are, whatever is spoken on them."""
        return len(self._tasks)

    @property
    def current_connections(self) -> int:
        """How many clients are connected now."""
        return sum(map(len, self._peers.values()))

    def deliver(self, source: str, destination: str, packet: bytes) -> None:
        """Hand a packet that `source` sent to the client `destination`, or drop it."""
        receivers = self._peers.get(destination)
        if receivers:
            receivers[-1].queue_packet(source, packet)
            return
        # derper tells only those who look for a path; others would learn nothing useful from it.
        if packet.startswith(_DISCO_MAGIC) and len(packet) >= _DISCO_MIN_BYTES:
            for sender in self._peers.get(source, [])[-1:]:
                sender.queue_news(frames.encode_gone(destination, GoneReason.NOT_HERE))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or not self._server.is_serving():
            # Its TLS handshake ended after `stop`.
            writer.transport.abort()
            return
        count_greeting(self._wire)
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one connection: one HTTP request, or a DERP session after it."""
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
            count_message(self._wire, received=len(request))
            method, target, headers = _parse_request(request)
            url = urlsplit(target)
            if url.path == "/derp" and headers.get("upgrade", "").lower() == "derp":
                await self._serve_derp(reader, writer, headers)
            else:
                page = self._page(method, url.path, url.query, headers)
                writer.write(page)
                count_message(self._wire, sent=len(page))
                await asyncio.wait_for(writer.drain(), _REQUEST_SECONDS)
                writer.close()
                await asyncio.wait_for(writer.wait_closed(), _CLOSE_SECONDS)
        except _SESSION_ENDS as error:
            logger.debug("connection to the relay on %s:%s ended: %r", self.address, self.derp_port, error)
        finally:
            writer.transport.abort()

    def _page(self, method: str, path: str, query: str, headers: dict[str, str]) -> bytes:
        """Return the whole answer to a request that is not a DERP session."""
        if path == "/derp":
            return _response("426 Upgrade Required", b"DERP requires connection upgrade\n")
        if path in ("/derp/probe", "/derp/latency-check"):
            if method not in ("GET", "HEAD"):
                return _response("405 Method Not Allowed", b"bogus probe method\n")
            return _response("200 OK", fields={"Access-Control-Allow-Origin": "*"})
        if path == "/generate_204":
            challenge = headers.get("x-tailscale-challenge", "")
            fields = {"Cache-Control": "no-cache, no-store, must-revalidate, no-transform, max-age=0"}
            if challenge and len(challenge) <= 64 and _CHALLENGE_CHARACTERS.issuperset(challenge):
                fields["X-Tailscale-Response"] = f"response {challenge}"
            return _response("204 No Content", fields=fields)
        if path == "/debug/vars":
            offered = parse_qs(query).get("debugkey", [""])[0]
            if not self._debug_key or not hmac.compare_digest(offered.encode(), self._debug_key.encode()):
                return _response("403 Forbidden", b"debug access denied\n")
            return _response("200 OK", self._vars(), {"Content-Type": "application/json; charset=utf-8"})
        return _response("200 OK", fields={"Content-Type": "text/html; charset=utf-8"})

    def _vars(self) -> bytes:
        peers = [peer for connections in self._peers.values() for peer in connections]
        gauges = {
            "gauge_current_connections": len(peers),
            "gauge_current_home_connections": sum(peer.is_home for peer in peers),
        }
        return json.dumps({"derp": self.counters | gauges | {"version": VERSION}}).encode()

    async def _serve_derp(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, headers: dict[str, str]
    ) -> None:
        if headers.get("derp-fast-start") != "1":
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n"
                + f"Derp-Version: {frames.PROTOCOL_VERSION}\r\nDerp-Public-Key: {self.public_key}\r\n\r\n".encode()
            )
        self.counters["accepts"] += 1
        key_frame = frames.encode(FrameType.SERVER_KEY, frames.MAGIC, bytes.fromhex(self.public_key))
        writer.write(key_frame)
        count_message(self._wire, sent=len(key_frame))
        async with asyncio.timeout(_INTRODUCTION_SECONDS):
            key, info = self._read_introduction(await self._read_frame(reader))
        address, port = writer.get_extra_info("peername")[:2]
        address = self._seen_source or address
        offered = info.get("meshKey")
        is_trusted = bool(self._mesh_key) and hmac.compare_digest(
            str(offered).encode(), self._mesh_key.encode()
        )
        must_ask = bool(self._verify_url) and not is_trusted
        if must_ask and not await is_admitted(
            self._verify_url, key, address, fail_open=self._fail_open, resolve=self._resolve
        ):
            logger.info("relay on %s:%s refused nodekey:%s", self.address, self.derp_port, key)
            return
        flags = 4 * bool(info.get("IsProber")) + 2 * is_trusted
        present = PeerPresent(key=key, address=address, port=port, flags=flags or 1)
        peer = Peer(present, writer, self.counters, self._wire, is_trusted=is_trusted)
        self._register(peer)
        peer.limit(self._rates)
        try:
            sealed = keys.seal(
                json.dumps({"version": frames.PROTOCOL_VERSION}).encode(),
                private_key=self._private_key,
                public_key=key,
            )
            peer.queue_news(frames.encode(FrameType.SERVER_INFO, sealed))
            await self._read_frames(peer, reader)
        finally:
            self._unregister(peer)
            await peer.stop()

    def _read_introduction(self, frame: tuple[int, bytes]) -> tuple[str, dict[str, Any]]:
        """Return key and ClientInfo of a new client, which proves with the box that the key is its own."""
        frame_type, payload = frame
        if frame_type != FrameType.CLIENT_INFO:
            raise ProtocolError("no introduction")
        key = payload[: keys.KEY_BYTES].hex()
        message = keys.open_box(payload[keys.KEY_BYTES :], private_key=self._private_key, public_key=key)
        info = json.loads(message)
        if not isinstance(info, dict):
            raise ProtocolError("the introduction is not an object")
        return key, info

    async def _read_frames(self, peer: Peer, reader: asyncio.StreamReader) -> None:
        """Do what a client asks until it ends, or asks what it may not."""
        while True:
            frame_type, payload = await self._read_frame(reader, peer)
            if len(self._peers[peer.key]) > 1:
                self._peers[peer.key].remove(peer)
                self._peers[peer.key].append(peer)
            if frame_type == FrameType.SEND_PACKET:
                packet = payload[keys.KEY_BYTES :]
                self.counters["packets_received"] += 1
                self.counters["bytes_received"] += len(packet)
                self.deliver(peer.key, payload[: keys.KEY_BYTES].hex(), packet)
                # A burst is read without waiting: give the receiver's writer its turn before the queue runs over.
                await asyncio.sleep(0)
            elif frame_type == FrameType.NOTE_PREFERRED:
                peer.is_home = payload != b"\0"
            elif frame_type == FrameType.PING:
                peer.queue_news(frames.encode(FrameType.PONG, payload[: frames.PING_BYTES]))
            elif frame_type in (FrameType.WATCH_CONNECTIONS, FrameType.CLOSE_PEER):
                if not peer.is_trusted:
                    raise ProtocolError("insufficient permissions")
                if frame_type == FrameType.WATCH_CONNECTIONS:
                    self._watch(peer)
                else:
                    for target in self._peers.get(payload.hex(), []):
                        target.drop()

    async def _read_frame(self, reader: asyncio.StreamReader, peer: Peer | None = None) -> tuple[int, bytes]:
        """Return type and payload of the next frame, once its client may send that much; raises ProtocolError when its length is
        out of bounds."""
        frame_type, length = frames.decode_header(await reader.readexactly(frames.HEADER_BYTES))
        if peer is not None and peer.limiter is not None:
            await peer.limiter.take(length)
        payload = await reader.readexactly(length)
        count_message(self._wire, received=frames.HEADER_BYTES + length)
        return frame_type, payload

    def _watch(self, watcher: Peer) -> None:
        for connections in self._peers.values():
            watcher.queue_news(frames.encode_present(connections[-1].present))
        self._watchers.add(watcher)

    def _register(self, peer: Peer) -> None:
        self._peers.setdefault(peer.key, []).append(peer)
        for watcher in self._watchers:
            watcher.queue_news(frames.encode_present(peer.present))

    def _unregister(self, peer: Peer) -> None:
        self._watchers.discard(peer)
        connections = self._peers[peer.key]
        connections.remove(peer)
        if connections:
            return
        del self._peers[peer.key]
        gone = frames.encode_gone(peer.key, GoneReason.DISCONNECTED)
        for other in [other for same_key in self._peers.values() for other in same_key]:
            heard = peer.key in other.heard_from
            other.heard_from.discard(peer.key)
            if heard or other in self._watchers:
                other.queue_news(gone)


class _StunProtocol(asyncio.DatagramProtocol):
    """Answers well-formed binding requests of Tailscale clients, and nothing else; `source` as in `SandboxRelay`."""

    def __init__(self, source: str, wire: Wire) -> None:
        self._source = source
        self._wire = wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[Any, ...]) -> None:
        count_datagram(self._wire, received=len(data))
        try:
            transaction = stun.decode_request(data)
        except ProtocolError:
            return
        address = ipaddress.ip_address(self._source or addr[0])
        # On derper's dual-stack socket an IPv4 client has an IPv6 address.
        told = f"::ffff:{address}" if address.version == 4 else str(address)
        answer = stun.encode_answer(transaction, told, addr[1])
        self._transport.sendto(answer, addr)
        count_datagram(self._wire, sent=len(answer))


def _parse_request(head: bytes) -> tuple[str, str, dict[str, str]]:
    """Return method, target and headers (names in lower case) of an HTTP request; raises ValueError when it is none."""
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, version = first.split(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not HTTP/1")
    return (
        method,
        target,
        {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)},
    )


def _response(status: str, body: bytes = b"", fields: dict[str, str] | None = None) -> bytes:
    headers = {"Connection": "close"} | (fields or {})
    if not status.startswith("204"):
        headers["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode("latin-1") + body


def _server_context(certificate_pem: bytes, key_pem: bytes) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL reads the pair from files only.
    with tempfile.NamedTemporaryFile() as pair:
        Path(pair.name).write_bytes(certificate_pem + b"\n" + key_pem)
        context.load_cert_chain(pair.name)
    return context
