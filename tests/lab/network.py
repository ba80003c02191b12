"""The lab's wires and what is left of them: network namespaces on a bridge, and everything that runs or hangs in them."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path


def ip(*words: str, namespace: str = "") -> str:
    """Runs iproute2's `ip` (inside a namespace) and returns what it prints. Raises CalledProcessError."""
    where = ["-n", namespace] if namespace else []
    return subprocess.run(["ip", *where, *words], check=True, capture_output=True, text=True).stdout


def run_inside(namespace: str, *command: str) -> None:
    """Runs a command in the network of a namespace. Raises CalledProcessError."""
    subprocess.run(["nsenter", f"--net=/run/netns/{namespace}", *command], check=True, capture_output=True)


def interface_exists(name: str) -> bool:
    """Whether this machine's own namespace has that interface."""
    return Path("/sys/class/net", name).exists()


def free_subnet() -> int:
    """The third number of the first 10.77.N.0/24 that no interface of this machine uses."""
    taken = ip("-4", "-o", "address")
    return next(n for n in range(256) if f"10.77.{n}.1/" not in taken)


def make_bridge(name: str, address: str) -> None:
    """A bridge with an address, up; kept when it is there."""
    if not interface_exists(name):
        ip("link", "add", name, "type", "bridge")
    ip("address", "replace", f"{address}/24", "dev", name)
    ip("link", "set", name, "up")


def make_namespace(name: str, wire: str, bridge: str, address: str, gateway: str) -> None:
    """A namespace whose `eth0` has that address and hangs on the bridge by the interface `wire`; kept when it is there."""
    if not Path("/run/netns", name).exists():
        ip("netns", "add", name)
    if not interface_exists(wire):
        ip("link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", name)
    ip("link", "set", wire, "master", bridge, "up")
    ip("link", "set", "lo", "up", namespace=name)
    ip("address", "replace", f"{address}/24", "dev", "eth0", namespace=name)
    ip("link", "set", "eth0", "up", namespace=name)
    ip("route", "replace", "default", "via", gateway, namespace=name)


def pids_in_namespace(name: str) -> set[int]:
    """The processes whose network is that namespace."""
    try:
        wanted = Path("/run/netns", name).stat().st_ino
    except OSError:
        return set()
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "ns/net").stat().st_ino == wanted:
                    found.add(int(entry.name))
    return found


def _cgroups(name: str) -> list[Path]:
    """The control groups of that name, in every hierarchy of version 1 or the one of version 2; innermost first."""
    root = Path("/sys/fs/cgroup")
    tops = [root / name, *(hierarchy / name for hierarchy in root.iterdir() if hierarchy.is_dir())]
    found: list[Path] = []
    for top in tops:
        found += [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
    return found


def in_cgroup(name: str, command: list[str]) -> list[str]:
    """A command that runs that command in the control group of that name, in every hierarchy that lets it in."""
    root = Path("/sys/fs/cgroup")
    groups = [
        hierarchy / name for hierarchy in (root, *root.iterdir()) if (hierarchy / "cgroup.procs").exists()
    ]
    for group in groups:
        group.mkdir(parents=True, exist_ok=True)
    script = (
        'for group in $GROUPS_TO_JOIN; do echo $$ 2>/dev/null >"$group/cgroup.procs" || :; done; exec "$@"'
    )
    joined = " ".join(map(str, groups))
    return ["env", f"GROUPS_TO_JOIN={joined}", "sh", "-c", script, "sh", *command]


def _pids_in_cgroups(name: str) -> set[int]:
    found: set[int] = set()
    for group in _cgroups(name):
        with contextlib.suppress(OSError):
            found |= {int(line) for line in (group / "cgroup.procs").read_text().split()}
    return found


def end_everything(namespaces: list[str], cgroup: str, pids: set[int]) -> None:
    """Kills what runs in the namespaces and the control group, and the given processes, until nothing is left.

    Raises RuntimeError when something survives ten seconds.
    """
    deadline = time.monotonic() + 10
    while True:
        left = {pid for pid in pids if is_running(pid)} | _pids_in_cgroups(cgroup)
        for name in namespaces:
            left |= {pid for pid in pids_in_namespace(name) if is_running(pid)}
        left.discard(os.getpid())
        if not left:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes {sorted(left)} of the lab survive SIGKILL")
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def remove_cgroups(name: str) -> None:
    """Removes the (empty) control groups of that name."""
    for group in _cgroups(name):
        with contextlib.suppress(OSError):
            group.rmdir()


def unmount_below(folders: list[Path]) -> None:
    """Unmounts whatever is mounted in the folders, innermost first."""
    mounted = [
        line.split()[4].encode().decode("unicode_escape")
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    ours = [path for path in mounted if any(path.startswith(f"{folder}/") for folder in folders)]
    for path in sorted(ours, key=len, reverse=True):
        subprocess.run(["umount", "--lazy", path], check=False, capture_output=True)


def remove_wires(namespaces: list[str], wires: str, bridge: str) -> None:
    """Removes the namespaces, the interfaces whose names begin with `wires`, and the bridge."""
    for name in namespaces:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)
    # An interface goes with its namespace, but later; a lab that comes up at once must not meet it.
    for interface in Path("/sys/class/net").iterdir():
        if interface.name.startswith(wires) or interface.name == bridge:
            subprocess.run(["ip", "link", "delete", interface.name], check=False, capture_output=True)


def namespaces_of(prefix: str) -> list[str]:
    """The names of the namespaces that begin so."""
    folder = Path("/run/netns")
    return (
        sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(prefix))
        if folder.exists()
        else []
    )


def is_running(pid: int) -> bool:
    """Whether that process lives (one that has ended and waits for its parent does not; our own are waited for)."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def started_at(pid: int) -> str:
    """The process's start, which tells it from a later one with the same number; empty when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def remove_folder(folder: Path) -> None:
    """Removes a folder with everything in it, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
