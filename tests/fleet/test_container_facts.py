"""What the facts script reads of running containers in /proc, by every awk that hosts have, and what its parser takes."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fleet.facts import ContainerFacts, HostFacts, InterfaceFacts, parse_facts
from fleet.facts_script import CONTAINERS_AWK, MOST_CONTAINERS, MOST_LINES
from fleet.ssh import RemoteError
from tests.fleet.proc_folder import Proc, socket_line
from tests.fleet.test_facts import ALPINE

RELAY, GATE, ROOTLESS = "a1" * 32, "b2" * 32, "c3" * 32
BOOT = "892e0608-3fc3-4faf-92b8-caaf259a446f"


@pytest.fixture(params=["awk", "mawk", "gawk", "original-awk", "busybox"])
def awk(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder with one kind of awk under its usual name."""
    program = shutil.which(request.param)
    if program is None:
        pytest.skip(f"no {request.param} here")
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "awk").symlink_to(os.path.realpath(program) if request.param != "busybox" else program)
    return str(folder)


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path / "proc")


def read(proc: Proc, path: str = "") -> dict[str, ContainerFacts]:
    """What the script tells of a folder that stands for /proc."""
    script = CONTAINERS_AWK.replace("/proc", str(proc.folder))
    answer = subprocess.run(
        ["sh", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PATH": f"{path}:{os.environ['PATH']}"},
    )
    assert answer.stderr == ""
    return {one.container_id: one for one in parse(answer.stdout).containers}


def parse(lines: str) -> HostFacts:
    return parse_facts(ALPINE.replace("derpmgmt-end", f"{lines}derpmgmt-end"), 0)


def test_containers_are_told_whatever_names_them_and_whichever_awk_reads(awk: str, proc: Proc) -> None:
    proc.process(1, "systemd")
    proc.process(2, "kthreadd", parent=0)
    proc.process(9, "kworker/0:1", parent=2, cgroup=f"/docker/{RELAY}")
    proc.process(300, "containerd-shim", cgroup="/system.slice/docker.service")
    proc.process(301, "containerd-shim", cgroup=f"/docker/{GATE}")
    proc.process(302, "containerd-shim")
    # Control groups v1, in which a command that was started later has the smaller number.
    proc.process(50, "sh", parent=400, start=900, cgroup=f"/docker/{RELAY}", ticks=(5, 0), pages=10)
    proc.process(
        400, "derper) (x", parent=300, start=700, cgroup=f"/docker/{RELAY}", ticks=(120, 30), pages=2500
    )
    proc.network(
        400,
        [("eth0", 12, 9_007_199_254_740_993_1, 42)],
        tcp=socket_line(50000, "01"),
        tcp6=socket_line(8443, "0A", is_long=True)
        + 3 * socket_line(8443, "01", is_long=True)
        + socket_line(8443, "06", is_long=True),
    )
    # v2, with nginx's worker beside it; runc is there for a moment, before what it starts.
    proc.process(
        410,
        "nginx",
        parent=301,
        start=800,
        cgroup=f"/system.slice/docker-{GATE}.scope",
        ticks=(1, 0),
        pages=5,
    )
    proc.process(411, "nginx", parent=410, start=801, cgroup=f"/system.slice/docker-{GATE}.scope", pages=7)
    proc.process(399, "runc:[2:INIT]", parent=301, start=790, cgroup=f"/system.slice/docker-{GATE}.scope")
    proc.network(410, [("eth0", 14, 1, 2), ("eth1", 16, 3, 4)])
    # Rootless with v1: only what is mounted tells, and a child has its parent's.
    mounts = (
        f"1 2 8:1 / / rw - overlay overlay rw,upperdir=/home/u/containers/docker/overlay2/{'d' * 64}/diff\n"
        f"3 2 8:1 /home/u/docker/containers/{ROOTLESS}/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
    )
    proc.process(420, "derper", parent=302, start=850, cgroup="/user.slice", mounts=mounts, ticks=(7, 0))
    proc.process(421, "child", parent=420, start=851, cgroup="", ticks=(3, 0))
    found = read(proc, awk)

    assert set(found) == {RELAY, GATE, ROOTLESS}
    assert found[RELAY] == ContainerFacts(
        container_id=RELAY,
        epoch=f"{BOOT}:700",
        interfaces=(InterfaceFacts("eth0", 12, 9_007_199_254_740_993_1, 42),),
        cpu_seconds=1.55,
        memory_bytes=2510 * 4096,
        connections=3,
    )
    assert found[GATE].interfaces == (InterfaceFacts("eth0", 14, 1, 2), InterfaceFacts("eth1", 16, 3, 4))
    assert (found[GATE].epoch, found[GATE].memory_bytes, found[GATE].connections) == (
        f"{BOOT}:800",
        12 * 4096,
        0,
    )
    # Nothing of its network may be read: that is not known, which is not nothing.
    assert (found[ROOTLESS].cpu_seconds, found[ROOTLESS].interfaces) == (0.1, ())
    assert found[ROOTLESS].connections is None


def test_no_containers_are_told_when_processes_end_while_they_are_read(awk: str, proc: Proc) -> None:
    for pid in (5, 6):
        (proc.folder / str(pid)).mkdir(parents=True)
    assert read(proc, awk) == {}


def test_what_is_printed_is_bounded_when_there_are_more_containers(proc: Proc) -> None:
    for pid in range(10, 10 + MOST_CONTAINERS + 5):
        proc.process(pid, "x", cgroup=f"/docker/{pid:064x}")
    proc.network(10, [(f"eth{place}", place, 1, 1) for place in range(20)])
    found = read(proc)
    assert len(found) == MOST_CONTAINERS
    assert max(len(one.interfaces) for one in found.values()) == 8


@pytest.mark.parametrize(
    "line",
    [
        "container",
        f"container {RELAY} 700",
        f"container {RELAY[:-1]} 700 1 1 1",
        f"container {RELAY} x 1 1 1",
        f"container {RELAY} 700 1 1 1 eth0 1 2",
        f"container {RELAY} 700 1 1 1 eth0 1 -2 3",
        f"container {RELAY} 700 1 1 1 eth0 1 2 {'9' * 5000}",
        f"container {RELAY} 700 1 1 1" + " eth0 1 2 3" * 9,
    ],
)
def test_only_that_container_is_unknown_when_its_line_is_wrong(line: str) -> None:
    right = f"container {GATE} 800 - 2 3 eth0 - 5 6"
    found = parse(f"{line}\n{right}\n").containers
    assert found == (
        ContainerFacts(GATE, f"{BOOT}:800", (InterfaceFacts("eth0", None, 5, 6),), None, 2 * 4096, 3),
    )


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("cpu 1 2", "cpu_ticks"),
        ("cpu 1 2 3 nan", "cpu_ticks"),
        ("swap_total many", "swap_total_bytes"),
        ("root_total 1\nroot_free x", "root"),
        ("received 99999999999999999999", "received_bytes"),
        ("sent -5", "sent_bytes"),
    ],
)
def test_only_that_figure_is_unknown_when_its_line_is_wrong(line: str, name: str) -> None:
    facts = parse(f"{line}\n")
    assert getattr(facts, name) is None
    assert facts.cores == 2


def test_figures_are_told_when_the_script_prints_them() -> None:
    facts = parse(
        "cpu 100 10 50 800 40 0 5 5 60 0\nswap_total 10\nswap_free 4\nroot_total 100\nroot_free -3\ninodes 20 5\nroot_inodes 0 0\n"
    )
    assert facts.cpu_ticks == (170, 1010)
    assert (facts.swap_total_bytes, facts.swap_free_bytes) == (10240, 4096)
    assert (facts.disk.inodes, facts.disk.free_inodes) == (20, 5)
    assert facts.root is not None
    assert (facts.root.free_bytes, facts.root.inodes) == (0, None)


@pytest.mark.parametrize("lines", ["x\n" * MOST_LINES, f"container {RELAY} 700 1 1 1\n" * MOST_LINES])
def test_answer_is_garbage_when_it_has_more_lines_than_the_script_prints(lines: str) -> None:
    with pytest.raises(RemoteError) as caught:
        parse(lines)
    assert caught.value.code == "garbage_facts"
