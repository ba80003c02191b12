"""The part of the Docker Engine API that is about containers: requests read, answers written."""

from __future__ import annotations

import base64
import json
import posixpath
import secrets
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from derpmgmt.sandbox.containers import Container, Containers, inspect, signal_name, summarize
from derpmgmt.sandbox.creation import check_body, check_container_name, read_json, read_mounts
from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.http import Request, Response, json_response
from derpmgmt.sandbox.images import Images, container_config, full_name
from derpmgmt.sandbox.lifecycle import Lifecycle
from derpmgmt.sandbox.networks import Networks
from derpmgmt.sandbox.refusals import Refusal, disk_full
from derpmgmt.sandbox.state import new_id
from derpmgmt.sandbox.volumes import Volumes

Handler = Callable[[Request, str], Awaitable[Response]]

_UPDATABLE = (
    "Memory",
    "MemorySwap",
    "MemoryReservation",
    "NanoCpus",
    "CpuShares",
    "PidsLimit",
    "RestartPolicy",
)
# What HostConfig shows where a request says nothing.
_HOST_CONFIG: dict[str, Any] = {
    "Binds": None,
    "ContainerIDFile": "",
    "NetworkMode": "default",
    "PortBindings": None,
    "AutoRemove": False,
    "VolumeDriver": "",
    "VolumesFrom": None,
    "CapAdd": None,
    "CapDrop": None,
    "CgroupnsMode": "host",
    "Dns": None,
    "DnsOptions": None,
    "DnsSearch": None,
    "ExtraHosts": None,
    "GroupAdd": None,
    "IpcMode": "private",
    "Links": None,
    "OomScoreAdj": 0,
    "PidMode": "",
    "Privileged": False,
    "PublishAllPorts": False,
    "ReadonlyRootfs": False,
    "SecurityOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
    "ShmSize": 67108864,
    "Runtime": "runc",
    "CpuShares": 0,
    "Memory": 0,
    "NanoCpus": 0,
    "MemoryReservation": 0,
    "MemorySwap": 0,
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "PidsLimit": None,
    "Ulimits": None,
    "MaskedPaths": [
        *(
            "/proc/asound",
            "/proc/acpi",
            "/proc/kcore",
            "/proc/keys",
            "/proc/latency_stats",
            "/proc/timer_list",
        ),
        *("/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"),
    ],
    "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
}


class ContainerApi:
    """The handlers of one server. ``clock``: the server's time now."""

    def __init__(
        self,
        containers: Containers,
        images: Images,
        volumes: Volumes,
        networks: Networks,
        lifecycle: Lifecycle,
        *,
        faults: Callable[[], Faults],
        clock: Callable[[], datetime],
    ) -> None:
        self._containers = containers
        self._images = images
        self._volumes = volumes
        self._networks = networks
        self._lifecycle = lifecycle
        self._faults = faults
        self._clock = clock

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, pattern of the path with one group, handler that is given the group."""
        one = "/containers/([^/]+)"
        return [
            ("GET", "/containers/json()", self._list),
            ("POST", "/containers/create()", self._create),
            ("GET", f"{one}/json", self._inspect),
            ("POST", f"{one}/start", self._start),
            ("POST", f"{one}/stop", self._stop),
            ("POST", f"{one}/kill", self._kill),
            ("POST", f"{one}/rename", self._rename),
            ("POST", f"{one}/update", self._update),
            ("DELETE", one, self._remove),
            ("PUT", f"{one}/archive", self._put_archive),
            ("GET", f"{one}/archive", self._get_archive),
            ("HEAD", f"{one}/archive", self._get_archive),
            ("GET", f"{one}/logs", self._logs),
            ("GET", f"{one}/top", self._top),
        ]

    async def _list(self, request: Request, _: str) -> Response:
        found = self._containers.select(read_filters(request), everything=request.flag("all"))
        return json_response([summarize(item, self._clock(), self._volumes.folder) for item in found])

    async def _create(self, request: Request, _: str) -> Response:
        body = json_body(request)
        host = check_body(body)
        name = request.query.get("name", "").removeprefix("/") or f"sandbox_{secrets.token_hex(4)}"
        check_container_name(name)
        reference = body.get("Image") or ""
        found = self._images.find(reference)
        if found is None and reference:
            raise Refusal(404, f"No such image: {full_name(reference)}")
        image_id, image = found or ("", {"config": {}})
        container_id, now = new_id(), timestamp(self._clock())
        mounts = read_mounts(body, host)
        if self._faults().disk_full:
            raise disk_full(f"/var/lib/docker/overlay2/{container_id}-init/link")
        container = Container(
            id=container_id,
            name=name,
            created=now,
            image=image_id,
            config=_merge_config(body, image["config"].get("config") or {}, container_id),
            host_config=_complete_host_config(host),
            mounts=mounts,
            networks={},
        )
        mode = container.host_config["NetworkMode"]
        container.networks[mode if mode != "default" else "bridge"] = ""
        self._containers.add(container)
        for mount in mounts:
            anonymous = not mount["Name"]
            mount["Name"] = mount["Name"] or new_id()
            self._volumes.create(mount["Name"], None, now, anonymous=anonymous)
        self._containers.save()
        return json_response({"Id": container_id, "Warnings": []}, 201)

    async def _inspect(self, request: Request, name: str) -> Response:
        container = self._containers.find(name)
        return json_response(inspect(container, self._lifecycle.pid(container), self._volumes.folder))

    async def _start(self, request: Request, name: str) -> Response:
        return Response(204 if await self._lifecycle.start(self._containers.find(name)) else 304)

    async def _stop(self, request: Request, name: str) -> Response:
        return Response(204 if await self._lifecycle.stop(self._containers.find(name)) else 304)

    async def _kill(self, request: Request, name: str) -> Response:
        signal = signal_name(request.query.get("signal", ""))
        try:
            container = self._containers.find(name)
        except Refusal as refusal:
            raise Refusal(refusal.status, f"Cannot kill container: {name}: {refusal.message}") from None
        await self._lifecycle.kill(container, name, signal)
        return Response(204)

    async def _rename(self, request: Request, name: str) -> Response:
        container, new_name = self._containers.find(name), request.query.get("name", "")
        if new_name == container.name:
            raise Refusal(400, "Renaming a container with the same name as its current name")
        try:
            check_container_name(new_name)
            self._containers.rename(container, new_name)
        except Refusal as refusal:
            words = refusal.message.replace(f"({new_name})", f"(/{new_name})")
            raise Refusal(refusal.status, f"Error when allocating new name: {words}") from None
        return Response(204)

    async def _update(self, request: Request, name: str) -> Response:
        container, body = self._containers.find(name), json_body(request)
        changes = {key: body[key] for key in _UPDATABLE if body.get(key)}
        check_body({"HostConfig": dict(changes)})
        if "RestartPolicy" in changes:
            changes["RestartPolicy"] = {"Name": "no", "MaximumRetryCount": 0} | changes["RestartPolicy"]
        container.host_config |= changes
        self._containers.save()
        return json_response({"Warnings": None})

    async def _remove(self, request: Request, name: str) -> Response:
        container = self._containers.find(name)
        if container.is_running and not request.flag("force"):
            raise Refusal(
                409,
                f"You cannot remove a {container.status} container {container.id}. Stop the container before attempting"
                " removal or force remove",
            )
        await self._lifecycle.remove(container, with_volumes=request.flag("v"))
        return Response(204)

    async def _put_archive(self, request: Request, name: str) -> Response:
        container, path = self._containers.find(name), _path_of(request)
        missing = Refusal(404, f"Could not find the file {path} in container {name}")
        place = self._place(container, path)
        if place is None:
            raise missing
        volume, inside, mount = place
        kind = self._kind_in_image(container, path) if mount is None else self._volumes.kind(volume, inside)
        if not kind:
            raise missing
        if kind != "dir":
            raise Refusal(500, "extraction point is not a directory")
        if mount is None:
            if container.host_config["ReadonlyRootfs"]:
                raise Refusal(500, "container rootfs is marked read-only")
            raise Refusal(501, "this server is a sandbox: it keeps files in volumes only")
        if not mount["RW"]:
            raise Refusal(500, "mounted volume is marked read-only")
        full = self._faults().disk_full
        self._volumes.unpack(volume, inside, mount["Destination"], request.body, disk_full=full)
        return Response(200)

    async def _get_archive(self, request: Request, name: str) -> Response:
        container, path = self._containers.find(name), _path_of(request)
        place = self._place(container, path)
        if place is None or place[2] is None or not self._volumes.kind(place[0], place[1]):
            raise Refusal(404, f"Could not find the file {path} in container {name}")
        archive, stat = self._volumes.pack(place[0], place[1])
        header = base64.b64encode(json.dumps(stat).encode()).decode()
        return Response(200, archive, "application/x-tar", {"X-Docker-Container-Path-Stat": header})

    async def _logs(self, request: Request, name: str) -> Response:
        container = self._containers.find(name)
        streams = [number for number, stream in ((1, "stdout"), (2, "stderr")) if request.flag(stream)]
        if not streams:
            raise Refusal(400, "Bad parameters: you must choose at least one stream")
        lines = [line for line in container.log if line[1] in streams]
        tail = request.query.get("tail", "all")
        if tail.isdecimal():
            lines = lines[len(lines) - min(int(tail), len(lines)) :]
        body = b""
        for now, stream, text in lines:
            data = (f"{now} {text}" if request.flag("timestamps") else text).encode()
            body += _frame(stream, data)
        return Response(200, body)

    async def _top(self, request: Request, name: str) -> Response:
        container = self._containers.find(name)
        _check_runs(container)
        if request.query.get("ps_args") != "-o pid,args":
            raise Refusal(501, "this server is a sandbox: its ps knows only -o pid,args")
        if self._faults().no_ps:
            raise Refusal(500, 'ps: exec: "ps": executable file not found in $PATH')
        if self._faults().top_refused:
            raise Refusal(500, self._faults().top_refused)
        rows = [[str(pid), title] for pid, title in self._lifecycle.processes(container).items()]
        if self._faults().other_ps:
            rows = [[pid, "root", "0:00", title] for pid, title in rows]
            return json_response({"Processes": rows, "Titles": ["PID", "USER", "TIME", "COMMAND"]})
        return json_response({"Processes": rows, "Titles": ["PID", "COMMAND"]})

    def _place(self, container: Container, path: str) -> tuple[str, str, dict[str, Any] | None] | None:
        """Volume, path in it and mount that a path of the container leads to; no mount for a path of the image."""
        for mount in container.mounts:
            if path == mount["Destination"]:
                return mount["Name"], "", mount
            if path.startswith(mount["Destination"] + "/"):
                return mount["Name"], posixpath.relpath(path, mount["Destination"]), mount
        return ("", path, None) if self._kind_in_image(container, path) else None

    def _kind_in_image(self, container: Container, path: str) -> str:
        found = self._images.find(container.image)
        paths = found[1]["paths"] if found else {"/": ["dir"]}
        if path in paths:
            return str(paths[path][0])
        return "dir" if any(other.startswith(f"{path.rstrip('/')}/") for other in paths) else ""


def _check_runs(container: Container) -> None:
    """Raises Refusal."""
    if container.status == "restarting":
        raise Refusal(409, f"Container {container.id} is restarting, wait until the container is running")
    if not container.is_running:
        raise Refusal(409, f"Container {container.id} is not running")


def timestamp(moment: datetime) -> str:
    """A moment as the Engine writes it."""
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def json_body(request: Request) -> dict[str, Any]:
    """The JSON that a request carries. Raises Refusal."""
    kind = request.headers.get("content-type", "").partition(";")[0]
    if kind != "application/json" and (kind or request.body):
        raise Refusal(400, f"Content-Type specified ({kind}) must be 'application/json'")
    return read_json(request.body)


def read_filters(request: Request) -> dict[str, list[str]]:
    """The filters of a list request, in either form that clients write them: lists, or maps to true. Raises Refusal."""
    text = request.query.get("filters", "")
    if not text:
        return {}
    try:
        filters = json.loads(text)
        return {name: [str(value) for value in values] for name, values in filters.items()}
    except (ValueError, AttributeError, TypeError):
        raise Refusal(500, "unexpected end of JSON input") from None


def _path_of(request: Request) -> str:
    path = request.query.get("path", "")
    if not path:
        raise Refusal(400, "bad parameter: pathcannot be empty")
    return posixpath.normpath(posixpath.join("/", path))


def _frame(stream: int, data: bytes) -> bytes:
    """One piece of a multiplexed stream (Docker Engine API, "Attach to a container")."""
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4) + data


def _merge_config(body: dict[str, Any], image: dict[str, Any], container_id: str) -> dict[str, Any]:
    """What ``Config`` shows: the request over the image's own configuration."""
    config = container_config(body)
    for name in ("User", "WorkingDir", "Env", "StopSignal", "Volumes"):
        if not config.get(name) and image.get(name):
            config[name] = image[name]
    if config["Entrypoint"] is None:
        config["Entrypoint"] = image.get("Entrypoint")
        config["Cmd"] = config["Cmd"] if config["Cmd"] is not None else image.get("Cmd")
    config["Labels"] = (image.get("Labels") or {}) | (config["Labels"] or {})
    config["Hostname"] = config["Hostname"] or container_id[:12]
    return config


def _complete_host_config(host: dict[str, Any]) -> dict[str, Any]:
    """What ``HostConfig`` shows: the request over the Engine's defaults."""
    config = _HOST_CONFIG | {name: value for name, value in host.items() if value is not None}
    policy, logging = host.get("RestartPolicy") or {}, host.get("LogConfig") or {}
    retries = policy.get("MaximumRetryCount") or 0
    config["RestartPolicy"] = {"Name": policy.get("Name") or "no", "MaximumRetryCount": retries}
    config["LogConfig"] = {"Type": logging.get("Type") or "json-file", "Config": logging.get("Config") or {}}
    if config["Memory"] and not config["MemorySwap"]:
        config["MemorySwap"] = config["Memory"] * 2
    return config
