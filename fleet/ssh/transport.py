"""The encrypted transport: paramiko's, with what it lacks."""

import logging
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN, cMSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST
from paramiko.ssh_exception import IncompatiblePeer

from fleet.ssh.errors import ForwardingRefused, RemoteError, TimedOut, Unreachable
from fleet.ssh.keys import HostKey

# paramiko writes a traceback for every host that is away, and channel contents when told to: what matters reaches the
# caller as an exception, so its own log stays silent.
_paramiko_log = logging.getLogger("paramiko")
_paramiko_log.addHandler(logging.NullHandler())
_paramiko_log.propagate = False

SILENCE_MILLISECONDS = 10_000
"""The kernel ends a connection whose sent bytes stay unacknowledged this long (TCP_USER_TIMEOUT)."""

QUIET_SECONDS = 5.0
"""A signed-in transport that hears nothing looks so often whether it is to say a sign of life. paramiko's own tenth of a second is, with
hundreds of connections, most of what a panel does while nothing happens."""

# Seconds to wait before a server that turns connections away for the moment is tried again; each is varied by a third, so
# that several processes of a panel do not meet again.
TURNED_AWAY_PAUSES = (0.3, 0.7, 1.5)
# OpenSSH's words before its version line when it takes no connection now (sshd.c: MaxStartups, PerSourcePenalties).
_TURNED_AWAY = ("exceeded maxstartups", "not allowed at this time")
_UNKNOWN_CHANNEL = 3  # SSH_OPEN_UNKNOWN_CHANNEL_TYPE, RFC 4254 section 5.1
_NOTHING_IN_COMMON = (
    ("kex algorithm", "no_common_kex"),
    ("host key", "no_common_host_key"),
    ("ciphers", "no_common_cipher"),
    ("macs", "no_common_mac"),
    ("compression", "no_common_compression"),
    ("version", "no_common_version"),
)


class Channel(paramiko.Channel):
    """A channel whose `bell` rings whenever something came for it, or it has ended; `over` once the host has closed it too."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.bell = threading.Event()
        self.over = threading.Event()

    def close(self) -> None:
        """Close it; the transport keeps it until the host has done the same."""
        transport = self.transport
        assert transport is None or isinstance(transport, Transport)
        if transport is not None and self.active:
            transport.closing.add(self)
        super().close()
        if transport is not None and self.over.is_set():
            transport.closing.discard(self)

    def _handle_close(self, message: paramiko.Message) -> None:
        super()._handle_close(message)  # type: ignore[misc]
        self.over.set()
        if isinstance(self.transport, Transport):
            self.transport.closing.discard(self)

    def _set_closed(self) -> None:
        super()._set_closed()  # type: ignore[misc]
        self.bell.set()


def _ringing(name: str) -> Callable[[Channel, paramiko.Message], None]:
    def handle_and_ring(channel: Channel, message: paramiko.Message) -> None:
        getattr(channel, name)(message)
        channel.bell.set()

    return handle_and_ring


class Transport(paramiko.Transport):
    """paramiko's transport with channels to unix sockets, one answer per channel open, a ping with a time limit, and the host's words.

    `said` holds the lines before its version line (RFC 4253 section 4.2), `offer` its algorithms by paramiko's names,
    `farewell` why it disconnected.
    """

    _channel_handler_table = {
        number: _ringing(handle.__name__)
        for number, handle in paramiko.Transport._channel_handler_table.items()  # type: ignore[attr-defined]
    }

    def __init__(self, sock: socket.socket, algorithms: tuple[str, ...]) -> None:
        super().__init__(sock)
        self._algorithms = algorithms
        self._refusals: dict[int, tuple[int, str]] = {}
        self._answered = threading.Event()
        self.closing: set[Channel] = set()
        self.said: list[str] = []
        self.offer: dict[str, list[str]] = {}
        self.farewell = ""

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        # Certificates are left out: what is pinned is a plain key.
        return self._algorithms or self._preferred_keys  # type: ignore[attr-defined]

    def _check_banner(self) -> None:
        read = self.packetizer.readline

        def listen(timeout: float) -> str:
            line: str = read(timeout)
            if not line.startswith("SSH-") and len(self.said) < 5:
                self.said.append(line.strip()[:200])
            return line

        self.packetizer.readline = listen  # type: ignore[method-assign]
        try:
            super()._check_banner()  # type: ignore[misc]
        finally:
            self.packetizer.readline = read  # type: ignore[method-assign]

    def _really_parse_kex_init(self, m: paramiko.Message, ignore_first_byte: bool = False) -> dict[str, Any]:
        parsed: dict[str, Any] = super()._really_parse_kex_init(m, ignore_first_byte)  # type: ignore[misc]
        if not ignore_first_byte:  # else it is what we offered ourselves
            self.offer = parsed
        return parsed

    def _parse_disconnect(self, m: paramiko.Message) -> None:
        code, words = m.get_int(), m.get_text()
        self.farewell = f"{words} ({code})"
        m.rewind()
        super()._parse_disconnect(m)  # type: ignore[misc]

    def open(self, kind: str, timeout: float, payload: Callable[[paramiko.Message], object]) -> Channel:
        """A new channel of any kind. Raises TimedOut, Unreachable, or ForwardingRefused when the host says no."""
        with self.lock:
            number = self._next_channel()  # type: ignore[attr-defined]
            channel = Channel(number)
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
            reason, words = self._refusals.pop(number)
            raise ForwardingRefused(detail=f"{words} ({reason})", is_unknown=reason == _UNKNOWN_CHANNEL)
        if not channel.active or not self.is_active():
            detail = str(self.get_exception() or "")
            raise Unreachable(code="lost", detail=detail)
        return channel

    def _parse_channel_open_failure(self, m: paramiko.Message) -> None:
        # paramiko keeps one exception for the whole transport, which two threads opening channels would mix up.
        number, reason, words = m.get_int(), m.get_int(), m.get_text()
        self._refusals[number] = reason, words
        m.rewind()
        super()._parse_channel_open_failure(m)  # type: ignore[misc]

    def execute(self, channel: Channel, command: str) -> None:
        """Asks for a command to be run, without waiting for the answer: paramiko's own call waits for ever, and a refusal
        closes the channel (`channel.event_ready` tells the two apart)."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(channel.remote_chanid)
        message.add_string("exec")
        message.add_boolean(True)
        message.add_string(command)
        self._send_user_message(message)  # type: ignore[attr-defined]

    def be_quiet(self, keepalive: int) -> None:
        """From now on wait without looking up all the time, and give a sign of life every `keepalive` seconds."""
        self.set_keepalive(keepalive)
        self.sock.settimeout(QUIET_SECONDS)

    def close(self) -> None:
        """End the connection at once, whatever its threads wait for."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        super().close()

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
        raise TimedOut(code="silent", host=host, port=port) from None
    except socket.gaierror as error:
        raise Unreachable(code="unresolved", detail=str(error), host=host) from None
    except ConnectionRefusedError as error:
        raise Unreachable(code="refused", detail=str(error), host=host, port=port) from None
    except (OSError, UnicodeError) as error:
        raise Unreachable(code="no_route", detail=str(error), host=host) from None
    sock.setsockopt(
        socket.IPPROTO_TCP, socket.TCP_NODELAY, 1
    )  # else a request's body waits for an ACK, 40 ms
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SILENCE_MILLISECONDS)
    return sock


def greet(host: str, port: int, algorithms: tuple[str, ...], deadline: float) -> tuple[Transport, HostKey]:
    """An encrypted transport and the key that the host proved to hold. Raises Unreachable, TimedOut.

    A server that turns connections away for the moment is tried again: several of the panel's processes may come together.
    """
    for pause in TURNED_AWAY_PAUSES:
        try:
            return _greet_once(host, port, algorithms, deadline)
        except Unreachable as error:
            pause *= random.uniform(0.67, 1.33)  # noqa: S311 — no secret
            if error.code not in {"turned_away", "closed"} or time.monotonic() + pause >= deadline:
                raise
        time.sleep(pause)
    return _greet_once(host, port, algorithms, deadline)


def _greet_once(
    host: str, port: int, algorithms: tuple[str, ...], deadline: float
) -> tuple[Transport, HostKey]:
    transport = Transport(_dial(host, port, max(deadline - time.monotonic(), 0.1)), algorithms)
    remaining = max(deadline - time.monotonic(), 0.1)
    transport.banner_timeout = transport.handshake_timeout = remaining
    try:
        transport.start_client(timeout=remaining)
        if time.monotonic() >= deadline:
            raise TimedOut(code="silent", host=host, port=port)
        key = transport.get_remote_server_key()
    except BaseException as error:
        transport.close()
        if isinstance(error, RemoteError) or not isinstance(
            error, paramiko.SSHException | EOFError | OSError
        ):
            raise
        if time.monotonic() >= deadline:
            raise TimedOut(code="silent", host=host, port=port) from None
        code, detail = _why_not(transport, error)
        raise Unreachable(code=code, detail=detail, host=host, port=port) from None
    return transport, HostKey(key.get_name(), key.get_base64())


def _why_not(transport: Transport, error: Exception) -> tuple[str, str]:
    """The code and the host's words of a greeting that failed."""
    if isinstance(error, IncompatiblePeer):
        words = str(error).lower()
        code = next((code for fragment, code in _NOTHING_IN_COMMON if fragment in words), "greeting")
        offered = {
            "no_common_kex": "kex_algo_list",
            "no_common_host_key": "server_key_algo_list",
            "no_common_cipher": "server_encrypt_algo_list",
            "no_common_mac": "server_mac_algo_list",
        }.get(code)
        names = ", ".join(transport.offer.get(offered, [])) if offered else ""
        return code, names or str(error)
    if transport.remote_version:
        return "greeting", transport.farewell or str(error)
    said = " ".join(transport.said)
    if any(words in said.lower() for words in _TURNED_AWAY):
        return "turned_away", said
    return ("not_ssh", said) if said else ("closed", "")


def leave(transport: Transport) -> None:
    """Ends a connection on which nobody signed in, and waits a second at most until the host has ended it too.

    A host counts such connections (MaxStartups): without the wait the next one might be turned away because of it.
    """
    with suppress(OSError):
        transport.sock.shutdown(socket.SHUT_WR)
        transport.join(1.0)
        time.sleep(0.1)  # the process that counts hears of it after the one that ended the connection
    transport.close()


def read_host_key(host: str, port: int = 22, timeout: float = 10.0) -> HostKey:
    """The key the host presents now (ed25519 where it has one), for a person to confirm. Raises Unreachable, TimedOut."""
    transport, key = greet(host, port, (), time.monotonic() + timeout)
    leave(transport)
    return key
