"""What one look at a server tells: a constant shell script, and the parser of what it prints."""

import ipaddress
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from shlex import quote
from typing import TYPE_CHECKING, TypeVar

from fleet.facts_script import FACTS_SCRIPT, MOST_INTERFACES, MOST_LINES, TICKS_A_SECOND
from fleet.ssh import RemoteError

if TYPE_CHECKING:
    from fleet.ssh import Connection

Value = TypeVar("Value")

DOCKER_SOCKET = "/var/run/docker.sock"


@dataclass(frozen=True)
class InterfaceFacts:
    """One interface inside a container, with what came in and went out on it since it was made, in bytes.

    `index` is the interface's number in its network namespace: an interface that came back under its name has another one, and
    counts from 0 again. None where the host does not tell.
    """

    name: str
    index: int | None
    received_bytes: int
    sent_bytes: int


@dataclass(frozen=True)
class ContainerFacts:
    """A running container at the moment of a visit, read from /proc; what the SSH user may not read is None.

    `container_id` is the Engine's (64 hex digits). `epoch` is another one after every start of the container or the host: all
    counters begin anew with it. `interfaces` are all but the loopback. `connections` are the established TCP connections to the
    ports on which the container listens.
    """

    container_id: str
    epoch: str
    interfaces: tuple[InterfaceFacts, ...] = ()
    cpu_seconds: float | None = None
    memory_bytes: int | None = None
    connections: int | None = None


def used_share(total: int | None, free: int | None) -> float | None:
    """How much of something is in use, from 0 to 1; None where that is not known, or there is none of it."""
    if not total or free is None:
        return None
    return min(max(1 - free / total, 0.0), 1.0)


@dataclass(frozen=True)
class Space:
    """A file system: its size and what is free for users, in bytes; its index nodes, None where it has no fixed number of them."""

    total_bytes: int
    free_bytes: int
    inodes: int | None = None
    free_inodes: int | None = None

    @property
    def used_share(self) -> float | None:
        """What is not free for users, as a share of 1."""
        return used_share(self.total_bytes, self.free_bytes)

    @property
    def used_inodes_share(self) -> float | None:
        """The same of the index nodes."""
        return used_share(self.inodes, self.free_inodes)


@dataclass(frozen=True)
class HostFacts:
    """A server at one moment. Sizes are bytes, loads the kernel's averages over 1, 5 and 15 minutes. What it does not tell is None.

    `clock_offset` is how many seconds the server's clock is ahead of ours (busybox tells whole seconds only); `cpu_ticks` are the
    times that all its processors together were busy and were there at all, since the boot, in units of the kernel's; `disk` is the
    file system of Docker's folder, `root` that of `/`; `received_bytes` and `sent_bytes` count from
    the boot (`boot_id`) on the interface of the default route, whose name is empty when there is no such route;
    `docker_socket` tells whether the Docker socket is there, `docker_usable` whether the SSH user may use it; `ssh_client` is the
    address that the SSH connection comes from as the server sees it, `ssh_server` the server's own address that it came to, both empty
    where it does not tell; `addresses` are the machine's own IPv4 addresses, empty likewise; `containers` are those that run, in
    nobody's order; `uptime_seconds` is how long ago it was booted, read before everything else: nobody sets that clock back;
    `answer_seconds` is how long the whole answer took.
    """

    clock_offset: float
    cores: int
    load1: float
    load5: float
    load15: float
    memory_total_bytes: int
    memory_available_bytes: int
    disk: Space
    docker_socket: bool
    docker_usable: bool
    boot_id: str
    kernel: str
    machine: str
    os_name: str
    cpu_ticks: tuple[int, int] | None = None
    swap_total_bytes: int | None = None
    swap_free_bytes: int | None = None
    root: Space | None = None
    interface: str = ""
    received_bytes: int | None = None
    sent_bytes: int | None = None
    ssh_client: str = ""
    ssh_server: str = ""
    addresses: frozenset[str] = frozenset()
    containers: tuple[ContainerFacts, ...] = ()
    uptime_seconds: float | None = None
    answer_seconds: float | None = None


def parse_facts(output: str, asked_at: float) -> HostFacts:
    """The facts in the script's output; `asked_at` is our clock (seconds since 1970) at the time the server read its own.

    What a login shell prints around them is ignored. Raises RemoteError (garbage_facts) when anything is missing that every server
    tells, or is no number, and when there are more lines than the script prints; any other line that is wrong is one that is not told.
    """
    words = output.partition("derpmgmt-facts\n")[2]
    text, end, _after = words.partition("\nderpmgmt-end")
    said: dict[str, str] = {}
    containers: list[str] = []
    try:
        if not end:
            raise ValueError("the end is missing")
        lines = text.split("\n", MOST_LINES)
        if len(lines) > MOST_LINES:
            raise ValueError("too many lines")
        for line in lines:
            name, _space, value = line.partition(" ")
            if name == "container":
                containers.append(value)
            else:
                said[name] = value.strip()[:_LONGEST_VALUE]
        load1, load5, load15 = (_decimal(number) for number in said["load"].split())
        docker = said["docker"]
        clock = _decimal(said["clock"].partition("%")[0].rstrip("."))  # busybox may know no %N
        boot_id = said["boot"]
        return HostFacts(
            clock_offset=clock - asked_at,
            cores=_whole(said["cores"]),
            load1=load1,
            load5=load5,
            load15=load15,
            memory_total_bytes=_whole(said["memory_total"]) * 1024,
            memory_available_bytes=_whole(said["memory_available"]) * 1024,
            disk=_read_space(said, "disk", said.get("inodes", "")),
            docker_socket=docker != "absent",
            docker_usable=docker == "usable",
            boot_id=boot_id,
            kernel=said["kernel"],
            machine=said["machine"],
            os_name=said["os"].strip("\"'"),
            cpu_ticks=_told(lambda: _read_ticks(said["cpu"])),
            swap_total_bytes=_told(lambda: _whole(said["swap_total"]) * 1024),
            swap_free_bytes=_told(lambda: _whole(said["swap_free"]) * 1024),
            root=_told(lambda: _read_space(said, "root", said.get("root_inodes", ""))),
            interface=said.get("interface", ""),
            received_bytes=_told(lambda: _whole(said["received"])),
            sent_bytes=_told(lambda: _whole(said["sent"])),
            ssh_client=_ssh_end(said.get("ssh", ""), 0),
            ssh_server=_ssh_end(said.get("ssh", ""), 2),
            addresses=frozenset(said.get("addresses", "").split()),
            uptime_seconds=_told(lambda: _decimal(said["uptime"])),
            containers=_read_containers(containers, boot_id, _told(lambda: _whole(said["page"]))),
        )
    except (KeyError, ValueError) as error:
        raise RemoteError(code="garbage_facts", detail=f"{error}: {output[:200]}") from None


# Some hosts have thousands of addresses of their own, and that is all that is long.
_LONGEST_VALUE = 64 * 1024
_WHOLE = re.compile(r"\d{1,18}")  # fits the 64 bits that a database has
_DECIMAL = re.compile(r"\d{1,15}(\.\d{1,9})?")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def _whole(text: str) -> int:
    """Raises ValueError for anything but a number of 18 digits at most."""
    if not _WHOLE.fullmatch(text):
        raise ValueError(f"no number: {text[:40]}")
    return int(text)


def _decimal(text: str) -> float:
    """Raises ValueError for anything but a plain decimal number: not for the words nan and inf alone, which float() takes."""
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"no number: {text[:40]}")
    return float(text)


def _told(read: Callable[[], Value]) -> Value | None:
    """What `read` gives; None when the line is missing or wrong."""
    try:
        return read()
    except (KeyError, ValueError):
        return None


def _read_ticks(text: str) -> tuple[int, int]:
    """From the first line of /proc/stat (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of
    user's. What the host of a virtual machine took away counts as busy, for it is not there to be used."""
    numbers = [_whole(number) for number in text.split()[:8]]
    if len(numbers) < 4:
        raise ValueError("no times")
    return sum(numbers) - sum(numbers[3:5]), sum(numbers)


def _read_space(said: Mapping[str, str], name: str, inodes: str) -> Space:
    """Raises KeyError and ValueError; not for index nodes."""
    # More may be in use than users may fill: then df tells less than nothing is left.
    free = _whole(said[f"{name}_free"].removeprefix("-")) if said[f"{name}_free"][:1] != "-" else 0
    total, left = _told(lambda: [_whole(number) for number in inodes.split()] or None) or (0, 0)
    return Space(
        total_bytes=_whole(said[f"{name}_total"]) * 1024,
        free_bytes=free * 1024,
        inodes=total or None,
        free_inodes=left if total else None,
    )


def _read_containers(lines: Iterable[str], boot_id: str, page: int | None) -> tuple[ContainerFacts, ...]:
    """The containers of the lines that are right; of two with one id the first."""
    found: dict[str, ContainerFacts] = {}
    for line in lines:
        one = _told(partial(_read_container, line, boot_id, page or 4096))
        if one is not None:
            found.setdefault(one.container_id, one)
    return tuple(found.values())


def _read_container(line: str, boot_id: str, page: int) -> ContainerFacts:
    """Raises ValueError."""
    container_id, start, ticks, pages, connections, *rest = line.split()
    if not _CONTAINER_ID.fullmatch(container_id) or len(rest) % 4 or len(rest) > 4 * MOST_INTERFACES:
        raise ValueError("no container")
    return ContainerFacts(
        container_id=container_id,
        epoch=f"{boot_id}:{_whole(start)}",
        interfaces=tuple(
            InterfaceFacts(
                name=rest[at][:40],
                index=_told(partial(_whole, rest[at + 1])),
                received_bytes=_whole(rest[at + 2]),
                sent_bytes=_whole(rest[at + 3]),
            )
            for at in range(0, len(rest), 4)
        ),
        cpu_seconds=_told(lambda: _whole(ticks) / TICKS_A_SECOND),
        memory_bytes=_told(lambda: _whole(pages) * page),
        connections=_told(lambda: _whole(connections)),
    )


def _ssh_end(words: str, place: int) -> str:
    """The address at a place of sshd's `$SSH_CONNECTION` ("CLIENT PORT SERVER PORT"), IPv4 as such; "" when there is none."""
    try:
        address = ipaddress.ip_address(words.split()[place].partition("%")[0])
    except (ValueError, IndexError):
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)


def read_facts(
    connection: "Connection", docker_socket: str = DOCKER_SOCKET, docker_root: str = "", timeout: float = 15.0
) -> HostFacts:
    """Asks a server, with one command. `docker_root` is Docker's data folder where it is not the usual one.

    Raises RemoteError (garbage_facts), TimedOut, Unreachable, CommandFailed.
    """
    before = time.time()
    script = f"set -- {quote(docker_socket)} {quote(docker_root)}\n{FACTS_SCRIPT}"
    begun = time.monotonic()
    answer = connection.run(script, timeout)
    seconds = time.monotonic() - begun
    facts = parse_facts(answer.stdout.decode(errors="replace"), before + seconds / 2)
    return replace(facts, answer_seconds=seconds)
