"""SSH connections to the servers: pinned host keys, keys from memory, time limits on everything.

This is the only place that knows paramiko. Whatever a host does wrong comes out as a `RemoteError` whose text a
person can read; nothing here logs, prints or repeats a key or a password.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fleet.ssh.errors import (
    AuthenticationFailed,
    CommandFailed,
    ForwardingRefused,
    HostKeyChanged,
    RemoteError,
    TimedOut,
    Unreachable,
)
from fleet.ssh.keys import HostKey

if TYPE_CHECKING:
    from fleet.ssh.connection import CommandResult, Connection, Endpoint
    from fleet.ssh.pool import ConnectionPool
    from fleet.ssh.private_keys import load_private_key
    from fleet.ssh.stream import ChannelStream
    from fleet.ssh.transport import read_host_key

# What needs paramiko is imported when it is asked for: many processes only name hosts' keys and errors.
_SPEAKING = {
    "CommandResult": "connection",
    "Connection": "connection",
    "Endpoint": "connection",
    "ConnectionPool": "pool",
    "load_private_key": "private_keys",
    "ChannelStream": "stream",
    "read_host_key": "transport",
}


def __getattr__(name: str) -> Any:
    if name not in _SPEAKING:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SPEAKING[name]}"), name)
