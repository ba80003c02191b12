"""SSH connections to the servers: pinned host keys, keys from memory, time limits on everything.

This is the only place that knows paramiko. Whatever a host does wrong comes out as a `RemoteError` whose text a
person can read; nothing here logs, prints or repeats a key or a password.
"""

from fleet.ssh.connection import CommandResult, Connection, Endpoint
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
from fleet.ssh.pool import ConnectionPool
from fleet.ssh.stream import ChannelStream
from fleet.ssh.transport import read_host_key
