"""The ports that containers publish on one server: who holds which, and the Engine's words when one cannot be had."""

from __future__ import annotations

import errno
import os
import secrets
import socket
from collections.abc import Iterable
from typing import Any

from derpmgmt.sandbox.containers import Container
from derpmgmt.sandbox.refusals import Refusal

ANY_ADDRESS = "0.0.0.0"  # noqa: S104  (what a request may name, not what is bound)


def take_ports(own_address: str, container: Container, all_containers: Iterable[Container]) -> dict[str, Any]:
    """What ``NetworkSettings.Ports`` shows once the ports are the container's.

    ``own_address`` is the only address that the server has. Raises Refusal when a port is held by another container of the
    server or by anybody else on that address, and when a binding names an address that the server does not have.
    """
    taken = {
        (key.partition("/")[2], int(binding["HostPort"]))
        for other in all_containers
        if other.is_running
        for key, bindings in other.ports.items()
        for binding in bindings or []
    }
    ports: dict[str, Any] = dict.fromkeys(container.config.get("ExposedPorts") or {})
    for key, bindings in sorted((container.host_config.get("PortBindings") or {}).items()):
        number, _, protocol = key.partition("/")
        protocol = protocol or "tcp"
        given = []
        for binding in bindings or []:
            address, port = binding.get("HostIp") or ANY_ADDRESS, int(binding.get("HostPort") or 0)
            if port and (protocol, port) in taken:
                words = f"Bind for {address}:{port} failed: port is already allocated"
                raise Refusal(500, _unconnected(container, words))
            try:
                if address not in (ANY_ADDRESS, own_address):
                    raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
                port = _try_port(own_address, port, protocol)
            except OSError as error:
                words = unconnected(container, f"listen {protocol}4 {address}:{port}", error)
                raise Refusal(500, words) from None
            given.append({"HostIp": address, "HostPort": str(port)})
        ports[f"{number}/{protocol}"] = given
    return ports


def unconnected(container: Container, action: str, error: OSError) -> str:
    """The Engine's words for an action on a port that the system refused."""
    names = {
        errno.EADDRINUSE: "address already in use",
        errno.EADDRNOTAVAIL: "cannot assign requested address",
    }
    reason = names.get(error.errno or 0, (error.strerror or str(error)).lower())
    return _unconnected(container, f"{action}: bind: {reason}")


def _unconnected(container: Container, words: str) -> str:
    endpoint = secrets.token_hex(32)
    return (
        f"driver failed programming external connectivity on endpoint {container.name} ({endpoint}): {words}"
    )


def _try_port(address: str, port: int, protocol: str) -> int:
    """Whether it can be had, and which it is when any will do. Raises OSError."""
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as trial:
        if kind == socket.SOCK_STREAM:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((address, port))
        return int(trial.getsockname()[1])
