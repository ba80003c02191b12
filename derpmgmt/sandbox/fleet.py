"""The sandbox as a whole: servers on loopback, in this process, for tests and for the demo."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Coroutine
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from derpmgmt.sandbox.faults import FaultFile, Faults
from derpmgmt.sandbox.host import AddressTaken, Host, load_key
from derpmgmt.sandbox.ssh import DOCKER_SOCKET, USER

__all__ = ["AddressTaken", "Faults", "Sandbox", "SandboxHost", "SandboxServer"]

SUBNET = "127.77.0"
_WATCH_SECONDS = 0.25
_T = TypeVar("_T")


@dataclass(frozen=True)
class SandboxHost:
    """How to reach one server. ``host_key`` is the public key's line, ``password`` empty when only the key signs in."""

    name: str
    address: str
    ssh_port: int
    user: str
    host_key: str
    docker_socket: str
    private_key_path: str
    password: str = field(default="", repr=False)

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Fleet:
    """The servers, inside an event loop.

    State lies under ``state_dir``, readable by its owner alone. ``subnet``: the first three numbers of the servers'
    addresses; where the system does not have 127.77.0.N, all servers share 127.0.0.1. ``password``: what signs in beside
    the key, if anything.
    """

    def __init__(self, state_dir: Path, servers: int, *, subnet: str = SUBNET, password: str = "") -> None:
        self._state_dir = state_dir
        self._servers = servers
        self._subnet = subnet
        self._password = password
        self._key_path = state_dir / "client_key"
        self._file = FaultFile(state_dir / "faults.json")
        self._watching: asyncio.Task[None] | None = None
        self._changing = asyncio.Lock()
        self.hosts: list[Host] = []

    async def open(self) -> None:
        """Bring all servers up. Raises AddressTaken, and then leaves nothing running."""
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = load_key(self._key_path)
        self._file.changed()
        faults = self._file.read()
        try:
            for number in range(1, self._servers + 1):
                name = f"sandbox-{number}"
                address = _own_address(f"{self._subnet}.{number}")
                folder = self._state_dir / "hosts" / name
                host = Host(name, folder, address, key, self._password, self._died)
                self.hosts.append(host)
                await host.open(faults.get(name, Faults()))
        except BaseException:
            await self.close()
            raise
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """End everything."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        for host in self.hosts:
            await host.close()

    def describe(self) -> list[SandboxHost]:
        return [
            SandboxHost(
                name=host.name,
                address=host.address,
                ssh_port=host.ssh_port,
                user=USER,
                host_key=host.host_key,
                docker_socket=DOCKER_SOCKET,
                private_key_path=str(self._key_path),
                password=self._password,
            )
            for host in self.hosts
        ]

    async def change_faults(self, name: str, faults: Faults) -> None:
        """Write a server's faults down and put them into force."""
        async with self._changing:
            self._file.write(self._file.read() | {name: faults})
            self._file.changed()
            await self._apply()

    def _died(self, host: Host) -> None:
        self._dying = asyncio.create_task(self.change_faults(host.name, host.faults))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            async with self._changing:
                if self._file.changed():
                    with contextlib.suppress(AddressTaken):
                        await self._apply()

    async def _apply(self) -> None:
        wanted = self._file.read()
        for host in self.hosts:
            faults = wanted.get(host.name, Faults())
            if faults != host.faults or host.is_up == faults.down:
                await host.set_faults(faults)


class SandboxServer:
    """One server's switches, for tests."""

    def __init__(self, sandbox: Sandbox, host: Host) -> None:
        self._sandbox = sandbox
        self._host = host

    @property
    def faults(self) -> Faults:
        """What is wrong with it now."""
        return self._host.faults

    def fault(self, **switches: Any) -> None:
        """Turn switches of ``Faults`` on or off; returns when they are in force."""
        self._sandbox.run(self._change(switches))

    def heal(self) -> None:
        """Turn all switches off."""
        self._sandbox.run(self._sandbox.fleet.change_faults(self._host.name, Faults()))

    async def _change(self, switches: dict[str, Any]) -> None:
        await self._sandbox.fleet.change_faults(self._host.name, replace(self._host.faults, **switches))


class Sandbox:
    """A fleet that runs in a thread of this process.

    ``with Sandbox(folder, servers=3) as sandbox: sandbox.hosts`` … Entering raises AddressTaken. Parameters as of ``Fleet``.
    """

    def __init__(
        self, state_dir: Path, servers: int = 3, *, subnet: str = SUBNET, password: str = ""
    ) -> None:
        self.fleet = Fleet(state_dir, servers, subnet=subnet, password=password)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="sandbox", daemon=True)

    @property
    def hosts(self) -> list[SandboxHost]:
        return self.fleet.describe()

    def server(self, index: int) -> SandboxServer:
        """The switches of ``hosts[index]``."""
        return SandboxServer(self, self.fleet.hosts[index])

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run something in the sandbox's event loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self.fleet.open())
        except BaseException:
            self._end_loop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.run(self.fleet.close())
        self._end_loop()

    def _end_loop(self) -> None:
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = {task for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    # A cancellation may get lost in a task that was just being woken: it is told again, and not waited for without end.
    for _time in range(20):
        if not others:
            return
        for task in others:
            task.cancel()
        _done, others = await asyncio.wait(others, timeout=0.25)


def _own_address(address: str) -> str:
    """The address, if this system has it without being asked to (Linux has all of 127.0.0.0/8), else 127.0.0.1."""
    with socket.socket() as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return "127.0.0.1"
    return address
