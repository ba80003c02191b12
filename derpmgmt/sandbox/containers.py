"""The containers of one server as the Engine keeps and shows them; what starts and stops them is in ``lifecycle``."""

from __future__ import annotations

import re
import secrets
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from derpmgmt.sandbox.refusals import Refusal
from derpmgmt.sandbox.state import State

NEVER = "0001-01-01T00:00:00Z"
LOG_LINES = 500
_SIGNALS = {1: "HUP", 2: "INT", 3: "QUIT", 9: "KILL", 10: "USR1", 12: "USR2", 15: "TERM", 28: "WINCH"}
STATUSES = ("created", "running", "paused", "restarting", "removing", "exited", "dead")


def signal_name(text: str) -> str:
    """KILL, HUP, … Raises Refusal for what is no signal."""
    name = text.upper().removeprefix("SIG") or "KILL"
    if name.isdecimal():
        name = _SIGNALS.get(int(name), "")
    if name not in _SIGNALS.values():
        raise Refusal(400, f"Invalid signal: {text}")
    return name


@dataclass
class Container:
    """One container. ``config`` and ``host_config`` are the Engine's documents; ``networks``: name → id, "" before the first
    start; ``signalled``: somebody stopped it or sent it a signal since its start; ``settled``: in a way that ends its restart
    policy, whatever that is; ``ports``: as ``NetworkSettings.Ports`` while it runs; ``log``: [time, stream (1 out, 2 err), text]."""

    id: str
    name: str
    created: str
    image: str
    config: dict[str, Any]
    host_config: dict[str, Any]
    mounts: list[dict[str, Any]]
    networks: dict[str, str]
    status: str = "created"
    exit_code: int = 0
    error: str = ""
    started_at: str = NEVER
    finished_at: str = NEVER
    restart_count: int = 0
    signalled: bool = False
    settled: bool = False
    ports: dict[str, Any] = field(default_factory=dict)
    log: list[list[Any]] = field(default_factory=list)

    @property
    def is_running(self) -> bool:
        """As the Engine counts: waiting to be started again is running too."""
        return self.status in ("running", "restarting")

    @property
    def command(self) -> list[str]:
        """Program and arguments."""
        return [*(self.config.get("Entrypoint") or []), *(self.config.get("Cmd") or [])]

    @property
    def stop_signal(self) -> str:
        """What is declared to stop it, as KILL, TERM, …; empty when nothing is."""
        declared = str(self.config.get("StopSignal") or "")
        return signal_name(declared) if declared else ""

    @property
    def wants_restart(self) -> bool:
        """What its restart policy says once it has ended by itself, or the server has come up."""
        policy = self.host_config["RestartPolicy"]
        if policy["Name"] == "on-failure":
            most = policy["MaximumRetryCount"]
            return self.exit_code != 0 and (not most or self.restart_count < most)
        return policy["Name"] == "always" or (policy["Name"] == "unless-stopped" and not self.signalled)

    def write_log(self, now: str, text: str) -> None:
        """Add a line to its error output, where derper and the Go runtime write everything."""
        self.log = [*self.log[1 - LOG_LINES :], [now, 2, f"{text}\n"]]


class Containers:
    """All containers of one server."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._all = {key: Container(**value) for key, value in state.containers.items()}

    def __iter__(self) -> Any:
        return iter(self._all.values())

    def save(self) -> None:
        self._state.containers = {key: asdict(value) for key, value in self._all.items()}
        self._state.save()

    def add(self, container: Container) -> None:
        """Raises Refusal when the name is taken."""
        self._check_free(container.name)
        self._all[container.id] = container
        self.save()

    def remove(self, container: Container) -> None:
        self._all.pop(container.id, None)
        self.save()

    def rename(self, container: Container, name: str) -> None:
        """Raises Refusal when the name is taken."""
        self._check_free(name)
        container.name = name
        self.save()

    def find(self, reference: str) -> Container:
        """By name, id or the beginning of an id. Raises Refusal when there is none."""
        if reference in self._all:
            return self._all[reference]
        name = reference.removeprefix("/")
        for container in self._all.values():
            if container.name == name:
                return container
        found = [item for key, item in self._all.items() if reference and key.startswith(reference)]
        if len(found) != 1:
            raise Refusal(404, f"No such container: {reference}")
        return found[0]

    def random_name(self) -> str:
        return f"sandbox_{secrets.token_hex(4)}"

    def users_of_volume(self, name: str) -> list[str]:
        return [item.id for item in self._all.values() if any(mount["Name"] == name for mount in item.mounts)]

    def users_of_image(self, image_id: str) -> dict[str, bool]:
        return {item.id: item.is_running for item in self._all.values() if item.image == image_id}

    def on_network(self, network_id: str) -> list[Container]:
        """Those that run on it."""
        return [
            item for item in self._all.values() if item.is_running and network_id in item.networks.values()
        ]

    def select(self, filters: dict[str, list[str]], *, everything: bool) -> list[Container]:
        """Those that a list request asks for, newest first. Raises Refusal for a filter that the Engine does not know."""
        known = ("id", "name", "label", "status", "volume", "network", "ancestor", "exited")
        for name in filters:
            if name not in known:
                raise Refusal(400, f"Invalid filter '{name}'")
        for status in filters.get("status", ()):
            if status not in STATUSES:
                raise Refusal(400, f"Invalid filter 'status={status}'")
        everything = everything or "status" in filters
        found = [
            item for item in self._all.values() if (everything or item.is_running) and _matches(item, filters)
        ]
        return sorted(found, key=lambda item: item.created, reverse=True)

    def _check_free(self, name: str) -> None:
        for other in self._all.values():
            if other.name == name:
                raise Refusal(
                    409,
                    f'Conflict. The container name "/{name}" is already in use by container "{other.id}".'
                    " You have to remove (or rename) that container to be able to reuse that name.",
                )


def inspect(container: Container, pid: int, volume_folder: str) -> dict[str, Any]:
    """What ``GET /containers/{id}/json`` shows."""
    status = container.status
    command = container.command
    return {
        "Id": container.id,
        "Created": container.created,
        "Path": command[0] if command else "",
        "Args": command[1:],
        "State": {
            "Status": status,
            "Running": container.is_running,
            "Paused": False,
            "Restarting": status == "restarting",
            "OOMKilled": False,
            "Dead": False,
            "Pid": pid,
            "ExitCode": container.exit_code,
            "Error": container.error,
            "StartedAt": container.started_at,
            "FinishedAt": container.finished_at,
        },
        "Image": container.image,
        "Name": f"/{container.name}",
        "RestartCount": container.restart_count,
        "Driver": "overlay2",
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": container.host_config,
        "Mounts": _mounts(container, volume_folder),
        "Config": container.config,
        "NetworkSettings": {
            "Bridge": "",
            "Ports": container.ports,
            "Gateway": "",
            "IPAddress": "",
            "Networks": _networks(container, with_aliases=True),
        },
    }


def summarize(container: Container, now: datetime, volume_folder: str) -> dict[str, Any]:
    """What ``GET /containers/json`` shows of it."""
    ports = [
        {
            "IP": binding["HostIp"],
            "PrivatePort": int(number),
            "PublicPort": int(binding["HostPort"]),
            "Type": protocol,
        }
        for port, bindings in container.ports.items()
        for number, _, protocol in [port.partition("/")]
        for binding in bindings or []
    ]
    return {
        "Id": container.id,
        "Names": [f"/{container.name}"],
        "Image": container.config["Image"],
        "ImageID": container.image,
        "Command": " ".join(container.command),
        "Created": int(datetime.fromisoformat(container.created).timestamp()),
        "Ports": ports,
        "Labels": container.config["Labels"] or {},
        "State": container.status,
        "Status": _words(container, now),
        "HostConfig": {"NetworkMode": container.host_config["NetworkMode"]},
        "NetworkSettings": {"Networks": _networks(container, with_aliases=False)},
        "Mounts": _mounts(container, volume_folder),
    }


def _mounts(container: Container, folder: str) -> list[dict[str, Any]]:
    return [mount | {"Source": f"{folder}/{mount['Name']}", "Driver": "local"} for mount in container.mounts]


def _networks(container: Container, *, with_aliases: bool) -> dict[str, Any]:
    return {
        name: {
            "IPAMConfig": None,
            "Links": None,
            "Aliases": [container.id[:12]] if with_aliases and network_id else None,
            "NetworkID": network_id,
            "EndpointID": "",
            "Gateway": "",
            "IPAddress": "",
            "IPPrefixLen": 0,
            "IPv6Gateway": "",
            "GlobalIPv6Address": "",
            "GlobalIPv6PrefixLen": 0,
            "MacAddress": "",
            "DriverOpts": None,
        }
        for name, network_id in container.networks.items()
    }


def _matches(container: Container, filters: dict[str, list[str]]) -> bool:
    labels = container.config["Labels"] or {}
    for label in filters.get("label", ()):
        name, equals, value = label.partition("=")
        if name not in labels or (equals and labels[name] != value):
            return False
    tests: dict[str, Any] = {
        "id": lambda wanted: container.id.startswith(wanted),
        "name": lambda wanted: re.search(wanted, f"/{container.name}") or re.search(wanted, container.name),
        "status": lambda wanted: container.status == wanted,
        "volume": lambda wanted: any(
            wanted in (mount["Name"], mount["Destination"]) for mount in container.mounts
        ),
        "network": lambda wanted: any(
            wanted == name or network_id.startswith(wanted) for name, network_id in container.networks.items()
        ),
        "ancestor": lambda wanted: wanted in (container.config["Image"], container.image),
        "exited": lambda wanted: container.status == "exited" and str(container.exit_code) == wanted,
    }
    return all(
        any(test(wanted) for wanted in filters[name]) for name, test in tests.items() if name in filters
    )


def _words(container: Container, now: datetime) -> str:
    """The status as ``docker ps`` prints it (container/state.go)."""
    if container.status == "created":
        return "Created"
    if container.status == "running":
        return f"Up {_duration(now, container.started_at)}"
    name = "Restarting" if container.status == "restarting" else "Exited"
    return f"{name} ({container.exit_code}) {_duration(now, container.finished_at)} ago"


def _duration(now: datetime, since: str) -> str:
    """A rough length of time in words (docker/go-units, HumanDuration)."""
    seconds = int((now - datetime.fromisoformat(since)).total_seconds())
    if seconds < 1:
        return "Less than a second"
    if seconds == 1:
        return "1 second"
    if seconds < 60:
        return f"{seconds} seconds"
    if seconds < 120:
        return "About a minute"
    if seconds < 3600:
        return f"{seconds // 60} minutes"
    hours = (seconds + 1800) // 3600
    if hours <= 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    return f"{hours // (24 * 7)} weeks"
