"""The SSH side of one server: who may sign in, what a channel leads to."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import os
import shlex
import signal
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from derpmgmt.sandbox import http
from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.machine import Standing, facts, machine
from derpmgmt.sandbox.wire import Interface

DOCKER_SOCKET = "/var/run/docker.sock"
"""Where the Docker socket is in the eyes of whoever is connected to a server."""
USER = "root"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# What login shells say by themselves: of one whose .bashrc prints, of nologin, and sshd's own about an expired password.
_GREETING, _FAREWELL = b"Welcome to this server!\n3 updates can be applied.", b"Goodbye.\n"
_NOLOGIN = b"This account is currently not available.\n"
_EXPIRED = b"WARNING: Your password has expired.\nPassword change required but no TTY available.\n"
_NO_DAEMON = f"Cannot connect to the Docker daemon at unix://{DOCKER_SOCKET}. Is the docker daemon running?\n"


@dataclass(frozen=True)
class Doors:
    """What a server's SSH side needs of the server.

    ``serve_docker`` answers the Docker Engine API on a stream; ``docker_path`` is the socket that stands for
    ``DOCKER_SOCKET`` on this machine; ``folder`` is where commands run, with ``folder/bin`` before the usual programs; ``boot_id`` and ``up_since``
    (``time.monotonic``) are of its last start, from which ``read_standing`` counts the starts of the containers that it tells, with
    the server's own interface.
    """

    client_key: asyncssh.SSHKey
    password: str
    folder: Path
    docker_path: Path
    boot_id: str
    up_since: float
    faults: Callable[[], Faults]
    serve_docker: Callable[[http.Reader, http.Writer], Awaitable[None]]
    read_standing: Callable[[float], tuple[list[Standing], Interface]]


class SshServer(asyncssh.SSHServer):
    """One connection. ``joined`` and ``left`` are told when it begins and ends."""

    def __init__(
        self,
        doors: Doors,
        joined: Callable[[asyncssh.SSHServerConnection], None],
        left: Callable[[asyncssh.SSHServerConnection], None],
    ) -> None:
        self._doors = doors
        self._joined = joined
        self._left = left
        self._sessions = 0
        self._has_key = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._joined(conn)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left(self._connection)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return not self._has_key

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        is_right = username == USER and key.public_data == self._doors.client_key.public_data
        if is_right and self._doors.faults().wants_both:
            # Success of a part (RFC 4252 section 5.1), which asyncssh has no word for.
            self._has_key = True
            refuse = self._connection.send_userauth_failure

            def refuse_in_part(partial_success: bool) -> None:
                self._connection.send_userauth_failure = refuse  # type: ignore[method-assign]
                refuse(True)

            self._connection.send_userauth_failure = refuse_in_part  # type: ignore[method-assign]
            return False
        return is_right

    def password_auth_supported(self) -> bool:
        return self._has_key if self._doors.faults().wants_both else bool(self._doors.password)

    def validate_password(self, username: str, password: str) -> bool:
        return username == USER and hmac.compare_digest(password.encode(), self._doors.password.encode())

    def session_requested(self) -> Callable[..., Awaitable[None]]:
        if self._sessions >= self._doors.faults().max_sessions:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        self._sessions += 1
        return self._session

    def unix_connection_requested(self, dest_path: str) -> Callable[..., Awaitable[None]]:
        faults = self._doors.faults()
        # sshd gives one answer to all of this (serverloop.c, server_request_direct_streamlocal).
        if dest_path != DOCKER_SOCKET or self._is_refused(faults):
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_CONNECT_FAILED, "open failed")
        return self._serve_docker

    @staticmethod
    def _is_refused(faults: Faults) -> bool:
        return (
            faults.streamlocal_refused
            or faults.login_shell == "expired"
            or faults.docker in ("absent", "down")
        )

    async def _serve_docker(
        self, reader: asyncssh.SSHReader[bytes], writer: asyncssh.SSHWriter[bytes]
    ) -> None:
        with contextlib.suppress(asyncssh.Error):  # the connection was lost in the middle
            await self._doors.serve_docker(reader, writer)

    async def _session(
        self,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> None:
        channel = stdout.channel
        assert isinstance(channel, asyncssh.SSHServerChannel)
        command = channel.get_command()
        faults = self._doors.faults()
        try:
            if faults.login_shell == "expired":
                stderr.write(_EXPIRED)
                status = 1
            elif faults.login_shell == "nologin":
                stdout.write(_NOLOGIN)
                status = 1
            elif command is None:
                stderr.write(b"This server is a sandbox: it runs commands, no shells to type into.\n")
                status = 1
            else:
                if faults.login_shell == "prints":
                    stdout.write(_GREETING)
                    stderr.write(_GREETING)
                status = await self._obey(command, stdin, stdout, stderr)
                if faults.login_shell == "prints":
                    stdout.write(_FAREWELL)
            channel.exit(status)
        except (OSError, asyncssh.Error):
            channel.abort()
        finally:
            self._sessions -= 1

    async def _obey(
        self,
        command: str,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> int:
        """Run a command; two of the panel's scripts are not run but answered, with whatever it prints around them."""
        if "system dial-stdio" in command:
            around = await self._run_with(command, ":")
            stdout.write(around.stdout)
            stderr.write(around.stderr)
            return await self._dial_docker(stdin, stdout, stderr)
        told = self._told(command)
        if told:
            ended = await self._run_with(command, 'printf %s "$TOLD"', TOLD=told)
            stdout.write(ended.stdout)
            stderr.write(ended.stderr)
            return ended.returncode
        return await self._run(command, stdin, stdout, stderr)

    def _told(self, command: str) -> str:
        """The answer to one of the panel's questions about the machine; empty for another command."""
        doors = self._doors
        if "derpmgmt-facts" in command:
            standing, wire = doors.read_standing(doors.up_since)
            return facts(
                doors.folder,
                doors.boot_id,
                doors.up_since,
                doors.faults(),
                self._connection_words(),
                standing,
                wire,
            )
        if "derpmgmt-machine" in command:
            return machine(doors.boot_id, doors.up_since)
        return ""

    async def _run_with(
        self, command: str, script: str, **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `sh -c AROUND sh SCRIPT…` with another script, which finds more in its environment."""
        words = shlex.split(command)
        return await asyncio.to_thread(
            subprocess.run,
            [*words[:4], script],
            env=os.environ | environment,
            capture_output=True,
            check=False,
        )

    def _connection_words(self) -> str:
        """What sshd puts into SSH_CONNECTION: the client's address and port, then the server's."""
        ends = (self._connection.get_extra_info("peername"), self._connection.get_extra_info("sockname"))
        return " ".join(f"{end[0]} {end[1]}" for end in ends)

    async def _dial_docker(
        self,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> int:
        docker = self._doors.faults().docker
        if docker == "absent":
            stderr.write(b"sh: 1: docker: not found\n")
            return 127
        if docker == "down":
            stderr.write(_NO_DAEMON.encode())
            return 1
        await self._doors.serve_docker(stdin, stdout)
        return 0

    async def _run(
        self,
        command: str,
        stdin: asyncssh.SSHReader[bytes],
        stdout: asyncssh.SSHWriter[bytes],
        stderr: asyncssh.SSHWriter[bytes],
    ) -> int:
        """Run a command on this machine, as the sandbox's own user, with an environment like sshd's.

        It begins when all its input is there, and what it says arrives when it has ended.
        """
        doors = self._doors
        given = await stdin.read()
        process = subprocess.Popen(
            ["sh", "-c", command.replace(DOCKER_SOCKET, str(doors.docker_path))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=doors.folder,
            env={
                "PATH": f"{doors.folder / 'bin'}:{_PATH}",
                "HOME": str(doors.folder),
                "USER": USER,
                "SHELL": "/bin/sh",
            },
            start_new_session=True,
        )
        try:
            # In a thread: what asyncio keeps of a process outlives a loop that ends in the middle.
            out, err = await asyncio.to_thread(process.communicate, given)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        stdout.write(out)
        stderr.write(err)
        return process.returncode if process.returncode >= 0 else 128 - process.returncode


def write_docker_command(folder: Path, *, present: bool) -> None:
    """Put the ``docker`` command where the server's commands find it, or take it away."""
    program = folder / "bin" / "docker"
    if present:
        program.parent.mkdir(mode=0o700, exist_ok=True)
        program.write_text(
            "#!/bin/sh\necho 'docker of a sandbox: only `docker system dial-stdio`' >&2\nexit 1\n"
        )
        program.chmod(0o700)
    else:
        program.unlink(missing_ok=True)
