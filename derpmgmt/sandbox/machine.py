"""What a server of the sandbox tells about its machine: the truth about the one that the sandbox runs on."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from derpmgmt.sandbox.faults import Faults
from derpmgmt.sandbox.wire import Interface

MACHINE = "x86_64"
"""What `uname -m` says. Not this machine's, since nothing of an image is run here."""


# What a derper takes at rest and for a connection, and of the processors' time for a second and a byte.
_REST_BYTES, _CONNECTION_BYTES = 10 * 2**20, 110 * 1024
_TICKS_A_SECOND, _TICKS_A_BYTE = 0.2, 5e-6
_PAGE = 4096


@dataclass(frozen=True)
class Standing:
    """A running container as /proc tells it. ``start_ticks``: its start in hundredths of a second since the server's; ``seconds``:
    for how long it has run."""

    container_id: str
    start_ticks: int
    seconds: float
    connections: int
    interfaces: list[Interface]

    @property
    def line(self) -> str:
        """The line of the panel's facts script."""
        carried = sum(interface.received + interface.sent for interface in self.interfaces)
        ticks = int(self.seconds * _TICKS_A_SECOND + carried * _TICKS_A_BYTE)
        pages = (_REST_BYTES + self.connections * _CONNECTION_BYTES) // _PAGE
        words = [self.container_id, self.start_ticks, ticks, pages, self.connections]
        for interface in self.interfaces:
            words += [interface.name, interface.index, interface.received, interface.sent]
        return f"container {' '.join(map(str, words))}"


def memory_bytes() -> tuple[int, int]:
    """Total and available memory; the total twice where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    found = {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines)}
    return found["MemTotal"], found["MemAvailable"]


def facts(
    folder: Path,
    boot_id: str,
    up_since: float,
    faults: Faults,
    connection: str,
    standing: list[Standing],
    wire: Interface,
) -> str:
    """The lines that the panel's facts script (``fleet.facts``) prints on a host.

    Not run but told, because the script needs Linux, and because the clock, the disk and Docker of this server may be
    wrong while the machine's are not. ``folder``: whose disk counts; ``connection``: what sshd has in ``$SSH_CONNECTION``. The
    interface is the server's own, over which goes what its containers (``standing``) say and hear.
    """
    total, available = memory_bytes()
    disk, root = shutil.disk_usage(folder), shutil.disk_usage("/")
    docker = "absent" if faults.docker == "absent" else "usable"
    lines = [
        "derpmgmt-facts",
        f"clock {time.time() + faults.clock_offset:.9f}",
        f"uptime {time.monotonic() - up_since:.2f}",
        f"cores {os.cpu_count() or 1}",
        *_processor_times(),
        "load {:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        f"memory_total {total // 1024}",
        f"memory_available {available // 1024}",
        "swap_total 0",
        "swap_free 0",
        f"disk_total {disk.total // 1024}",
        f"disk_free {0 if faults.disk_full else disk.free // 1024}",
        f"root_total {root.total // 1024}",
        f"root_free {root.free // 1024}",
        f"inodes {_inodes(folder)}",
        f"root_inodes {_inodes(Path('/'))}",
        f"interface {wire.name}",
        f"received {wire.received}",
        f"sent {wire.sent}",
        f"docker {docker}",
        f"ssh {connection}",
        f"addresses {connection.split()[2]}",
        f"boot {boot_id}",
        f"kernel {platform.release()}",
        f"machine {faults.machine or MACHINE}",
        'os "Sandbox"',
        f"page {_PAGE}",
        *([] if faults.hides_processes else [item.line for item in standing]),
        "derpmgmt-end",
    ]
    return "\n".join(lines) + "\n"


def _processor_times() -> list[str]:
    try:
        with Path("/proc/stat").open() as file:
            return [f"cpu {file.readline().partition(' ')[2].strip()}"]
    except OSError:
        return []


def _inodes(folder: Path) -> str:
    found = os.statvfs(folder)
    return f"{found.f_files} {found.f_ffree}"


def machine(boot_id: str, up_since: float) -> str:
    """The lines that the panel's question after the machine (``fleet.machine``) gives on a host; told, not run, as above."""
    up = time.monotonic() - up_since
    return f"derpmgmt-machine\n{boot_id}\n{up:.2f} {up:.2f}\nderpmgmt-end\n"


def architecture_of(faults: Faults) -> str:
    """The machine's architecture by Docker's name."""
    machine = faults.machine or MACHINE
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
