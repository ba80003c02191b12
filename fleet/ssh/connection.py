"""One signed-in connection to a host, and what can be done over it."""

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import paramiko
from paramiko.ssh_exception import BadAuthenticationType

from fleet.ssh.errors import (
    AuthenticationFailed,
    CommandFailed,
    ForwardingRefused,
    HostKeyChanged,
    TimedOut,
    Unreachable,
)
from fleet.ssh.keys import HostKey, load_private_key
from fleet.ssh.shell import BEGIN, command_line, not_run, read_marked, stream_line
from fleet.ssh.stream import ChannelStream
from fleet.ssh.transport import Transport, greet, leave, read_host_key

OUTPUT_LIMIT = 1024 * 1024
"""Bytes of each output stream that `Connection.run` keeps; a command that says more has failed."""
NOISE_LIMIT = 256 * 1024
"""Bytes of each stream that a login shell may print around that."""
STDIN_LIMIT = 1024 * 1024
"""Bytes `Connection.run` takes: it sends all input before it reads, so the input must fit SSH's channel window."""
KEEPALIVE_SECONDS = 15


@dataclass(frozen=True)
class Endpoint:
    """Where and how to sign in. `host_key` is the pinned key's line; `private_key` PEM or OpenSSH text without a
    passphrase; the key is tried first, then the password."""

    host: str
    port: int
    user: str
    host_key: str
    private_key: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `status` is -1 when a signal ended it."""

    status: int
    stdout: bytes
    stderr: bytes


class _Bell(threading.Event):
    """Rings when either output of a command has something, or has ended.

    Not `channel.fileno()`: the pipe behind it is closed together with the channel, and the transport's thread may still
    write to its number, which breaks the connection or reaches whatever file has that number by then.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rung = threading.Event()

    def set(self) -> None:
        self.rung.set()

    def clear(self) -> None:
        """paramiko clears when one of the outputs is empty; the other may not be."""


class _Tries:
    """What a server said to each way of signing in."""

    def __init__(self) -> None:
        self._given: list[str] = []
        self._refused: dict[str, str] = {}
        self._not_on_offer: set[str] = set()
        self._wanted: list[str] = []

    def next(self, possible: Iterable[str]) -> str:
        """The next one to try; empty when there is none."""
        tried = {*self._given, *self._refused, *self._not_on_offer}
        return next((kind for kind in possible if kind not in tried), "")

    def accepted(self, kind: str, wanted: list[str]) -> None:
        """The server takes it, and wants more of these."""
        self._given.append(kind)
        self._wanted = wanted
        self._not_on_offer.clear()

    def failed(self, kind: str, error: Exception) -> None:
        """The server refused it, or does not take it at all."""
        if isinstance(error, BadAuthenticationType):
            self._not_on_offer.add(kind)
            self._wanted = list(error.allowed_types)
        else:
            self._refused[kind] = str(error)

    def error(self) -> AuthenticationFailed:
        """Why the sign-in failed."""
        detail = "; ".join(self._refused.values())
        methods = ", ".join(self._wanted)
        if self._given:
            other = {"publickey": "password", "password": "publickey"}[self._given[-1]]
            if other in self._refused:
                code = "password_refused" if other == "password" else "key_refused"
                return AuthenticationFailed(code=code, detail=detail)
            if other in self._wanted or (other == "password" and "keyboard-interactive" in self._wanted):
                return AuthenticationFailed(code="key_and_password", detail=methods)
            return AuthenticationFailed(code="more_wanted", methods=methods)
        if self._not_on_offer and not self._refused:
            code = "password_not_taken" if "password" in self._not_on_offer else "key_not_taken"
            return AuthenticationFailed(code=code, methods=methods)
        return AuthenticationFailed(detail=detail)


class Connection:
    """One signed-in SSH connection. Threads may share it; `close` may be called by any of them, at any time."""

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self.used_at = time.monotonic()
        # By Docker socket: when who the machine is was read on this connection, and what was read.
        self.machines: dict[str, tuple[float, Any]] = {}

    @classmethod
    def open(cls, endpoint: Endpoint, timeout: float = 10.0) -> "Connection":
        """Connects, checks the pinned key and signs in, all within `timeout` seconds.

        Raises Unreachable, TimedOut, HostKeyChanged, AuthenticationFailed; ValueError when `host_key` is no key line.
        """
        deadline = time.monotonic() + timeout
        pinned = HostKey.from_line(endpoint.host_key)
        key = load_private_key(endpoint.private_key) if endpoint.private_key else None
        try:
            transport, presented = greet(endpoint.host, endpoint.port, pinned.algorithms, deadline)
        except Unreachable as error:
            if error.code != "no_common_host_key":
                raise
            # Most likely the pinned kind of key is gone, so ask which one there is instead.
            presented = read_host_key(endpoint.host, endpoint.port, max(deadline - time.monotonic(), 1.0))
            raise HostKeyChanged(endpoint.host, pinned.fingerprint, presented.fingerprint) from None
        if presented != pinned:
            leave(transport)
            raise HostKeyChanged(endpoint.host, pinned.fingerprint, presented.fingerprint)
        try:
            cls._sign_in(transport, endpoint, key, deadline)
        except BaseException:
            transport.close()
            raise
        transport.set_keepalive(KEEPALIVE_SECONDS)
        return cls(endpoint, transport)

    @staticmethod
    def _sign_in(
        transport: Transport, endpoint: Endpoint, key: paramiko.PKey | None, deadline: float
    ) -> None:
        attempts: dict[str, Callable[[], list[str]]] = {}
        if key is not None:
            attempts["publickey"] = lambda: transport.auth_publickey(endpoint.user, key)
        if endpoint.password:
            attempts["password"] = lambda: transport.auth_password(endpoint.user, endpoint.password)
        tries = _Tries()
        # A method that was accepted may leave another one wanted (AuthenticationMethods), and one that was not on offer
        # may be so afterwards.
        while kind := tries.next(attempts):
            transport.auth_timeout = max(deadline - time.monotonic(), 0.1)
            try:
                tries.accepted(kind, attempts[kind]())
            except (paramiko.SSHException, EOFError, OSError) as error:
                if time.monotonic() >= deadline:
                    raise TimedOut from None
                if not transport.is_active():
                    raise Unreachable(code="lost_at_sign_in", detail=transport.farewell) from None
                tries.failed(kind, error)
            if transport.is_authenticated():
                return
        raise tries.error()

    @property
    def is_alive(self) -> bool:
        """Whether the connection still stands as far as this side knows; `ping` asks the other side."""
        return self._transport.is_active()

    @property
    def peer_address(self) -> str:
        """The IP address at which the server was reached; "" once the connection is gone."""
        try:
            return str(self._transport.sock.getpeername()[0])
        except OSError:
            return ""

    def ping(self, timeout: float = 3.0) -> bool:
        """Whether the host answers within `timeout` seconds. If not, the connection is dropped."""
        if self.is_alive and self._transport.ping(timeout):
            self.used_at = time.monotonic()
            return True
        self.close()
        return False

    def close(self) -> None:
        """Drops the connection and all its channels. Never waits for the host."""
        self._transport.close()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open_channel(
        self, kind: str, timeout: float, payload: Callable[[paramiko.Message], object]
    ) -> paramiko.Channel:
        try:
            channel = self._transport.open(kind, timeout, payload)
        except (TimedOut, Unreachable):
            self.close()
            raise
        except (paramiko.SSHException, EOFError, OSError) as error:
            self.close()
            raise Unreachable(code="lost", detail=str(error)) from None
        self.used_at = time.monotonic()
        return channel

    def open_unix(self, path: str, timeout: float = 10.0) -> ChannelStream:
        """A stream to a unix socket on the host (`direct-streamlocal@openssh.com`, OpenSSH's PROTOCOL section 2.4).

        `timeout` limits the opening and then each read and write. Raises ForwardingRefused, TimedOut, Unreachable.
        """

        def payload(message: paramiko.Message) -> None:
            message.add_string(path)
            message.add_string("")
            message.add_int(0)

        return ChannelStream(
            self, self._open_channel("direct-streamlocal@openssh.com", timeout, payload), timeout
        )

    def open_session_command(self, command: str, timeout: float = 10.0) -> ChannelStream:
        """A stream to a command's input and output (sshd allows ten at a time), from the command's first byte on, whatever
        the login shell prints before. Raises CommandFailed (session_refused, or why nothing was run), TimedOut, Unreachable.
        """
        stream = ChannelStream(self, self._start(stream_line(f"exec {command}"), timeout), timeout)
        if not stream.skip_to(BEGIN):
            status = stream.read_status(timeout)
            stream.close()
            raise not_run(stream.skipped, stream.read_stderr().encode(), status)
        return stream

    def _start(self, command: str, timeout: float) -> paramiko.Channel:
        try:
            channel = self._open_channel("session", timeout, lambda _message: None)
        except ForwardingRefused as error:
            raise CommandFailed(code="session_refused", detail=error.detail) from None
        self._transport.execute(channel, command)
        return channel

    def run(
        self, script: str, stdin: bytes = b"", timeout: float = 30.0, *, check: bool = False
    ) -> CommandResult:
        """Runs a POSIX shell script and waits for its end, `timeout` seconds in all. What the user's login shell prints by
        itself is left out.

        Secrets belong in `stdin` (1 MiB at most), never in the script: the host shows command lines to all its users.
        With `check`, a status other than 0 raises CommandFailed. Raises also TimedOut, Unreachable, and CommandFailed
        when the output passes `OUTPUT_LIMIT` or the host did not run it: its words are the error's `detail`.
        """
        if len(stdin) > STDIN_LIMIT:
            raise ValueError("input too long")
        deadline = time.monotonic() + timeout
        channel = self._start(command_line(script), timeout)
        out, err = bytearray(), bytearray()
        try:
            status = self._collect(channel, stdin, deadline, out, err)
        except TimeoutError:
            self.close()
            raise TimedOut(detail=(err + out).decode(errors="replace")) from None
        finally:
            channel.close()
        self.used_at = time.monotonic()
        result = CommandResult(status, *read_marked(bytes(out), bytes(err), status))
        if check and result.status != 0:
            words = (result.stderr or result.stdout).decode(errors="replace")
            raise CommandFailed(detail=f"{words} (status {result.status})")
        return result

    def _collect(
        self, channel: paramiko.Channel, stdin: bytes, deadline: float, out: bytearray, err: bytearray
    ) -> int:
        """Send the input, add what comes to both outputs, and return the status."""
        channel.settimeout(max(deadline - time.monotonic(), 0.1))
        try:
            if stdin:
                channel.sendall(stdin)
            channel.shutdown_write()
        except (EOFError, paramiko.SSHException):
            pass  # ended before it read its input: what it says and its status tell the rest
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
        bell = _Bell()
        channel.in_buffer.set_event(bell)
        channel.in_stderr_buffer.set_event(bell)
        while True:
            bell.rung.clear()
            ended = bool(channel.eof_received or channel.closed)
            while channel.recv_ready():
                out += channel.recv(65536)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(65536)
            if max(len(out), len(err)) > OUTPUT_LIMIT + NOISE_LIMIT:
                raise CommandFailed(code="output_too_long")
            if ended:
                break
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            bell.rung.wait(remaining)
        if not channel.status_event.wait(max(deadline - time.monotonic(), 0.1)):
            raise TimeoutError
        if channel.exit_status == -1:
            if not channel.event_ready:
                self._transport.join(
                    0.2
                )  # a connection that breaks closes its channels a moment before it says so
                if self.is_alive:
                    raise CommandFailed(code="session_refused")
            if not self.is_alive:
                raise Unreachable(code="lost")
        return channel.exit_status
