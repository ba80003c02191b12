"""The facts script run by this machine's shell, and the parser against what hosts may print."""

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from fleet.facts import FACTS_SCRIPT, HostFacts, parse_facts
from fleet.ssh import RemoteError
from fleet.ssh.shell import Wrapped

ALPINE = """Welcome!
derpmgmt-facts
clock 1795331918.%N
cores 2
load 0.33 0.66 0.44
memory_total 24684084
memory_available 24015624
disk_total 264212084
disk_free 81228412
interface eth0
received 524815789
sent 1141372
docker usable
boot 892e0608-3fc3-4faf-92b8-caaf259a446f
kernel 6.1.0
machine x86_64
os "Alpine Linux v3.19"
derpmgmt-end
"""


def run_here(docker_socket: str, folder: str) -> HostFacts:
    answer = subprocess.run(
        ["sh", "-c", FACTS_SCRIPT, "sh", docker_socket, folder],
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stderr == ""
    return parse_facts(answer.stdout, time.time())


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the script is for Linux")
def test_script_tells_this_machine_when_run_here(tmp_path: Path) -> None:
    facts = run_here(str(tmp_path / "absent"), str(tmp_path))
    disk = os.statvfs(tmp_path)
    assert abs(facts.clock_offset) < 30
    up = float(Path("/proc/uptime").read_text().split()[0])
    assert facts.uptime_seconds is not None
    assert up - 30 < facts.uptime_seconds <= up
    assert facts.cores == len(os.sched_getaffinity(0))
    assert facts.memory_total_bytes == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert facts.disk.total_bytes == disk.f_blocks * disk.f_frsize
    assert facts.boot_id == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts.kernel == os.uname().release
    assert facts.machine == os.uname().machine
    assert "127.0.0.1" in facts.addresses
    assert not facts.docker_socket
    assert not facts.docker_usable


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the script is for Linux")
def test_script_finds_the_socket_when_it_is_there(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "docker.sock"))
        facts = run_here(str(tmp_path / "docker.sock"), "")
    assert facts.docker_socket
    assert facts.docker_usable


@pytest.mark.parametrize(
    ("line", "address"),
    [
        ("ssh 198.51.100.7 51234 203.0.113.10 22", "198.51.100.7"),
        ("ssh ::ffff:198.51.100.7 51234 ::ffff:203.0.113.10 22", "198.51.100.7"),
        ("ssh fe80::1%eth0 51234 fe80::2%eth0 22", "fe80::1"),
        ("ssh ", ""),
        ("ssh UNKNOWN 65535 UNKNOWN 65535", ""),
        ("kernel 6.1.0", ""),
    ],
)
def test_facts_tell_where_the_server_sees_us_come_from(line: str, address: str) -> None:
    assert parse_facts(ALPINE.replace("kernel 6.1.0", f"kernel 6.1.0\n{line}"), 0).ssh_client == address


def test_facts_are_read_when_host_is_busybox_and_greets() -> None:
    facts = parse_facts(ALPINE, 1795331910.0)
    assert facts.clock_offset == 8.0
    assert facts.uptime_seconds is None
    assert (facts.load1, facts.load5, facts.load15) == (0.33, 0.66, 0.44)
    assert facts.memory_available_bytes == 24015624 * 1024
    assert facts.disk.free_bytes == 81228412 * 1024
    assert (facts.interface, facts.received_bytes, facts.sent_bytes) == ("eth0", 524815789, 1141372)
    assert facts.os_name == "Alpine Linux v3.19"


def test_counters_are_unknown_when_there_is_no_default_route() -> None:
    lines = [
        line for line in ALPINE.splitlines(True) if not line.startswith(("interface", "received", "sent"))
    ]
    facts = parse_facts("".join(lines), 0)
    assert (facts.interface, facts.received_bytes, facts.sent_bytes) == ("", None, None)


@pytest.mark.parametrize(
    "output",
    [
        "",
        "command not found",
        ALPINE.replace("derpmgmt-end\n", ""),
        ALPINE.replace("cores 2", "cores many"),
        ALPINE.replace("load 0.33 0.66 0.44", "load 0.33"),
        ALPINE.replace("boot ", "shoe "),
        ALPINE.replace("clock 1795331918.%N", "clock ?"),
    ],
)
def test_answer_is_garbage_when_something_is_missing_or_wrong(output: str) -> None:
    with pytest.raises(RemoteError) as caught:
        parse_facts(output, 0)
    assert caught.value.code == "garbage_facts"


@pytest.mark.parametrize(
    ("lines", "server", "addresses"),
    [
        ("", "", set()),
        ("ssh \naddresses\n", "", set()),
        ("ssh 198.51.100.9 50022 10.0.0.4 22\naddresses 127.0.0.1 10.0.0.4 172.17.0.1\n", "10.0.0.4", {"127.0.0.1", "10.0.0.4", "172.17.0.1"}),
        ("ssh ::ffff:198.51.100.9 50022 ::ffff:10.0.0.4 22\naddresses 10.0.0.4\n", "10.0.0.4", {"10.0.0.4"}),
        ("ssh fe80::1%eth0 50022 fe80::2%eth0 22\n", "fe80::2", set()),
    ],
)  # fmt: skip
def test_own_addresses_are_told_where_the_machine_tells_them(
    lines: str, server: str, addresses: set[str]
) -> None:
    facts = parse_facts(ALPINE.replace("docker usable\n", f"docker usable\n{lines}"), 1795331918)
    assert (facts.ssh_server, set(facts.addresses)) == (server, addresses)


def test_the_script_is_a_command_that_dropbear_takes() -> None:
    """It ends the connection where one has more than 9,000 bytes (MAX_CMD_LEN in its sysoptions.h)."""
    script = f"set -- '{'/run/user/1000/docker.sock':<200}' '{'/var/lib/docker':<200}'\n{FACTS_SCRIPT}"
    assert len(Wrapped(script).command) < 9000
