"""The encrypted transport: paramiko's, with what it lacks."""

import logging
import socket
import threading
import time
from collections.abc import Callable

import paramiko
from django.utils.translation import gettext_lazy as _
from paramiko.common import cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST
from paramiko.ssh_exception import IncompatiblePeer

from fleet.ssh.errors import ForwardingRefused, TimedOut, Unreachable
from fleet.ssh.keys import HostKey

# paramiko writes a traceback for every host that is away, and channel contents when told to: what matters reaches the
# caller as an exception, so its own log stays silent.
_paramiko_log = logging.getLogger("paramiko")
_paramiko_log.addHandler(logging.NullHandler())
_paramiko_log.propagate = False

SILENCE_MILLISECONDS = 20_000
"""The kernel ends a connection whose sent bytes stay unacknowledged this long (TCP_USER_TIMEOUT)."""


class Transport(paramiko.Transport):
    """paramiko's transport with channels to unix sockets, one answer per channel open, and a ping with a time limit."""

    def __init__(self, sock: socket.socket, algorithms: tuple[str, ...]) -> None:
        super().__init__(sock)
        self._algorithms = algorithms
        self._refusals: dict[int, str] = {}
        self._answered = threading.Event()

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        # Certificates are left out: what is pinned is a plain key.
        return self._algorithms or self._preferred_keys  # type: ignore[attr-defined]

    def open(
        self, kind: str, timeout: float, payload: Callable[[paramiko.Message], object]
    ) -> paramiko.Channel:
        """A new channel of any kind. Raises TimedOut, Unreachable, or ForwardingRefused when the host says no."""
        with self.lock:
            number = self._next_channel()  # type: ignore[attr-defined]
            channel = paramiko.Channel(number)
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_OPEN)
            message.add_string(kind)
            message.add_int(number)
            message.add_int(self.default_window_size)
            message.add_int(self.default_max_packet_size)
            payload(message)
            self._channels.put(number, channel)  # type: ignore[attr-defined]
            self.channel_events[number] = opened = threading.Event()
            self.channels_seen[number] = True
            channel._set_transport(self)  # type: ignore[attr-defined]
            channel._set_window(self.default_window_size, self.default_max_packet_size)  # type: ignore[attr-defined]
        self._send_user_message(message)  # type: ignore[attr-defined]
        deadline = time.monotonic() + timeout
        while not opened.wait(0.2) and self.is_active():
            if time.monotonic() >= deadline:
                raise TimedOut
        if number in self._refusals:
            raise ForwardingRefused(detail=self._refusals.pop(number))
        if not channel.active or not self.is_active():
            detail = str(self.get_exception() or "")
            raise Unreachable(_("The connection to the server was lost."), code="lost", detail=detail)
        return channel

    def _parse_channel_open_failure(self, m: paramiko.Message) -> None:
        # paramiko keeps one exception for the whole transport, which two threads opening channels would mix up.
        number, reason, words = m.get_int(), m.get_int(), m.get_text()
        self._refusals[number] = f"{words} ({reason})"
        m.rewind()
        super()._parse_channel_open_failure(m)  # type: ignore[misc]

    def execute(self, channel: paramiko.Channel, command: str) -> None:
        """Asks for a command to be run, without waiting for the answer: paramiko's own call waits for ever, and a refusal
        closes the channel (`channel.event_ready` tells the two apart)."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(command)
        self._send_user_message(message)  # type: ignore[attr-defined]

    def ping(self, timeout: float) -> bool:
        """Whether the host answers within `timeout` seconds (a refusal is an answer; RFC 4254 section 4)."""
        self._answered.clear()
        message = paramiko.Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        self._send_user_message(message)  # type: ignore[attr-defined]
        return self._answered.wait(timeout)

    def _parse_request_success(self, m: paramiko.Message) -> None:
        self._answered.set()
        super()._parse_request_success(m)  # type: ignore[misc]

    def _parse_request_failure(self, m: paramiko.Message) -> None:
        self._answered.set()
        super()._parse_request_failure(m)  # type: ignore[misc]


def _dial(host: str, port: int, timeout: float) -> socket.socket:
    try:
        sock = socket.create_connection((host, port), timeout)
    except TimeoutError:
        raise TimedOut(_("%(host)s does not answer on port %(port)s."), host=host, port=port) from None
    except socket.gaierror as error:
        raise Unreachable(
            _("The name %(host)s is unknown."), code="unresolved", detail=str(error), host=host
        ) from None
    except ConnectionRefusedError as error:
        raise Unreachable(
            _("%(host)s refuses connections on port %(port)s: no SSH server listens there."),
            code="refused",
            detail=str(error),
            host=host,
            port=port,
        ) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(_("%(host)s cannot be reached."), detail=str(error), host=host) from None
    sock.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # else a request's body waits for an ACK, 40 ms
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)
    return sock


def greet(host: str, port: int, algorithms: tuple[str, ...], deadline: float) -> tuple[Transport, HostKey]:
    """An encrypted transport and the key that the host proved to hold. Raises IncompatiblePeer as it is."""
    transport = Transport(_dial(host, port, max(deadline - time.monotonic(), 0.1)), algorithms)
    remaining = max(deadline - time.monotonic(), 0.1)
    transport.banner_timeout = transport.handshake_timeout = remaining
    try:
        transport.start_client(timeout=remaining)
        if time.monotonic() >= deadline:
            raise TimedOut(_("%(host)s does not answer on port %(port)s."), host=host, port=port)
        key = transport.get_remote_server_key()
    except BaseException as error:
        transport.close()
        if isinstance(error, IncompatiblePeer | TimedOut):
            raise
        if not isinstance(error, paramiko.SSHException | EOFError | OSError):
            raise
        if time.monotonic() >= deadline:
            raise TimedOut(_("%(host)s does not answer on port %(port)s."), host=host, port=port) from None
        raise Unreachable(
            _("No SSH connection to %(host)s on port %(port)s: the greeting failed."),
            code="not_ssh",
            detail=str(error),
            host=host,
            port=port,
        ) from None
    return transport, HostKey(key.get_name(), key.get_base64())


def read_host_key(host: str, port: int = 22, timeout: float = 10.0) -> HostKey:
    """The key the host presents now (ed25519 where it has one), for a person to confirm. Raises Unreachable, TimedOut."""
    try:
        transport, key = greet(host, port, (), time.monotonic() + timeout)
    except IncompatiblePeer as error:
        raise Unreachable(
            _("No SSH connection to %(host)s on port %(port)s: the greeting failed."),
            code="not_ssh",
            detail=str(error),
            host=host,
            port=port,
        ) from None
    transport.close()
    return key
