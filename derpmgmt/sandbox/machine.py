"""What a server of the sandbox tells about its machine: the truth about the one that the sandbox runs on."""

from __future__ import annotations

import os
import platform
import shutil
import time
from pathlib import Path

from derpmgmt.sandbox.faults import Faults

MACHINE = "x86_64"
"""What `uname -m` says. Not this machine's, since nothing of an image is run here."""


def memory_bytes() -> tuple[int, int]:
    """Total and available memory; the total twice where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    found = {name: int(words.split()[0]) * 1024 for name, _, words in (line.partition(":") for line in lines)}
    return found["MemTotal"], found["MemAvailable"]


def facts(folder: Path, boot_id: str, faults: Faults, connection: str) -> str:
    """The lines that the panel's facts script (``fleet.facts``) prints on a host.

    Not run but told, because the script needs Linux, and because the clock, the disk and Docker of this server may be
    wrong while the machine's are not. ``folder``: whose disk counts; ``connection``: what sshd has in ``$SSH_CONNECTION``. Network counters are left out: the interface belongs to
    all servers together.
    """
    total, available = memory_bytes()
    disk = shutil.disk_usage(folder)
    docker = "absent" if faults.docker == "absent" else "usable"
    lines = [
        "derpmgmt-facts",
        f"clock {time.time() + faults.clock_offset:.9f}",
        f"uptime {time.clock_gettime(time.CLOCK_MONOTONIC):.2f}",
        f"cores {os.cpu_count() or 1}",
        "load {:.2f} {:.2f} {:.2f}".format(*os.getloadavg()),
        f"memory_total {total // 1024}",
        f"memory_available {available // 1024}",
        f"disk_total {disk.total // 1024}",
        f"disk_free {0 if faults.disk_full else disk.free // 1024}",
        f"docker {docker}",
        f"ssh {connection}",
        f"addresses {connection.split()[2]}",
        f"boot {boot_id}",
        f"kernel {platform.release()}",
        f"machine {faults.machine or MACHINE}",
        'os "Sandbox"',
        "derpmgmt-end",
    ]
    return "\n".join(lines) + "\n"


def machine(boot_id: str, up_since: float) -> str:
    """The lines that the panel's question after the machine (``fleet.machine``) gives on a host; told, not run, as above."""
    up = time.monotonic() - up_since
    return f"derpmgmt-machine\n{boot_id}\n{up:.2f} {up:.2f}\nderpmgmt-end\n"


def architecture_of(faults: Faults) -> str:
    """The machine's architecture by Docker's name."""
    machine = faults.machine or MACHINE
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
