"""A channel as a socket."""

import io
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import paramiko

from fleet.ssh.errors import TimedOut, Unreachable
from fleet.ssh.transport import Channel

if TYPE_CHECKING:
    from fleet.ssh.connection import Connection


class ChannelStream:
    """A channel that behaves like a connected socket, as far as `http.client` needs one.

    A read or write that exceeds its time limit drops the whole connection and raises `TimedOut`: a host that has
    stopped answering on one channel is not asked again on another.
    """

    def __init__(
        self, connection: "Connection", channel: Channel, timeout: float, ahead: bytes = b""
    ) -> None:
        self._connection = connection
        self._channel = channel
        self._readers = 0
        self._closing = False
        self._ahead = ahead
        channel.settimeout(timeout)

    @property
    def is_open(self) -> bool:
        """Whether the far side still listens and has nothing unread waiting: then it can carry a new request."""
        channel = self._channel
        quiet = not (self._ahead or channel.closed or channel.eof_received or channel.recv_ready())
        return quiet and self._connection.is_alive

    def settimeout(self, timeout: float | None) -> None:
        """Seconds each following read or write may take."""
        self._channel.settimeout(timeout)

    def gettimeout(self) -> float | None:
        """The time limit in seconds."""
        return self._channel.gettimeout()

    def recv(self, size: int) -> bytes:
        """Up to `size` bytes; empty when the far side has ended. Raises TimedOut, Unreachable."""
        channel = self._channel
        data: bytes
        if self._ahead:
            data, self._ahead = self._ahead[:size], self._ahead[size:]
            return data
        timeout = channel.gettimeout()
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            channel.bell.clear()
            # Both outputs share one window: what is not read of one would stop the other.
            while channel.recv_stderr_ready():
                channel.recv_stderr(65536)
            if channel.recv_ready() or channel.eof_received or channel.closed:
                data = channel.recv(size)
                break
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                self._connection.close()
                raise TimedOut
            channel.bell.wait(remaining)
        # A channel that ended without EOF in either direction did not end by itself: its connection broke.
        if not data and channel.closed and not (channel.eof_received or channel.eof_sent or self._closing):
            self._connection.close()
            raise Unreachable(code="lost")
        return data

    def recv_into(self, buffer: Any) -> int:
        """Like `recv`, into a buffer; what `socket.SocketIO` calls."""
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes) -> None:
        """Sends everything. Raises TimedOut, Unreachable, or BrokenPipeError when only this channel has ended."""
        try:
            self._channel.sendall(data)
        except TimeoutError:
            self._connection.close()
            raise TimedOut from None
        except (OSError, EOFError, paramiko.SSHException):
            if self._connection.is_alive:
                raise BrokenPipeError("channel closed") from None
            raise Unreachable(code="lost") from None

    def makefile(self, mode: str = "rb", buffering: int | None = None) -> io.BufferedReader:
        """A buffered reader; the channel stays open until the reader is closed too, as with a real socket."""
        self._readers += 1
        return io.BufferedReader(socket.SocketIO(self, "rb"))  # type: ignore[arg-type]

    def _decref_socketios(self) -> None:
        self._readers -= 1
        if self._closing and self._readers <= 0:
            self._close_channel()

    def _close_channel(self) -> None:
        # One whose connection is gone is closed already.
        with suppress(EOFError, OSError):
            self._channel.close()

    def shutdown(self, how: int) -> None:
        """Ends one or both directions, as of a socket."""
        self._channel.shutdown(how)

    def close(self) -> None:
        """Closes the channel once no reader made from it is open."""
        self._closing = True
        if self._readers <= 0:
            self._close_channel()
