"""The Docker Engine API of one server, as far as the panel uses it: Engine 20.10, API 1.41.

Answers and words are the real Engine's, as recorded in ``tests/sandbox/engine_20_10.json``. Not here: pulling and building,
``events``, ``stats``, ``attach``, ``exec``, ``wait``, ``restart`` and following a log.
"""

from __future__ import annotations

import asyncio
import json
import os
import platform
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from derpmgmt.sandbox.container_api import ContainerApi, Handler, json_body, read_filters, timestamp
from derpmgmt.sandbox.containers import Containers
from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.http import Request, Response, json_response
from derpmgmt.sandbox.images import Images, LoadFailed, read_archive
from derpmgmt.sandbox.lifecycle import Lifecycle
from derpmgmt.sandbox.machine import MACHINE, architecture_of, memory_bytes
from derpmgmt.sandbox.networks import Networks
from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.state import State, new_id
from derpmgmt.sandbox.volumes import Volumes

VERSION = "20.10.24+sandbox"
API_VERSION, OLDEST_API_VERSION = "1.41", "1.12"
HEADERS = {
    "Api-Version": API_VERSION,
    "Docker-Experimental": "false",
    "Ostype": "linux",
    "Server": f"Docker/{VERSION} (linux)",
}


class Engine:
    """The Engine of one server. ``folder`` holds its volumes; ``name`` is the server's."""

    def __init__(self, name: str, folder: Path, state: State, faults: Callable[[], Faults]) -> None:
        self._name = name
        self._state = state
        self._folder = folder
        self._faults = faults
        self.images = Images(state)
        self.volumes = Volumes(state, folder / "volumes")
        self.networks = Networks(state, self._now())
        self.containers = Containers(state)
        self.lifecycle = Lifecycle(
            state.address,
            self.containers,
            self.images,
            self.networks,
            self.volumes,
            faults=faults,
            now=self._now,
        )
        container_api = ContainerApi(
            self.containers,
            self.images,
            self.volumes,
            self.networks,
            self.lifecycle,
            faults=faults,
            clock=self._clock,
        )
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(pattern), handler)
            for method, pattern, handler in (
                ("GET", "/_ping()", self._ping),
                ("HEAD", "/_ping()", self._ping),
                ("GET", "/version()", self._version),
                ("GET", "/info()", self._info),
                ("GET", "/images/json()", self._list_images),
                ("POST", "/images/load()", self._load_images),
                ("GET", "/images/(.+)/json", self._inspect_image),
                ("DELETE", "/images/(.+)", self._delete_image),
                ("GET", "/networks()", self._list_networks),
                ("POST", "/networks/create()", self._create_network),
                ("GET", "/networks/([^/]+)", self._inspect_network),
                ("DELETE", "/networks/([^/]+)", self._delete_network),
                ("POST", "/networks/([^/]+)/connect", self._connect_network),
                ("POST", "/networks/([^/]+)/disconnect", self._disconnect_network),
                ("GET", "/volumes()", self._list_volumes),
                ("POST", "/volumes/create()", self._create_volume),
                ("GET", "/volumes/([^/]+)", self._inspect_volume),
                ("DELETE", "/volumes/([^/]+)", self._delete_volume),
                *container_api.routes(),
            )
        ]

    async def answer(self, request: Request) -> Response:
        """Answer one request; what the Engine refuses is an answer too."""
        try:
            path = _without_version(request.path)
            for method, pattern, handler in self._routes:
                match = pattern.fullmatch(path)
                if match and method == request.method:
                    return await handler(request, match.group(1))
            raise Refusal(404, "page not found")
        except Refusal as refusal:
            if refusal.status == 400 and "is too old" in refusal.message:
                return Response(400, refusal.message.encode() + b"\n", "text/plain; charset=utf-8")
            return json_response({"message": refusal.message}, refusal.status)

    def renew_id(self) -> None:
        """Be another Engine to whoever asks, as one that was installed anew."""
        self._state.engine_id = str(uuid.uuid4())
        self._state.save()

    def _clock(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._faults().clock_offset)

    def _now(self) -> str:
        return timestamp(self._clock())

    # The daemon

    async def _ping(self, request: Request, _: str) -> Response:
        headers = {"Cache-Control": "no-cache, no-store, must-revalidate", "Pragma": "no-cache"}
        return Response(200, b"OK", "text/plain; charset=utf-8", headers)

    async def _version(self, request: Request, _: str) -> Response:
        about = {
            "Version": VERSION,
            "ApiVersion": API_VERSION,
            "MinAPIVersion": OLDEST_API_VERSION,
            "Os": "linux",
            "Arch": architecture_of(self._faults()),
            "KernelVersion": platform.release(),
        }
        name = "Podman Engine" if self._faults().podman else "Engine"
        component = {"Name": name, "Version": VERSION, "Details": {"ApiVersion": API_VERSION}}
        return json_response({"Platform": {"Name": ""}, "Components": [component], **about})

    async def _info(self, request: Request, _: str) -> Response:
        running = sum(container.is_running for container in self.containers)
        total = len(list(self.containers))
        return json_response(
            {
                "ID": self._state.engine_id,
                "Containers": total,
                "ContainersRunning": running,
                "ContainersPaused": 0,
                "ContainersStopped": total - running,
                "Images": len(self.images),
                "Driver": "overlay2",
                "MemoryLimit": True,
                "SwapLimit": True,
                "PidsLimit": True,
                "IPv4Forwarding": not self._faults().no_forwarding,
                "SystemTime": self._now(),
                "LoggingDriver": "json-file",
                "CgroupDriver": "cgroupfs",
                "CgroupVersion": "1",
                "KernelVersion": platform.release(),
                "OperatingSystem": "sandbox",
                "OSType": "linux",
                "Architecture": self._faults().machine or MACHINE,
                "NCPU": os.cpu_count() or 1,
                "MemTotal": memory_bytes()[0],
                "DockerRootDir": str(self._folder),
                "Name": self._name,
                "Labels": [],
                "ServerVersion": VERSION,
                "DefaultRuntime": "runc",
                "LiveRestoreEnabled": False,
                "SecurityOptions": [
                    "name=seccomp,profile=default",
                    *(["name=rootless"] if self._faults().rootless else []),
                ],
                "Warnings": None,
            }
        )

    # Images

    async def _list_images(self, request: Request, _: str) -> Response:
        return json_response(self.images.select(read_filters(request)))

    async def _inspect_image(self, request: Request, name: str) -> Response:
        return json_response(self.images.inspect(name))

    async def _load_images(self, request: Request, _: str) -> Response:
        try:
            images = await asyncio.to_thread(read_archive, request.body, disk_full=self._faults().disk_full)
        except LoadFailed as failure:
            answer: dict[str, Any] = {"errorDetail": {"message": str(failure)}, "error": str(failure)}
            return Response(200, json.dumps(answer).encode() + b"\r\n", "application/json")
        lines = [json.dumps({"stream": f"{line}\n"}).encode() + b"\r\n" for line in self.images.keep(images)]
        return Response(200, b"".join(lines), "application/json")

    async def _delete_image(self, request: Request, name: str) -> Response:
        found = self.images.find(name)
        users = self.containers.users_of_image(found[0]) if found else {}
        return json_response(self.images.delete(name, force=request.flag("force"), users=users))

    # Networks

    async def _list_networks(self, request: Request, _: str) -> Response:
        return json_response(self.networks.select(read_filters(request)))

    async def _create_network(self, request: Request, _: str) -> Response:
        if self._faults().disk_full:
            words = "failed to update store for object type *libnetwork.network: write"
            raise Refusal(500, f"{words} /var/lib/docker/network/files/local-kv.db: no space left on device")
        return json_response(self.networks.create(json_body(request), self._now()), 201)

    async def _inspect_network(self, request: Request, name: str) -> Response:
        network = self.networks.find(name)
        members = {item.id: {"Name": item.name} for item in self.containers.on_network(network["Id"])}
        return json_response(network | {"Containers": members})

    async def _delete_network(self, request: Request, name: str) -> Response:
        network = self.networks.find(name)
        self.networks.delete(name, in_use=bool(self.containers.on_network(network["Id"])))
        return Response(204)

    async def _connect_network(self, request: Request, name: str) -> Response:
        container = self.containers.find(json_body(request).get("Container", ""))
        await self.lifecycle.connect(container, self.networks.find(name))
        return Response(200)

    async def _disconnect_network(self, request: Request, name: str) -> Response:
        container = self.containers.find(json_body(request).get("Container", ""))
        await self.lifecycle.disconnect(container, self.networks.find(name))
        return Response(200)

    # Volumes

    async def _list_volumes(self, request: Request, _: str) -> Response:
        return json_response(self.volumes.select(read_filters(request)))

    async def _create_volume(self, request: Request, _: str) -> Response:
        body = json_body(request)
        name = body.get("Name") or new_id()
        self.volumes.create(name, body.get("Labels"), self._now(), anonymous=not body.get("Name"))
        return json_response(self.volumes.inspect(name), 201)

    async def _inspect_volume(self, request: Request, name: str) -> Response:
        return json_response(self.volumes.inspect(name))

    async def _delete_volume(self, request: Request, name: str) -> Response:
        self.volumes.delete(name, self.containers.users_of_volume(name))
        return Response(204)


def _without_version(path: str) -> str:
    """Raises Refusal for an API version that this Engine does not speak."""
    match = re.match(r"/v(\d+)\.(\d+)(/.*)", path)
    if not match:
        return path
    asked, newest, oldest = (
        tuple(map(int, text.split(".")))
        for text in (f"{match[1]}.{match[2]}", API_VERSION, OLDEST_API_VERSION)
    )
    version = f"client version {match[1]}.{match[2]} is too"
    if asked > newest:
        raise Refusal(400, f"{version} new. Maximum supported API version is {API_VERSION}")
    if asked < oldest:
        words = f"{version} old. Minimum supported API version is {OLDEST_API_VERSION}"
        raise Refusal(400, f"{words}, please upgrade your client to a newer version")
    return match[3]
