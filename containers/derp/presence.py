"""Who uses a relay now, asked of the relay itself by its mesh key, and closing connections the same way."""

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from containers.derp.client import ConnectionClosed, DerpClient, PinMismatch, ServerKeyMismatch, TlsFailed
from containers.derp.frames import PeerGone, PeerPresent, ProtocolError
from containers.derp.probe import ProbeTarget

_FLAG_MESH, _FLAG_PROBER = 2, 4
# The relay names all present clients at once, us among them, which a slow line does not hide: once it has named us and is silent
# for so long, it has named all. Where a relay may be removed for it, more silence is waited for.
_SILENCE_SECONDS = 0.4
_SILENCE_BEFORE_REMOVAL_SECONDS = 1.0

_FAULTS = (OSError, ConnectionClosed, PinMismatch, ProtocolError, ServerKeyMismatch, TlsFailed)


class CannotAsk(Exception):
    """The relay cannot be asked, or did not say all within the time limit."""


@dataclass(frozen=True)
class Present:
    """A client that is connected; `node_key` is hexadecimal, `ip` "" and `port` 0 when an old relay does not say."""

    node_key: str
    ip: str
    port: int


def has_devices(target: ProbeTarget, *, timeout: float = 10.0) -> bool | None:
    """Whether devices are connected to a relay, the panel's own tests not counted; None when it cannot be asked or did not
    name all who are there within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    try:
        with _connect(target, timeout / 2) as client:
            for news in _listen(client, deadline, silence=_SILENCE_BEFORE_REMOVAL_SECONDS):
                if isinstance(news, PeerPresent) and not (
                    _is_ours(client, news) or news.flags & _FLAG_PROBER
                ):
                    return True
    except _FAULTS:
        return None
    # Where the time is over the silence was not long enough.
    return False if time.monotonic() < deadline else None


def read_present(target: ProbeTarget, *, timeout: float) -> list[Present]:
    """Who is connected to a relay, within `timeout` seconds; raises `CannotAsk`.

    Only who knows the mesh key is left out, so the panel's own tests: a client may call itself a test as it likes.
    """
    deadline = time.monotonic() + timeout
    found: dict[str, Present] = {}
    with _asking(target, timeout) as client:
        for news in _listen(client, deadline):
            if isinstance(news, PeerGone):
                found.pop(news.key, None)
            elif not _is_ours(client, news):
                found[news.key] = Present(news.key, news.address, news.port)
    return list(found.values())


def close_peers(target: ProbeTarget, is_unwelcome: Callable[[str], bool], *, timeout: float) -> int:
    """Close the connections of all clients whose node keys are unwelcome, but for the panel's own, within `timeout` seconds.

    `is_unwelcome` is asked after the relay has named a client, and again when that comes back. Returns how many clients the
    relay has confirmed to be gone. Raises `CannotAsk`, also when the relay did not confirm all of them in time.
    """
    deadline = time.monotonic() + timeout
    closing: set[str] = set()
    gone: set[str] = set()
    with _asking(target, timeout) as client:
        for news in _listen(client, deadline, closing):
            if isinstance(news, PeerGone):
                if news.key in closing:
                    closing.discard(news.key)
                    gone.add(news.key)
            elif not _is_ours(client, news) and is_unwelcome(news.key):
                closing.add(news.key)
                client.close_peer(news.key, timeout=deadline - time.monotonic())
        if closing:
            raise CannotAsk
    return len(gone)


def _connect(target: ProbeTarget, timeout: float) -> DerpClient:
    return DerpClient.connect(
        target.host,
        target.derp_port,
        cert_sha256=target.cert_sha256,
        server_key=target.public_key,
        mesh_key=target.mesh_key,
        timeout=timeout,
    )


@contextmanager
def _asking(target: ProbeTarget, timeout: float) -> Iterator[DerpClient]:
    try:
        with _connect(target, timeout) as client:
            yield client
    except _FAULTS as error:
        raise CannotAsk(str(error)) from error


def _listen(
    client: DerpClient,
    deadline: float,
    awaited: Collection[str] = (),
    *,
    silence: float = _SILENCE_SECONDS,
) -> Iterator[PeerPresent | PeerGone]:
    """Who is there and who comes and goes, until the relay has named all, was silent for `silence` seconds, and nobody is
    `awaited` to go.

    Raises TimeoutError when the time is over before the relay has named us, and so maybe not all others.
    """
    are_we_named = False
    while (left := deadline - time.monotonic()) > 0:
        is_silent = True
        for news in client.watch_connections(timeout=min(left, silence)):
            is_silent = False
            are_we_named |= isinstance(news, PeerPresent) and news.key == client.public_key
            yield news
        if is_silent and are_we_named and not awaited:
            return
    if not are_we_named:
        raise TimeoutError("the relay does not say who is there")


def _is_ours(client: DerpClient, peer: PeerPresent) -> bool:
    return peer.key == client.public_key or bool(peer.flags & _FLAG_MESH)
