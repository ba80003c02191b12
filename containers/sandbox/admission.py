"""How a sandbox relay asks for admission, as derper does (derp/derpserver/derpserver.go, `verifyClient`)."""

import asyncio
import http.client
import io
import json
import ssl
from urllib.parse import urlsplit

from containers.derp import keys

_ASK_SECONDS = 5.0
_MAX_BODY_BYTES = 4 * 1024
_MAX_ANSWER_BYTES = 64 * 1024


async def is_admitted(url: str, key: str, source: str, *, fail_open: bool) -> bool:
    """Ask `url` whether the client with this public key, coming from the address `source`, may connect.

    When the URL cannot be reached or does not answer within five seconds, the answer is `fail_open`. An answer that is not
    200 or not `{"Allow": true}` refuses.
    """
    question = json.dumps({"NodePublic": keys.format_node_key(key), "Source": source}).encode()
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            status, body = await _post(url, question)
    except (OSError, TimeoutError, http.client.HTTPException):
        return fail_open
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return status == 200 and isinstance(answer, dict) and answer.get("Allow") is True


async def _post(url: str, body: bytes) -> tuple[int, bytes]:
    """POST to an HTTP(S) URL and return status and the beginning of the answer's body."""
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    reader, writer = await asyncio.open_connection(
        parts.hostname,
        parts.port or (443 if is_secure else 80),
        ssl=ssl.create_default_context() if is_secure else None,
    )
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        writer.write(
            f"POST {target} HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\n"
            f"User-Agent: Go-http-client/1.1\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        answer = b""
        while len(answer) < _MAX_ANSWER_BYTES and (data := await reader.read(_MAX_ANSWER_BYTES)):
            answer += data
    finally:
        writer.transport.abort()
    response = http.client.HTTPResponse(_Received(answer))  # type: ignore[arg-type]
    response.begin()
    return response.status, response.read(_MAX_BODY_BYTES)


class _Received:
    """Bytes that http.client may read as if they came from a socket."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._data)
