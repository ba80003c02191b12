"""One client's side of a sandbox relay: what waits to be written to it, bounded as derper bounds it."""

import asyncio
from collections import deque

from containers.derp import frames
from containers.derp.frames import FrameType, PeerPresent
from derpmgmt.sandbox.rates import Limiter, RateConfig
from derpmgmt.sandbox.wire import Wire, count_message

# derper's own limits (derp/derpserver/derpserver.go).
_WRITE_SECONDS = 2.0
_TRUSTED_WRITE_SECONDS = 30.0
_KEEP_ALIVE_SECONDS = 60.0
_QUEUED_PACKETS = 32

# What a peer may leave unread of the frames that are not packets before it is dropped.
_QUEUED_NEWS = 4096


class Peer:
    """A client's connection: what waits to be written to it, and the task that writes it."""

    def __init__(
        self,
        present: PeerPresent,
        writer: asyncio.StreamWriter,
        counters: dict[str, int],
        wire: Wire,
        *,
        is_trusted: bool,
    ) -> None:
        self.key = present.key
        self.present = present
        self.is_trusted = is_trusted
        self.is_home = False
        self.heard_from: set[str] = set()
        self.limiter: Limiter | None = None
        self._counters = counters
        self._wire = wire
        self._writer = writer
        self._packets: deque[tuple[str, bytes]] = deque()
        self._news: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._sender = asyncio.get_running_loop().create_task(self._send())

    def limit(self, rates: RateConfig) -> None:
        """Let it send so much from now on."""
        self.limiter = Limiter(rates) if rates.rate and not self.is_trusted else None

    def queue_packet(self, source: str, packet: bytes) -> None:
        """Queue a packet; the oldest one is dropped when the peer does not keep up."""
        if len(self._packets) >= _QUEUED_PACKETS:
            self._packets.popleft()
        self.heard_from.add(source)
        self._packets.append((source, packet))
        self._wake.set()

    def queue_news(self, frame: bytes) -> None:
        """Queue a frame that may not be lost; a peer that does not read them is dropped."""
        if len(self._news) >= _QUEUED_NEWS:
            self.drop()
            return
        self._news.append(frame)
        self._wake.set()

    def drop(self) -> None:
        """Cut the connection; the session ends by itself after that."""
        self._writer.transport.abort()

    async def stop(self) -> None:
        """End the writing task."""
        self._sender.cancel()
        await asyncio.gather(self._sender, return_exceptions=True)

    def _write(self, frame: bytes) -> None:
        self._writer.write(frame)
        count_message(self._wire, sent=len(frame))

    async def _send(self) -> None:
        write_seconds = _TRUSTED_WRITE_SECONDS if self.is_trusted else _WRITE_SECONDS
        clock = asyncio.get_running_loop().time
        keep_alive_at = clock() + _KEEP_ALIVE_SECONDS
        try:
            while True:
                if self._news:
                    self._write(self._news.popleft())
                elif self._packets:
                    source, packet = self._packets.popleft()
                    self._write(frames.encode(FrameType.RECV_PACKET, bytes.fromhex(source), packet))
                    self._counters["packets_sent"] += 1
                    self._counters["bytes_sent"] += len(packet)
                elif clock() >= keep_alive_at:
                    keep_alive_at = clock() + _KEEP_ALIVE_SECONDS
                    self._write(frames.encode(FrameType.KEEP_ALIVE))
                else:
                    self._wake.clear()
                    try:
                        async with asyncio.timeout_at(keep_alive_at):
                            await self._wake.wait()
                    except TimeoutError:
                        continue
                async with asyncio.timeout(write_seconds):
                    await self._writer.drain()
        except (OSError, TimeoutError):
            self.drop()
