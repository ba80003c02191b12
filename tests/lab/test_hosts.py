"""The lab's own hosts: each is its own, of its kind, and leaves nothing behind."""

import subprocess
from pathlib import Path

import pytest

from fleet import ssh
from fleet.engine import open_engine
from fleet.facts import read_facts
from fleet.ssh import Connection
from tests.lab import network
from tests.lab.host import Host
from tests.lab.hosts import Lab, lab
from tests.lab.kinds import ROOTLESS
from tests.lab.shell_image import IMAGE, endpoint, run_container

pytestmark = pytest.mark.lab


def test_hosts_do_not_share_anything_when_there_are_three(running_lab: Lab, archive: Path) -> None:
    hosts = running_lab.hosts[:3]
    assert len({host.host_key for host in hosts}) == len({host.address for host in hosts}) == 3
    connections = [Connection.open(endpoint(host)) for host in hosts]
    engines = [
        open_engine(connection, host.docker_socket)
        for connection, host in zip(connections, hosts, strict=True)
    ]
    assert len({engine.info()["ID"] for engine in engines}) == 3
    facts = [
        read_facts(connection, host.docker_socket, host.data_root)
        for connection, host in zip(connections, hosts, strict=True)
    ]
    assert len({fact.boot_id for fact in facts}) == 3
    for engine in engines:
        with archive.open("rb") as data:
            list(engine.load_image(data))
        engine.create_container(IMAGE, name="same")
    for engine in engines:
        assert [item["Names"] for item in engine.containers(all=True)] == [["/same"]]
        engine.remove_container("same")
        engine.connection.close()


def test_lab_reuses_what_runs_and_replaces_what_died_when_brought_up_again(tmp_path: Path) -> None:
    with lab(1, tmp_path / "own") as own:
        host = own.hosts[0]
        with Connection.open(endpoint(host)) as connection:
            before = open_engine(connection, host.docker_socket).info()["ID"]
            own.up(1)
            assert connection.ping()
            host.kill_docker()
            own.up(1)
            assert open_engine(connection, host.docker_socket).info()["ID"] == before
        assert own.hosts == [host]


def test_each_good_host_is_of_its_kind(running_lab: Lab, archive: Path) -> None:
    plain, printing, unforwarded = running_lab.hosts[:3]
    assert [proxies_of(host) for host in (plain, printing, unforwarded)] == [False] * 3
    for host, is_proxied in ((plain, True), (printing, False), (unforwarded, True)):
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "100"], port=4333)
            assert proxies_of(host) is is_proxied
            engine.remove_container(container, force=True)
    # OpenSSH's own client: the panel's leaves out what a login shell prints.
    how = [
        "-i",
        printing.private_key_path,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    said = subprocess.run(
        ["ssh", *how, f"{printing.user}@{printing.address}", "echo said"], check=True, capture_output=True
    )
    lines = said.stdout.decode().splitlines()
    assert lines[0] == f"Welcome to {printing.name}!"
    assert lines[-2:] == ["said", f"Good-bye from {printing.name}."]
    with Connection.open(endpoint(unforwarded)) as connection, pytest.raises(ssh.ForwardingRefused):
        connection.open_unix(unforwarded.docker_socket)


def proxies_of(host: Host) -> bool:
    """Whether Docker's proxy stands before a port of the host."""
    return any(
        b"docker-proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in network.pids_in_namespace(host.netns)
    )


def test_rootless_host_runs_containers_of_its_user(rootless_host: Host, archive: Path) -> None:
    with Connection.open(endpoint(rootless_host)) as connection:
        assert connection.run("id -un").stdout == b"relays\n"
        engine = open_engine(connection, rootless_host.docker_socket)
        assert "name=rootless" in engine.info()["SecurityOptions"]
        with archive.open("rb") as data:
            list(engine.load_image(data))
        container = run_container(engine, ["/bin/sleep", "100"], port=4334)
        assert engine.inspect_container(container)["State"]["Status"] == "running"
        engine.remove_container(container, force=True)


def test_nothing_is_left_when_a_rootless_host_is_taken_down(tmp_path: Path, archive: Path) -> None:
    own = Lab(tmp_path / "own")
    try:
        host = own.up(1, [ROOTLESS])[0]
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "1000"])
            running = engine.inspect_container(container)["State"]["Pid"]
            assert network.is_running(running)
        (own.state / "lab.json").unlink()
        host.kill_docker()
    finally:
        own.down()
    assert not network.is_running(running)
    assert own.mark not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{own.mark}"))
    assert not own.state.exists()
    assert not own.runtime.exists()


def test_nothing_is_left_when_a_lab_with_running_containers_is_taken_down(
    tmp_path: Path, archive: Path
) -> None:
    own = Lab(tmp_path / "own")
    try:
        host = own.up(1)[0]
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "1000"])
            running = engine.inspect_container(container)["State"]["Pid"]
        (own.state / "lab.json").unlink()  # as a crash half-way leaves it
        host.kill_docker()
    finally:
        own.down()
    assert not network.is_running(running)
    assert not network.namespaces_of(own.mark)
    assert not network.interface_exists(own.bridge)
    assert not network.interface_exists(host.wire)
    assert own.mark not in Path("/proc/self/mountinfo").read_text()
    assert str(own.state) not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{own.mark}"))
    assert not own.state.exists()
    assert not own.runtime.exists()
