"""What one look at a server tells: a constant shell script, and the parser of what it prints."""

import ipaddress
import re
import time
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from fleet.ssh import RemoteError

if TYPE_CHECKING:
    from fleet.ssh import Connection

DOCKER_SOCKET = "/var/run/docker.sock"

# POSIX sh and what Debian, Ubuntu, CentOS and Alpine (busybox) have. Its two arguments are the Docker socket's path and the folder
# whose disk counts (empty = Docker's usual one). The clock comes first: it is compared with the time of asking.
FACTS_SCRIPT = r"""LC_ALL=C
export LC_ALL
echo derpmgmt-facts
echo "clock $(date +%s.%N)"
read -r uptime rest </proc/uptime
echo "uptime $uptime"
socket=$1
folder=$2
[ -d "$folder" ] || folder=/var/lib/docker
[ -d "$folder" ] || folder=/
echo "cores $(nproc 2>/dev/null || grep -c ^processor /proc/cpuinfo)"
read -r one five fifteen rest </proc/loadavg
echo "load $one $five $fifteen"
while read -r name number rest; do
  case $name in
    MemTotal:) echo "memory_total $number" ;;
    MemAvailable:) echo "memory_available $number" ;;
  esac
done </proc/meminfo
df -P -k "$folder" | tail -n 1 | while read -r device total used free rest; do
  echo "disk_total $total"
  echo "disk_free $free"
done
interface=
while read -r name target rest; do
  [ "$target" = 00000000 ] && interface=$name && break
done </proc/net/route
if [ -n "$interface" ]; then
  set -- $(sed -n "s/^ *$interface: *//p" /proc/net/dev)
  echo "interface $interface"
  echo "received $1"
  echo "sent $9"
fi
if [ ! -S "$socket" ]; then echo "docker absent"
elif [ -r "$socket" ] && [ -w "$socket" ]; then echo "docker usable"
else echo "docker forbidden"
fi
echo "ssh $SSH_CONNECTION"
own=
if [ -r /proc/net/fib_trie ]; then
  while read -r mark word rest; do
    case "$mark $word $rest" in
      "|-- "*) address=$word ;;
      "/32 host LOCAL") own="$own $address" ;;
    esac
  done </proc/net/fib_trie
fi
echo "addresses$own"
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "kernel $(uname -r)"
echo "machine $(uname -m)"
echo "os $(sed -n 's/^PRETTY_NAME=//p' /etc/os-release)"
echo derpmgmt-end
"""


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


@dataclass(frozen=True)
class HostFacts:
    """A server at one moment. Sizes are bytes, loads the kernel's averages over 1, 5 and 15 minutes.

    `clock_offset` is how many seconds the server's clock is ahead of ours (busybox tells whole seconds only); `received_bytes` and `sent_bytes` count from
    the boot (`boot_id`) on the interface of the default route, whose name is empty when there is no such route;
    `docker_socket` tells whether the Docker socket is there, `docker_usable` whether the SSH user may use it; `ssh_client` is the
    address that the SSH connection comes from as the server sees it, `ssh_server` the server's own address that it came to, both empty
    where it does not tell; `addresses` are the machine's own IPv4 addresses, empty likewise; `containers` are those that run;
    `uptime_seconds` is how long ago it was booted, read before everything else: nobody sets that clock back. None where it does not tell.
    """

    clock_offset: float
    cores: int
    load1: float
    load5: float
    load15: float
    memory_total_bytes: int
    memory_available_bytes: int
    disk_total_bytes: int
    disk_free_bytes: int
    interface: str
    received_bytes: int
    sent_bytes: int
    docker_socket: bool
    docker_usable: bool
    boot_id: str
    kernel: str
    machine: str
    os_name: str
    ssh_client: str = ""
    ssh_server: str = ""
    addresses: frozenset[str] = frozenset()
    containers: tuple[ContainerFacts, ...] = ()
    uptime_seconds: float | None = None


def parse_facts(output: str, asked_at: float) -> HostFacts:
    """The facts in the script's output; `asked_at` is our clock (seconds since 1970) at the time the server read its own.

    What a login shell prints around them is ignored. Raises RemoteError (garbage_facts) when anything is missing or no number.
    """
    words = output.partition("derpmgmt-facts\n")[2]
    text, end, _after = words.partition("\nderpmgmt-end")
    said: dict[str, str] = {}
    for line in text.splitlines():
        name, _space, value = line.partition(" ")
        said[name] = value.strip()
    try:
        if not end:
            raise ValueError("the end is missing")
        clock = re.match(r"\d+(\.\d+)?", said["clock"])  # busybox may know no %N
        if clock is None:
            raise ValueError("no clock")
        load1, load5, load15 = (float(number) for number in said["load"].split())
        docker = said["docker"]
        return HostFacts(
            clock_offset=float(clock.group()) - asked_at,
            cores=int(said["cores"]),
            load1=load1,
            load5=load5,
            load15=load15,
            memory_total_bytes=int(said["memory_total"]) * 1024,
            memory_available_bytes=int(said["memory_available"]) * 1024,
            disk_total_bytes=int(said["disk_total"]) * 1024,
            disk_free_bytes=int(said["disk_free"]) * 1024,
            interface=said.get("interface", ""),
            received_bytes=int(said.get("received", 0)),
            sent_bytes=int(said.get("sent", 0)),
            docker_socket=docker != "absent",
            docker_usable=docker == "usable",
            boot_id=said["boot"],
            kernel=said["kernel"],
            machine=said["machine"],
            os_name=said["os"].strip("\"'"),
            ssh_client=_ssh_end(said.get("ssh", ""), 0),
            ssh_server=_ssh_end(said.get("ssh", ""), 2),
            addresses=frozenset(said.get("addresses", "").split()),
            uptime_seconds=float(said["uptime"]) if said.get("uptime") else None,
        )
    except (KeyError, ValueError) as error:
        raise RemoteError(code="garbage_facts", detail=f"{error}: {output[:200]}") from None


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
    answer = connection.run(script, timeout)
    asked_at = (before + time.time()) / 2
    return parse_facts(answer.stdout.decode(errors="replace"), asked_at)
