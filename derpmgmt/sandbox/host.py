"""One server of the sandbox: its SSH port, its Engine, its memory, and what is wrong with it at the moment."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import asyncssh

from derpmgmt.sandbox import http
from derpmgmt.sandbox.engine import HEADERS, Engine
from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.ssh import Doors, SshServer, write_docker_command
from derpmgmt.sandbox.state import State, write_private

logger = logging.getLogger(__name__)

_SOCKET_PATH_LIMIT = 100
"""Bytes of a unix socket's path: Linux takes 107, macOS 103."""
_TURNED_AWAY = b"Not allowed at this time\r\n"
_VERSION_AND_NAMES = re.compile(r"^/v\d+\.\d+|(?<=/containers/)(?!create|json)[^/]+")


class AddressTaken(Exception):
    """The server's SSH port is in use, most likely by another sandbox with the same state."""


class Host:
    """One server, known by ``name``, with its state in ``folder``.

    ``address`` is used at the first start; later the state knows it. ``report_death`` is told when the fault ``dies_after``
    has struck and turned into ``down``.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        address: str,
        client_key: asyncssh.SSHKey,
        password: str,
        report_death: Callable[[Host], None],
    ) -> None:
        self.name = name
        self.faults = Faults()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()
        self._folder = folder
        self._state = State.load(folder / "state.json")
        self._state.address = self._state.address or address
        self._state.engine_id = self._state.engine_id or str(uuid.uuid4())
        self._host_key = load_key(folder / "host_key")
        self._client_key = client_key
        self._password = password
        self._report_death = report_death
        self._docker_path = _socket_path(folder, name, self._state)
        self.engine = Engine(name, folder, self._state, lambda: self.faults)
        self._changed = asyncio.Condition()
        self._connections: set[asyncssh.SSHServerConnection] = set()
        self._held: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._docker: asyncio.Server | None = None
        self._options: asyncssh.SSHServerConnectionOptions | None = None

    @property
    def address(self) -> str:
        return self._state.address

    @property
    def ssh_port(self) -> int:
        return self._state.ssh_port

    @property
    def is_up(self) -> bool:
        """Whether it accepts connections."""
        return self._listener is not None

    @property
    def host_key(self) -> str:
        """The public host key's line: type and base64."""
        return " ".join(self._host_key.export_public_key().decode().split()[:2])

    async def open(self, faults: Faults) -> None:
        """Come up with these faults. Raises AddressTaken."""
        self.faults = faults
        if not faults.down:
            await self._come_up()

    async def close(self) -> None:
        """Go down in order: what runs is brought back by the next ``open``."""
        await self._go_down()
        if self._state.socket_folder:
            shutil.rmtree(self._state.socket_folder, ignore_errors=True)

    async def set_faults(self, faults: Faults) -> None:
        """Raises AddressTaken when the server is to come up and cannot."""
        before, self.faults = self.faults, faults
        if faults.down and self._listener is not None:
            await self._go_down()
        elif not faults.down and self._listener is None:
            await self._come_up()
        if not faults.down:
            if faults.docker != before.docker:
                await self._set_docker_socket()
            self._set_hung(faults.ssh_hung)
        async with self._changed:
            self._changed.notify_all()

    async def _come_up(self) -> None:
        self._listener = self._listen()
        self._state.ssh_port = self._listener.getsockname()[1]
        self._state.save()
        doors = Doors(
            self._client_key,
            self._password,
            self._folder,
            self._docker_path,
            str(uuid.uuid4()),
            time.monotonic(),
            lambda: self.faults,
            self._serve_docker,
            lambda up_since: (self.engine.lifecycle.standing(up_since), self.engine.lifecycle.wire),
        )
        self._options = asyncssh.SSHServerConnectionOptions(
            server_factory=lambda: SshServer(doors, self._connections.add, self._connections.discard),
            server_host_keys=[self._host_key],
            encoding=None,
            line_editor=False,
            compression_algs=["none"],
            allow_scp=False,
            agent_forwarding=False,
            x11_forwarding=False,
        )
        await self._set_docker_socket()
        await self.engine.lifecycle.resume()
        self._accepting = asyncio.create_task(self._accept(self._listener))

    def _listen(self) -> socket.socket:
        try:
            listener = socket.create_server((self.address, self._state.ssh_port), backlog=128)
        except OSError as error:
            place = f"{self.address}:{self._state.ssh_port}"
            raise AddressTaken(
                f"{place}: {error.strerror}. Does another sandbox run with the same state?"
            ) from None
        listener.setblocking(False)
        return listener

    async def _go_down(self) -> None:
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        self._listener = self._accepting = None
        for connection in list(self._connections):
            connection.abort()
        for task in self._tasks:
            task.cancel()
        for held in self._held:
            held.close()
        self._held.clear()
        await self._close_docker_socket()
        self._docker_path.unlink(missing_ok=True)
        await self.engine.lifecycle.suspend()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:
                await asyncio.sleep(0.1)  # no file descriptors left: later ones will do
                continue
            if self.faults.ssh_hung:
                self._held.append(connection)
                continue
            if self.faults.turns_away:
                with contextlib.suppress(OSError):
                    connection.send(_TURNED_AWAY)
                connection.close()
                continue
            task = loop.create_task(self._greet(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _greet(self, connection: socket.socket) -> None:
        options = self._options
        if self.faults.other_host_key:
            other_key = load_key(self._folder / "other_host_key")
            options = asyncssh.SSHServerConnectionOptions(options, server_host_keys=[other_key])
        if self.faults.old_algorithms:
            options = asyncssh.SSHServerConnectionOptions(options, kex_algs=["diffie-hellman-group1-sha1"])
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError, asyncssh.Error):
            await asyncssh.run_server(connection, options=options)

    def _set_hung(self, hung: bool) -> None:
        """A host that hangs reads nothing of what its connections send. asyncssh has no word for that."""
        for connection in self._connections:
            transport = connection._transport
            if isinstance(transport, asyncio.Transport) and not transport.is_closing():
                transport.pause_reading() if hung else transport.resume_reading()
        if not hung:
            for held in self._held:
                held.close()
            self._held.clear()

    async def _set_docker_socket(self) -> None:
        """Make the socket file on this machine what the faults say: served, deaf or absent."""
        await self._close_docker_socket()
        self._docker_path.unlink(missing_ok=True)
        docker = self.faults.docker
        write_docker_command(self._folder, present=docker != "absent")
        if docker == "down":
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.bind(str(self._docker_path))
        elif docker != "absent":
            self._docker = await asyncio.start_unix_server(self._serve_docker, self._docker_path)

    async def _close_docker_socket(self) -> None:
        if self._docker is not None:
            self._docker.close()
            self._docker = None

    async def _serve_docker(self, reader: http.Reader, writer: http.Writer) -> None:
        await http.serve(reader, writer, self._answer, HEADERS)

    async def _answer(self, request: http.Request) -> http.Response:
        async with self._changed:
            await self._changed.wait_for(lambda: self.faults.docker != "hung")
        try:
            response = await self.engine.answer(request)
        except Exception:  # one bad request must not end the connection that others share
            logger.exception("%s failed on %s", _request_name(request), self.name)
            return http.json_response({"message": "the sandbox failed; see its log"}, 500)
        if self.faults.dies_after and self.faults.dies_after == _request_name(request):
            self.faults = replace(self.faults, down=True, dies_after="")
            self._report_death(self)
            raise http.Disconnect
        return response


def _request_name(request: http.Request) -> str:
    """Method and path as ``Faults.dies_after`` writes them: no version, ``{id}`` for a container's name or id."""
    path = _VERSION_AND_NAMES.sub(lambda match: "" if match.start() == 0 else "{id}", request.path)
    return f"{request.method} {path}"


def load_key(path: Path) -> asyncssh.SSHKey:
    """A private key of this sandbox, made at the first start."""
    if not path.exists():
        write_private(path, asyncssh.generate_private_key("ssh-ed25519").export_private_key())
    return asyncssh.import_private_key(path.read_bytes())


def _socket_path(folder: Path, name: str, state: State) -> Path:
    """A path for the Docker socket that no other sandbox on this machine uses, in the folder if that is short enough."""
    # What a killed process left.
    for left_over in folder.glob("docker-*.sock"):
        left_over.unlink()
    if state.socket_folder:
        shutil.rmtree(state.socket_folder, ignore_errors=True)
    file_name = f"docker-{secrets.token_hex(4)}.sock"
    if len(os.fsencode(folder / file_name)) <= _SOCKET_PATH_LIMIT:
        state.socket_folder = ""
        return folder / file_name
    state.socket_folder = tempfile.mkdtemp(prefix=f"derpmgmt-{name}-")
    return Path(state.socket_folder) / file_name
