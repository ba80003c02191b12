"""An SSH server on loopback for tests of the client: asyncssh in a thread, commands run by this machine's own shell."""

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import asyncssh

from fleet.ssh import Endpoint


class SshHost:
    """A running server; what it allows may be changed at any time."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.host_keys = {kind: asyncssh.generate_private_key(kind) for kind in kinds}
        client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.private_key = client_key.export_private_key().decode()
        self.password = "correct horse battery"
        self.authorized = [client_key.export_public_key().decode()]
        # None: the server does not know what that is.
        self.forwarding: bool | None = True
        self.takes_passwords = True
        self.path = os.environ["PATH"]
        # What the user's login shell (bash) does before and after each command.
        self.before = self.after = ""
        self.port = 0
        self.sign_ins: list[str] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections: list[asyncssh.SSHServerConnection] = []
        self.loop = asyncio.new_event_loop()
        self.server: asyncssh.SSHAcceptor | None = None

    def line(self, kind: str = "ssh-ed25519") -> str:
        """The public host key's line."""
        return " ".join(self.host_keys[kind].export_public_key().decode().split()[:2])

    def endpoint(self, **changes: Any) -> Endpoint:
        """How to sign in with the key, unless told otherwise."""
        values: dict[str, Any] = {
            "host": "127.0.0.1",
            "port": self.port,
            "user": "tester",
            "host_key": self.line(next(iter(self.host_keys))),
            "private_key": self.private_key,
        }
        return Endpoint(**(values | changes))

    def do(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs a coroutine in the server's loop and waits for it."""
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    def drop_connections(self) -> None:
        """Every connection breaks, as when the host is switched off and its network says so."""

        async def abort() -> None:
            for connection in self.connections:
                connection.abort()

        self.do(abort())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside, the kernel takes connections and bytes, and nobody answers."""
        go_on = threading.Event()
        paused = threading.Event()

        def block() -> None:
            paused.set()
            go_on.wait(10)

        self.loop.call_soon_threadsafe(block)
        paused.wait(10)
        try:
            yield
        finally:
            go_on.set()


class _Server(asyncssh.SSHServer):
    def __init__(self, host: SshHost) -> None:
        self.host = host

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self.host.connections.append(conn)

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self.host.sign_ins.append("key")
        return key.export_public_key().decode() in self.host.authorized

    def password_auth_supported(self) -> bool:
        return self.host.takes_passwords

    def validate_password(self, username: str, password: str) -> bool:
        self.host.sign_ins.append("password")
        return password == self.host.password

    def unix_connection_requested(self, dest_path: str) -> bool:
        if self.host.forwarding is None:
            raise asyncssh.ChannelOpenError(asyncssh.OPEN_UNKNOWN_CHANNEL_TYPE, "Unknown channel type")
        return self.host.forwarding


async def _pump(reader: Any, writer: Any) -> None:
    """Copies until the end, and passes that on to a child's input."""
    with suppress(ConnectionError, asyncssh.Error):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if isinstance(writer, asyncio.StreamWriter):
            writer.close()


@contextmanager
def ssh_host(*kinds: str, **offered: list[str]) -> Iterator[SshHost]:
    """A server with host keys of these kinds (ed25519 when none is named), and other algorithms than usual if `offered`."""
    host = SshHost(kinds or ("ssh-ed25519",))
    thread = threading.Thread(target=host.loop.run_forever)
    thread.start()

    async def handle(process: asyncssh.SSHServerProcess[bytes]) -> None:
        task = asyncio.current_task()
        assert task is not None
        child = await asyncio.create_subprocess_exec(
            *(
                "/bin/bash",
                "-c",
                f'{host.before}\neval "$0"\n{{ s=$?; {host.after}\n}}; exit $s',
                str(process.command),
            ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": host.path},
            start_new_session=True,
        )
        feed = asyncio.create_task(_pump(process.stdin, child.stdin))
        host.tasks.add(task)
        try:
            await asyncio.gather(_pump(child.stdout, process.stdout), _pump(child.stderr, process.stderr))
            process.exit(await child.wait())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            feed.cancel()
            # A pipe that nobody empties any more would keep `wait` from returning.
            child._transport.close()  # type: ignore[attr-defined]
            await asyncio.gather(feed, child.wait(), return_exceptions=True)
            host.tasks.discard(task)

    async def start() -> None:
        server = await asyncssh.create_server(
            lambda: _Server(host),
            "127.0.0.1",
            0,
            server_host_keys=list(host.host_keys.values()),
            process_factory=handle,
            encoding=None,
            **offered,
        )
        host.port = server.get_port()
        host.server = server

    async def stop() -> None:
        if host.server is not None:
            host.server.close()
        for connection in host.connections:
            connection.abort()
        for task in list(host.tasks):
            task.cancel()
        await asyncio.gather(*host.tasks, return_exceptions=True)
        await asyncio.sleep(0)

    try:
        host.do(start())
        yield host
    finally:
        host.do(stop())
        host.loop.call_soon_threadsafe(host.loop.stop)
        thread.join(10)
        host.loop.close()
