"""A customer's own verify address, and what it is asked."""

import socket
from collections.abc import Callable, Iterator

import pytest

from acl.devices import outbound, sources
from acl.devices.sources import Answer, Verdict, ask_verify_url
from acl.maps import copies
from tests.derp.conftest import admission as admission
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE

KEY = "ab" * 32
YES, NO = Answer(Verdict.YES), Answer(Verdict.NO)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    copies.redis_rest.end()
    outbound._panel_hosts.cache_clear()
    yield
    copies.redis_rest.end()


@pytest.fixture
def open_house(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets loopback pass for the open internet."""
    monkeypatch.setattr(outbound, "_check_addresses", lambda *_: None)


def ask(url: str, *, key: str = KEY, timeout: float = PATIENCE) -> Answer:
    return ask_verify_url(url=url, node_key=key, source_ip="198.51.100.7", timeout=timeout)


def problem(code: str) -> Answer:
    return Answer(Verdict.SILENT, sources.SENTENCES[code])


def saying(answer: bytes) -> Callable[[socket.socket], None]:
    def script(connection: socket.socket) -> None:
        question = b""
        while not question.endswith(b"}") and (more := connection.recv(4096)):
            question += more
        connection.sendall(answer)

    return script


def response(body: bytes, status: str = "200 OK", fields: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{fields}\r\n".encode() + body
