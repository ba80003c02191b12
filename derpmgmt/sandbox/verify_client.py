"""How a sandbox relay asks for admission, as derper does (derp/derpserver/derpserver.go, `verifyClient`)."""

import asyncio
import json
import ssl
from urllib.parse import urlsplit

from containers.derp import keys
from derpmgmt.sandbox.asking import FAILURES, Answer, post
from derpmgmt.sandbox.program import Resolve

_ASK_SECONDS = 5.0
_MAX_BODY_BYTES = 4 * 1024


async def is_admitted(
    url: str, key: str, source: str, *, fail_open: bool, resolve: Resolve | None = None
) -> bool:
    """Ask `url` whether the client with this public key, coming from the address `source`, may connect.

    When the URL cannot be reached, or the headers of its answer have not come within five seconds, the answer is
    `fail_open`. An answer that is not 200, not `{"Allow": true}`, or not whole by then refuses. `resolve`: where the URL's
    host is, if it is not for the system to say.
    """
    question = json.dumps({"NodePublic": keys.format_node_key(key), "Source": source}).encode()
    answer: Answer | None = None
    try:
        async with asyncio.timeout(_ASK_SECONDS):
            answer = await _ask(url, question, resolve)
            return answer.status == 200 and await _says_yes(answer)
    except FAILURES:
        return fail_open and answer is None
    finally:
        if answer is not None:
            answer.close()


async def _ask(url: str, question: bytes, resolve: Resolve | None) -> Answer:
    parts = urlsplit(url)
    is_secure = parts.scheme == "https"
    host, port = parts.hostname or "", parts.port or (443 if is_secure else 80)
    place = resolve(host, port) if resolve else (host, port)
    reader, writer = await asyncio.open_connection(
        *place,
        ssl=ssl.create_default_context() if is_secure else None,
        server_hostname=host if is_secure else None,
    )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    headers = {"Host": parts.netloc.rpartition("@")[2], "User-Agent": "Go-http-client/1.1"}
    return await post(reader, writer, target, question, headers)


async def _says_yes(answer: Answer) -> bool:
    """Whether the first JSON value of the body allows it; like Go's decoder, this does not wait for what comes after that."""
    body = b""
    async for piece in answer.pieces():
        body = (body + piece)[:_MAX_BODY_BYTES]
        try:
            value, _ = json.JSONDecoder().raw_decode(body.decode().lstrip())
        except (ValueError, RecursionError):
            if len(body) == _MAX_BODY_BYTES:
                return False
            continue
        return isinstance(value, dict) and value.get("Allow") is True
    return False
