"""Starting, ending and starting again: what the Engine does with a container's process."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import posixpath
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from derpmgmt.sandbox.containers import NEVER, Container, Containers
from derpmgmt.sandbox.creation import check_tmpfs
from derpmgmt.sandbox.derper import Derper
from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.gate import Gate
from derpmgmt.sandbox.images import Images
from derpmgmt.sandbox.machine import Standing, architecture_of
from derpmgmt.sandbox.networks import PREDEFINED, Networks
from derpmgmt.sandbox.ports import take_ports, unconnected
from derpmgmt.sandbox.program import Exited, Program, Surroundings
from derpmgmt.sandbox.refusals import Refusal, disk_full
from derpmgmt.sandbox.volumes import Volumes
from derpmgmt.sandbox.wire import Interface

# What the sandbox can run, by the name of the program's file.
_PROGRAMS: dict[str, type[Program]] = {"derper": Derper, "nginx": Gate}
# restartmanager/restartmanager.go
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 60.0
_STEADY_SECONDS = 10.0
# Where the numbers of containers' interfaces begin on a server; the other end of each has one too.
_FIRST_INDEX = 5


@dataclass(frozen=True)
class User:
    """Who a container's process is. ``privileged``: root who kept the capability to read everything."""

    uid: int
    gid: int
    privileged: bool


class Lifecycle:
    """The processes of one server's containers.

    ``address``: the IPv4 address that the server's ports are on. ``now``: the server's clock as the Engine writes it.
    """

    def __init__(
        self,
        address: str,
        containers: Containers,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        *,
        faults: Callable[[], Faults],
        now: Callable[[], str],
    ) -> None:
        self._address = address
        self._containers = containers
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._faults = faults
        self._now = now
        self._running: dict[str, Program] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._pauses: dict[str, float] = {}
        self._started: dict[str, float] = {}
        self._interfaces: dict[str, dict[str, Interface]] = {}  # by container and network
        self._index = itertools.count(_FIRST_INDEX, 2)
        self.wire = Interface("eth0", 2)
        self._is_up = False
        self._lock = asyncio.Lock()  # one change at a time

    def standing(self, up_since: float) -> list[Standing]:
        """What a look at the server's processes tells of each running container; ``up_since`` is the server's start
        (``time.monotonic``)."""
        return [
            Standing(
                container_id=key,
                start_ticks=int((self._started[key] - up_since) * 100),
                seconds=asyncio.get_running_loop().time() - self._started[key],
                connections=program.connections,
                interfaces=list(self._interfaces.get(key, {}).values()),
            )
            for key, program in self._running.items()
        ]

    def pid(self, container: Container) -> int:
        """The process that stands for the container's: ours."""
        return os.getpid() if container.id in self._running else 0

    def processes(self, container: Container) -> dict[int, str]:
        """Process ids of a running container and what a list of processes says of each."""
        program = self._running.get(container.id)
        return program.processes() if program else {}

    async def start(self, container: Container) -> bool:
        """Start it; says False when it runs already. Raises Refusal, which the container then shows as its error too."""
        async with self._lock:
            if not self._is_up:
                raise Refusal(500, "the server went down")  # to a client whose connection is gone already
            if container.is_running:
                return False
            container.signalled = container.settled = False
            container.restart_count = 0
            self._pauses.pop(container.id, None)
            await self._launch(container)
            return True

    async def stop(self, container: Container) -> bool:
        """End it for good with its stop signal; says False when it does not run."""
        async with self._lock:
            return await self._stop(container, container.stop_signal or "TERM")

    async def kill(self, container: Container, reference: str, signal: str) -> None:
        """Raises Refusal when it does not run."""
        async with self._lock:
            if not container.is_running:
                raise Refusal(
                    409, f"Cannot kill container: {reference}: Container {container.id} is not running"
                )
            # daemon/kill.go: any signal counts as a stop by hand, and ends "always" too unless another is declared to stop it.
            container.signalled = True
            container.settled |= not container.stop_signal or signal in ("KILL", container.stop_signal)
            self._containers.save()
            program = self._running.get(container.id)
            if program is None:
                if container.settled:
                    await self._end(container, container.exit_code)
            elif signal == "HUP" and program.reloads_on_hangup:
                program.reload()
                self._containers.save()
            elif signal in program.ENDS:
                await self._end(container, program.ENDS[signal])
                await self._start_again(container)

    async def connect(self, container: Container, network: dict[str, Any]) -> None:
        """Put it on a network; its ports are published again while it runs. Raises Refusal."""
        async with self._lock:
            if network["Name"] in container.networks:
                words = f"endpoint with name {container.name} already exists in network {network['Name']}"
                raise Refusal(403, words)
            program = self._running.get(container.id)
            if program is not None:
                # Under a name of its own, where it had one before and lost it.
                known = self._interfaces.setdefault(container.id, {})
                known[network["Name"]] = Interface(f"eth{len(known) or 1}", next(self._index))
            if program is not None and not container.networks:
                container.ports = take_ports(self._address, container, self._containers)
                await program.start()
            container.networks[network["Name"]] = network["Id"] if container.is_running else ""
            self._containers.save()

    async def disconnect(self, container: Container, network: dict[str, Any]) -> None:
        """Take it off a network; off its last one it still runs, but nobody reaches it. Raises Refusal."""
        async with self._lock:
            if container.networks.pop(network["Name"], None) is None:
                raise Refusal(500, f"container {container.id} is not connected to network {network['Name']}")
            self._interfaces.get(container.id, {}).pop(network["Name"], None)
            program = self._running.get(container.id)
            if program is not None and not container.networks:
                container.ports = {}
                await program.stop()
            self._containers.save()

    async def remove(self, container: Container, *, with_volumes: bool) -> None:
        async with self._lock:
            await self._stop(container, "KILL")
            self._containers.remove(container)
            self._interfaces.pop(container.id, None)
        if with_volumes:
            for mount in container.mounts:
                if self._volumes.is_anonymous(mount["Name"]) and not self._containers.users_of_volume(
                    mount["Name"]
                ):
                    self._volumes.delete(mount["Name"], [])

    async def resume(self) -> None:
        """After the server came up: start what its restart policy wants running, write down the rest as ended."""
        async with self._lock:
            self._is_up = True
            self.wire = Interface("eth0", 2)
            await self._resume()

    async def _resume(self) -> None:
        for container in list(self._containers):
            if container.is_running:
                container.status, container.exit_code, container.ports = "exited", 255, {}
            # Also what was stopped by hand, if it is to run "always".
            if container.wants_restart and container.started_at != NEVER:
                container.signalled = container.settled = False
                try:
                    await self._launch(container)
                except Refusal:
                    container.status = "exited"
        self._containers.save()

    async def suspend(self) -> None:
        """The server goes down: processes end, and what ran will be found running by ``resume``."""
        async with self._lock:
            self._is_up = False
            await self._suspend()

    async def _suspend(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        for program in self._running.values():
            await program.stop()
        self._running.clear()

    def user_of(self, container: Container) -> User:
        """Raises Refusal when the image's passwd file does not know it."""
        name, colon, group = str(container.config["User"] or "0").partition(":")
        uid, gid = self._look_up(container, name)
        if colon:
            gid = int(group) if group.isdecimal() else self._look_up(container, group)[1]
        dropped = [item.upper().removeprefix("CAP_") for item in container.host_config.get("CapDrop") or []]
        return User(uid, gid, uid == 0 and not {"ALL", "DAC_OVERRIDE"}.intersection(dropped))

    async def _stop(self, container: Container, signal: str) -> bool:
        if not container.is_running:
            return False
        container.signalled = container.settled = True
        program = self._running.get(container.id)
        # A signal that does not end it is followed by KILL.
        await self._end(container, program.ENDS.get(signal, 137) if program else container.exit_code)
        return True

    def _look_up(self, container: Container, name: str) -> tuple[int, int]:
        found = self._images.find(container.image)
        for line in (found[1]["passwd"] if found else "").splitlines():
            words = line.split(":")
            if len(words) > 3 and name in (words[0], words[2]):
                return int(words[2]), int(words[3])
        if name.isdecimal():
            return int(name), 0
        raise Refusal(500, f"unable to find user {name}: no matching entries in passwd file")

    async def _launch(self, container: Container) -> None:
        try:
            if self._faults().disk_full:
                raise disk_full(f"/var/lib/docker/containers/{container.id}/hosts")
            for name in container.networks:
                container.networks[name] = self._networks.find(name)["Id"]
            user = self.user_of(container)
            self._check_program(container)
            check_tmpfs(container.host_config)
            ports = take_ports(self._address, container, self._containers)
        except Refusal as refusal:
            container.exit_code = 127 if "stat /" in refusal.message else 128
            container.error = refusal.message
            self._containers.save()
            raise
        container.status, container.exit_code, container.error = "running", 0, ""
        container.started_at, container.ports = self._now(), ports
        # No two starts of a container in one tick, as on real machines, which take longer.
        earliest = self._started.get(container.id, 0) + 0.011
        self._started[container.id] = max(asyncio.get_running_loop().time(), earliest)
        self._interfaces[container.id] = {
            name: Interface(f"eth{place}", next(self._index)) for place, name in enumerate(container.networks)
        }
        image = self._images.find(container.config["Image"])
        built_for = image[1]["config"].get("architecture") if image else None
        is_foreign = bool(built_for) and built_for != architecture_of(self._faults())
        if is_foreign or any(
            container.config["Image"].startswith(start) for start in self._faults().broken_images
        ):
            container.write_log(self._now(), f"exec {container.command[0]}: exec format error")
            self._ends_by_itself(container, 1)
            return

        def log(text: str) -> None:
            now = self._now()
            container.write_log(now, f"{now[:10].replace('-', '/')} {now[11:19]} {text}")

        around = Surroundings(
            address=self._address,
            read=lambda path: self._read(container, path, user),
            log=log,
            locate=lambda port, protocol: int(
                (container.ports.get(f"{port}/{protocol}") or [{"HostPort": 0}])[0]["HostPort"]
            ),
            resolve=lambda host, port: self._resolve(container, host, port),
            seen_source=self._faults().rewrites_sources,
            wire=partial(self._count, container.id),
        )
        program = _PROGRAMS[posixpath.basename(container.command[0])](container.command, around)
        try:
            await program.start()
        except Exited as exited:
            for line in exited.lines:
                if exited.plain:
                    container.write_log(self._now(), line)
                else:
                    log(line)
            self._ends_by_itself(container, exited.exit_code)
        except asyncio.CancelledError:
            await program.stop()
            raise
        except OSError as error:
            # Somebody else took the port after it was tried.
            await program.stop()
            container.status, container.exit_code, container.ports = "created", 128, {}
            container.error = unconnected(container, f"listen tcp4 {self._address}", error)
            self._containers.save()
            raise Refusal(500, container.error) from None
        else:
            self._running[container.id] = program
            self._containers.save()

    def _count(self, container_id: str, received: int = 0, sent: int = 0) -> None:
        """What a container's program received and sent; all of ours are on one network."""
        for interface in [*self._interfaces.get(container_id, {}).values()][:1]:
            interface.received += received
            interface.sent += sent
            self.wire.received += received
            self.wire.sent += sent

    def _check_program(self, container: Container) -> None:
        """Raises Refusal when the image does not hold its program, or the sandbox cannot play it."""
        command = container.command
        if not command:
            raise Refusal(400, "No command specified")
        found = self._images.find(container.image)
        runtime = "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process"
        if found is None or command[0] not in found[1]["paths"]:
            raise Refusal(
                400, f'{runtime}: exec: "{command[0]}": stat {command[0]}: no such file or directory: unknown'
            )
        if posixpath.basename(command[0]) not in _PROGRAMS:
            raise Refusal(
                501, f"this server is a sandbox: it runs {' and '.join(_PROGRAMS)} only, not {command[0]}"
            )

    def _resolve(self, asker: Container, host: str, port: int) -> tuple[str, int]:
        """Where a name and port lead to from inside a container, by the Engine's name server: running containers on the user's
        own networks that both are on. Raises OSError for other names without a dot, and where nobody listens."""
        shared = {item for name, item in asker.networks.items() if name not in PREDEFINED}
        for other in self._containers:
            program = self._running.get(other.id)
            if (
                host in (other.name, other.id[:12])
                and program
                and shared.intersection(other.networks.values())
            ):
                place = program.place_of(port)
                if place is None:
                    raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
                return place
        if host != "localhost" and "." not in host and ":" not in host:
            raise OSError(f"lookup {host} on 127.0.0.11:53: no such host")
        return host, port

    def _read(self, container: Container, path: str, user: User) -> bytes:
        path = posixpath.normpath(posixpath.join("/", path))
        for mount in container.mounts:
            if path.startswith(mount["Destination"] + "/"):
                inside = posixpath.relpath(path, mount["Destination"])
                return self._volumes.read(
                    mount["Name"], inside, user.uid, user.gid, privileged=user.privileged
                )
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _ends_by_itself(self, container: Container, exit_code: int) -> None:
        """The process ends in a moment: the request that started it is answered before."""
        self._schedule(container, self._end_and_start_again(container, exit_code))

    def _schedule(self, container: Container, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[container.id] = task
        task.add_done_callback(
            lambda done: self._tasks.get(container.id) is done and self._tasks.pop(container.id)
        )

    async def _end_and_start_again(self, container: Container, exit_code: int) -> None:
        self._running.pop(container.id, None)
        await self._note_end(container, exit_code)
        await self._start_again(container)

    async def _end(self, container: Container, exit_code: int) -> None:
        task = self._tasks.pop(container.id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        program = self._running.pop(container.id, None)
        if program is not None:
            await program.stop()
        await self._note_end(container, exit_code)

    async def _note_end(self, container: Container, exit_code: int) -> None:
        container.status, container.exit_code, container.ports = "exited", exit_code, {}
        container.finished_at = self._now()
        self._containers.save()

    async def _start_again(self, container: Container) -> None:
        """What the restart policy says about a process that ended by itself."""
        if container.settled or not container.wants_restart:
            return
        lasted = asyncio.get_running_loop().time() - self._started.get(container.id, 0)
        pause = _FIRST_PAUSE if lasted > _STEADY_SECONDS else self._pauses.get(container.id, _FIRST_PAUSE)
        self._pauses[container.id] = min(pause * 2, _LONGEST_PAUSE)
        container.status = "restarting"
        self._containers.save()
        self._schedule(container, self._start_later(container, pause))

    async def _start_later(self, container: Container, pause: float) -> None:
        await asyncio.sleep(pause)
        container.restart_count += 1
        try:
            await self._launch(container)
        except Refusal:
            await self._note_end(container, container.exit_code)
