"""One signed-in connection to a host, and what can be done over it."""

import math
import threading
import time
import weakref
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import paramiko

from fleet.ssh.errors import CommandFailed, ForwardingRefused, HostKeyChanged, TimedOut, Unreachable
from fleet.ssh.keys import HostKey
from fleet.ssh.private_keys import load_private_key
from fleet.ssh.shell import Marked, Tail, Wrapped, not_run
from fleet.ssh.sign_in import SignIn
from fleet.ssh.stream import ChannelStream
from fleet.ssh.transport import Channel, Transport, greet, leave, read_host_key

OUTPUT_LIMIT = 1024 * 1024
"""Bytes of each output stream that `Connection.run` keeps; a command that says more has failed."""
KEEPALIVE_SECONDS = 15
SETTLE_SECONDS = 1.0
"""How long `Connection.run` waits for the rest once it knows that the script has ended: what a login shell left in the
background may hold both outputs open for ever."""
SESSION_PAUSE = 0.05
SESSION_SECONDS = 3.0
"""How long a host may count a command that has ended before it takes the next (MaxSessions)."""


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


class Keeper(Protocol):
    """Somebody who keeps commands of a connection running for later use."""

    def release_idle(self) -> None:
        """End those that nobody uses now."""


class Connection:
    """One signed-in SSH connection. Threads may share it; `close` may be called by any of them, at any time.

    It stands since `opened_at` (`time.monotonic`), and took `opening_seconds` to connect and sign in.
    """

    def __init__(self, endpoint: Endpoint, transport: Transport) -> None:
        self.endpoint = endpoint
        self._transport = transport
        self.used_at = self.opened_at = time.monotonic()
        self.opening_seconds: float | None = None
        # What was asked of the host on this connection and is not asked again at once: when, and the answer.
        self._known: dict[Hashable, tuple[float, Any]] = {}
        self._lock = threading.Lock()
        self._keepers: weakref.WeakSet[Keeper] = weakref.WeakSet()
        self._sessions: weakref.WeakSet[Channel] = weakref.WeakSet()

    @classmethod
    def open(cls, endpoint: Endpoint, timeout: float = 10.0) -> "Connection":
        """Connects, checks the pinned key and signs in, all within `timeout` seconds.

        Raises Unreachable, TimedOut, HostKeyChanged, AuthenticationFailed; ValueError when `host_key` is no key line.
        """
        begun = time.monotonic()
        deadline = begun + timeout
        pinned = HostKey.from_line(endpoint.host_key)
        key = load_private_key(endpoint.private_key) if endpoint.private_key else None
        sign_in = SignIn(endpoint.user, key, endpoint.password)
        while True:
            transport = cls._greet(endpoint, pinned, deadline)
            try:
                is_signed_in = sign_in.run(transport, deadline)
            except (paramiko.SSHException, EOFError, OSError) as error:
                transport.close()
                raise Unreachable(code="lost_at_sign_in", detail=transport.farewell or str(error)) from None
            except BaseException:
                transport.close()
                raise
            if is_signed_in:
                transport.be_quiet(KEEPALIVE_SECONDS)
                opened = cls(endpoint, transport)
                opened.opening_seconds = opened.opened_at - begun
                return opened
            leave(transport)

    @staticmethod
    def _greet(endpoint: Endpoint, pinned: HostKey, deadline: float) -> Transport:
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
        return transport

    def remember(self, what: Hashable, answer: Any) -> None:
        """Keep an answer of the host's for `recall`."""
        self._known[what] = (time.monotonic(), answer)

    def recall(self, what: Hashable, seconds: float) -> Any:
        """The answer that was kept under `what` in the last `seconds`; None when there is none."""
        at, answer = self._known.get(what, (-math.inf, None))
        return answer if time.monotonic() - at <= seconds else None

    def forget(self) -> None:
        """Ask the host anew for all that it has told."""
        self._known.clear()

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

    @property
    def server_program(self) -> str:
        """What the SSH server calls itself, such as `dropbear_2022.83`."""
        return str(self._transport.remote_version).split("-", 2)[-1][:100]

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
    ) -> Channel:
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

    def add_keeper(self, keeper: Keeper) -> None:
        """Have `keeper` asked to end commands that nobody uses, where the host allows no more of them."""
        with self._lock:
            self._keepers.add(keeper)

    def open_session_command(self, command: str, timeout: float = 10.0) -> ChannelStream:
        """A stream to a command's input and output (sshd allows ten at a time), from the command's first byte on, whatever
        the login shell prints before.

        Raises CommandFailed (session_refused, too_few_sessions, shell_reads_input, or why nothing was run), TimedOut, Unreachable.
        """
        deadline = time.monotonic() + timeout
        wrapped = Wrapped(f"exec {command}", stream=True)
        channel = self._start(wrapped, deadline)
        out, err = wrapped.output(self._transport.default_window_size), Tail()
        try:
            begun = self._read(channel, out, err, time.monotonic() + timeout / 2, lambda: out.has_begun)
            if not begun and not channel.closed and not channel.eof_received:
                # Whoever reads in vain goes on at the end of the input.
                channel.shutdown_write()
                if self._read(channel, out, err, deadline, lambda: out.has_begun):
                    raise CommandFailed(code="shell_reads_input", detail=_words(out, err))
                if not channel.closed and not channel.eof_received:
                    self.close()
                    raise TimedOut(detail=_words(out, err))
            if not out.has_begun:
                status = self._status(channel, min(deadline, time.monotonic() + SETTLE_SECONDS))
                raise not_run(out.before, err.before, -1 if status is None else status)
        except BaseException:
            channel.close()
            raise
        self.used_at = time.monotonic()
        return ChannelStream(self, channel, timeout, bytes(out.text))

    def _start(self, wrapped: Wrapped, deadline: float) -> Channel:
        """Have the host run a command. Where it allows only so many at a time, wait for others to end."""
        self._await_closed(min(deadline, time.monotonic() + SETTLE_SECONDS))
        patient_until = time.monotonic() + SESSION_SECONDS
        while True:
            try:
                remaining = max(deadline - time.monotonic(), 0.1)
                channel = self._open_channel("session", remaining, lambda _message: None)
                break
            except ForwardingRefused as error:
                with self._lock:
                    keepers, sessions = list(self._keepers), list(self._sessions)
                for keeper in keepers:
                    keeper.release_idle()
                is_ours = any(not session.closed for session in sessions)
                if time.monotonic() >= (deadline if is_ours else min(deadline, patient_until)):
                    code = "too_few_sessions" if is_ours else "session_refused"
                    raise CommandFailed(code=code, detail=error.detail) from None
            time.sleep(SESSION_PAUSE)
        with self._lock:
            self._sessions.add(channel)
        self._transport.execute(channel, wrapped.command)
        return channel

    def _await_closed(self, deadline: float) -> None:
        """Wait until the host has closed what we closed: before, it may count that, and dropbear 2022 mixes up the two."""
        with self._lock:
            closing = [session for session in self._sessions if session.closed and not session.over.is_set()]
        for session in closing:
            while self.is_alive and time.monotonic() < deadline and not session.over.wait(0.05):
                pass

    def run(self, script: str, timeout: float = 30.0, *, check: bool = False) -> CommandResult:
        """Runs a POSIX shell script and waits for its end, `timeout` seconds in all. What the user's login shell prints by
        itself is left out. The script has no input, and must hold no secret: the host shows command lines to all its users.

        With `check`, a status other than 0 raises CommandFailed. Raises also TimedOut, Unreachable, and CommandFailed
        when the output passes `OUTPUT_LIMIT` or the host did not run it: its words are the error's `detail`.
        """
        deadline = time.monotonic() + timeout
        wrapped = Wrapped(script)
        channel = self._start(wrapped, deadline)
        out, err = wrapped.output(OUTPUT_LIMIT), wrapped.errors(OUTPUT_LIMIT)
        try:
            # Where that fails, it has ended: what it says and its status tell the rest.
            with suppress(EOFError, OSError, paramiko.SSHException):
                channel.shutdown_write()
            status = self._wait(channel, out, err, deadline)
        except TimeoutError:
            self.close()
            raise TimedOut(detail=_words(out, err)) from None
        finally:
            channel.close()
        self.used_at = time.monotonic()
        if not out.has_begun:
            raise not_run(out.before, err.before, status)
        result = CommandResult(status, bytes(out.text), bytes(err.text))
        if check and result.status != 0:
            words = (result.stderr or result.stdout).decode(errors="replace")
            raise CommandFailed(detail=f"{words} (status {result.status})")
        return result

    def _wait(self, channel: Channel, out: Marked, err: Marked, deadline: float) -> int:
        """Read until the script's end, and return its status. Raises TimeoutError."""

        def is_known() -> bool:
            return out.status is not None or channel.status_event.is_set()

        def is_all() -> bool:
            return channel.status_event.is_set() and None not in (out.status, err.status)

        self._read(channel, out, err, deadline, is_known)
        # The rest is under way: the other mark, and the status, which may come before the last of the output.
        # As long as more of the script's own comes, that is waited for; what comes after its marks is not.
        while True:
            unfinished = [output for output in (out, err) if output.status is None]
            taken = sum(output.taken for output in unfinished)
            settled = min(deadline, time.monotonic() + SETTLE_SECONDS)
            is_whole = self._read(channel, out, err, settled, is_all)
            has_more = sum(output.taken for output in unfinished) > taken
            if is_whole or not has_more or time.monotonic() >= deadline:
                break
        if out.status is not None:
            return out.status
        status = self._status(channel, deadline)
        if status is None:
            raise TimeoutError
        if status == -1:
            if not channel.event_ready:
                # A connection that breaks closes its channels a moment before it says so.
                self._transport.join(0.2)
                if self.is_alive:
                    raise CommandFailed(code="session_refused")
            if not self.is_alive:
                raise Unreachable(code="lost")
        return status

    @staticmethod
    def _status(channel: Channel, deadline: float) -> int | None:
        """The status that the host tells, -1 for a command that has none; None when it tells nothing until the deadline."""
        if channel.status_event.wait(max(deadline - time.monotonic(), 0.1)):
            return int(channel.exit_status)
        return None

    @staticmethod
    def _read(
        channel: Channel, out: Marked, err: Marked, deadline: float, is_enough: Callable[[], bool]
    ) -> bool:
        """Take what comes until it is enough, both outputs have ended or the deadline passes; whether it was enough."""
        while True:
            channel.bell.clear()
            has_ended = bool(channel.eof_received or channel.closed)
            while channel.recv_ready() or channel.recv_stderr_ready():
                if channel.recv_ready():
                    out.feed(channel.recv(65536))
                if channel.recv_stderr_ready():
                    err.feed(channel.recv_stderr(65536))
                # Not only when nothing more is there: some hosts never stop.
                if time.monotonic() >= deadline or is_enough():
                    break
            if is_enough():
                return True
            remaining = deadline - time.monotonic()
            if has_ended or remaining <= 0:
                return False
            channel.bell.wait(remaining)


def _words(out: Marked, err: Marked) -> str:
    """What a host said that did not do what it was asked to."""
    return b" ".join(bytes(output.text) or output.before for output in (err, out)).decode(errors="replace")
