"""Whether anybody uses a relay now, asked of the relay itself by its mesh key."""

import time

from containers.derp.client import ConnectionClosed, DerpClient, PinMismatch, ServerKeyMismatch, TlsFailed
from containers.derp.frames import PeerPresent, ProtocolError
from containers.derp.probe import ProbeTarget

_FLAG_MESH, _FLAG_PROBER = 2, 4
# The relay names all present clients at once, so after a second of silence it has named them.
_SILENCE_SECONDS = 1.0


def has_devices(target: ProbeTarget, *, timeout: float = 10.0) -> bool | None:
    """Whether devices are connected to a relay, the panel's own tests not counted; None when it cannot be asked."""
    deadline = time.monotonic() + timeout
    try:
        with DerpClient.connect(
            target.host,
            target.derp_port,
            cert_sha256=target.cert_sha256,
            server_key=target.public_key,
            mesh_key=target.mesh_key,
            timeout=timeout / 2,
        ) as client:
            while time.monotonic() < deadline:
                is_silent = True
                for peer in client.watch_connections(timeout=_SILENCE_SECONDS):
                    is_silent = False
                    is_ours = isinstance(peer, PeerPresent) and (
                        peer.key == client.public_key or peer.flags & (_FLAG_MESH | _FLAG_PROBER)
                    )
                    if isinstance(peer, PeerPresent) and not is_ours:
                        return True
                if is_silent:
                    return False
    except (OSError, ConnectionClosed, PinMismatch, ProtocolError, ServerKeyMismatch, TlsFailed):
        return None
    return None
