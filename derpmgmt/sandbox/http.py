"""HTTP/1.1 on one stream, as far as the Docker Engine API needs it: keep-alive, chunked bodies, hijacked connections."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

logger = logging.getLogger(__name__)

BODY_LIMIT = 512 * 1024 * 1024
"""Bytes that a request's body may have: an image archive with room to spare."""


class Reader(Protocol):
    """What is read of a stream; asyncio's and asyncssh's readers both have it."""

    async def readuntil(self, separator: bytes) -> bytes: ...
    async def readexactly(self, n: int) -> bytes: ...


class Writer(Protocol):
    """What is written to a stream."""

    def write(self, data: bytes) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Request:
    """One request; ``path`` without its query, percent-decoded."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)

    def flag(self, name: str) -> bool:
        """A query parameter as the Engine reads booleans (api/server/httputils/form.go)."""
        return self.query.get(name, "").strip().lower() not in ("", "0", "no", "false", "none")


@dataclass(frozen=True)
class Response:
    """One answer. ``pieces`` instead of ``body``: sent in chunks as they come. ``raw``: the connection becomes a raw stream
    that carries these bytes and ends."""

    status: int
    body: bytes = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    pieces: AsyncIterator[bytes] | None = None
    raw: bytes | None = None


def json_response(value: Any, status: int = 200) -> Response:
    """The Engine ends its JSON with a newline."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Response(status, body, "application/json")


class Disconnect(Exception):
    """Raised by a handler: end the connection without an answer."""


async def serve(
    reader: Reader, writer: Writer, handle: Callable[[Request], Awaitable[Response]], common: dict[str, str]
) -> None:
    """Answer the requests of one connection until either side ends it. ``common``: headers of every answer."""
    try:
        while True:
            request = await _read_request(reader)
            response = await handle(request)
            if not await _send(writer, request, response, common):
                break
    except (asyncio.IncompleteReadError, Disconnect, OSError):
        pass
    except (ValueError, asyncio.LimitOverrunError) as error:
        logger.debug("bad request: %s", error)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n")
        writer.write(b"Connection: close\r\n\r\n400 Bad Request")
    finally:
        writer.close()


async def _read_request(reader: Reader) -> Request:
    """Raises ValueError for what is no request."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {}
    for line in head[1:-2]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await _read_chunks(reader)
    else:
        size = int(headers.get("content-length", "0"))
        if not 0 <= size <= BODY_LIMIT:
            raise ValueError("body too large")
        body = await reader.readexactly(size)
    url = urlsplit(target)
    query = dict(parse_qsl(url.query, keep_blank_values=True))
    return Request(method, unquote(url.path), query, headers, body)


async def _read_chunks(reader: Reader) -> bytes:
    body = bytearray()
    while True:
        size = int((await reader.readuntil(b"\r\n")).split(b";")[0], 16)
        if size < 0 or len(body) + size > BODY_LIMIT:
            raise ValueError("body too large")
        if size == 0:
            break
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


async def _send(writer: Writer, request: Request, response: Response, common: dict[str, str]) -> bool:
    """Send an answer; says whether the connection can carry another request."""
    headers = {**common, "Date": formatdate(usegmt=True), **response.headers}
    if response.content_type:
        headers["Content-Type"] = response.content_type
    status = response.status
    if response.raw is not None:
        headers["Content-Type"] = "application/vnd.docker.raw-stream"
        status = 101 if request.headers.get("upgrade", "").lower() == "tcp" else 200
        if status == 101:
            headers |= {"Connection": "Upgrade", "Upgrade": "tcp"}
        writer.write(_head(status, headers) + response.raw)
        await writer.drain()
        return False
    if response.pieces is not None:
        writer.write(_head(status, headers | {"Transfer-Encoding": "chunked"}))
        async for piece in response.pieces:
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    else:
        if status not in (204, 304):
            headers["Content-Length"] = str(len(response.body))
        body = b"" if request.method == "HEAD" else response.body
        writer.write(_head(status, headers) + body)
    await writer.drain()
    return request.headers.get("connection", "").lower() != "close"


def _head(status: int, headers: dict[str, str]) -> bytes:
    phrase = "UPGRADED" if status == 101 else HTTPStatus(status).phrase
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
