"""One HTTP question on a connection that is open: what relays ask their gate, and gates their panel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

_PIECE_BYTES = 64 * 1024

FAILURES = (OSError, EOFError, ValueError, asyncio.LimitOverrunError)
"""What a question may end with instead of an answer: the network, the clock, an early end, and what is no HTTP."""


class Answer:
    """An answer whose headers (names in lower case) have come; its body is still on the way. The owner closes it."""

    def __init__(
        self,
        status: int,
        headers: dict[str, str],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        read_seconds: float | None,
    ) -> None:
        self.status = status
        self.headers = headers
        self._reader = reader
        self._writer = writer
        self._read_seconds = read_seconds

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises one of FAILURES when it does not come whole, or not in time."""
        if self.headers.get("transfer-encoding", "").lower() == "chunked":
            while size := int(await self._line(), 16):
                async for piece in self._exactly(size):
                    yield piece
                await self._line()
        elif "content-length" in self.headers:
            async for piece in self._exactly(int(self.headers["content-length"])):
                yield piece
        else:
            while piece := await self._some(_PIECE_BYTES):
                yield piece

    def close(self) -> None:
        self._writer.transport.abort()

    async def _line(self) -> bytes:
        async with asyncio.timeout(self._read_seconds):
            return await self._reader.readuntil(b"\r\n")

    async def _exactly(self, size: int) -> AsyncIterator[bytes]:
        while size > 0:
            piece = await self._some(min(size, _PIECE_BYTES))
            if not piece:
                raise EOFError("the answer is not whole")
            size -= len(piece)
            yield piece

    async def _some(self, size: int) -> bytes:
        async with asyncio.timeout(self._read_seconds):
            return await self._reader.read(size)


async def post(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    target: str,
    body: bytes,
    headers: dict[str, str],
    *,
    read_seconds: float | None = None,
) -> Answer:
    """Send the question, wait until the headers of its answer have come.

    ``read_seconds`` bounds each wait for more, not their sum; None leaves that to the caller. Raises one of FAILURES, and
    has then closed the connection.
    """
    try:
        fields = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
        lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        async with asyncio.timeout(read_seconds):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        version, status, *_ = head[0].split(" ", 2)
        if not version.startswith("HTTP/1."):
            raise ValueError("no HTTP")
        received = dict(_field(line) for line in head[1:])
        return Answer(int(status), received, reader, writer, read_seconds)
    except BaseException:
        writer.transport.abort()
        raise


def _field(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon:
        raise ValueError("no header")
    return name.strip().lower(), value.strip()
