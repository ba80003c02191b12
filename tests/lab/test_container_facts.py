"""What a visit reads of real containers, on hosts of every kind and as a user without rights."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleet.engine import Engine, open_engine
from fleet.facts import FACTS_SCRIPT, ContainerFacts, read_facts
from fleet.ssh import Connection
from tests.lab.host import Host
from tests.lab.hosts import Lab
from tests.lab.shell_image import IMAGE, endpoint, run_container

pytestmark = pytest.mark.lab

MANY = 20


def load(engine: Engine, archive: Path) -> None:
    if not engine.images(IMAGE):
        with archive.open("rb") as data:
            list(engine.load_image(data))


def tidy(host: Host) -> None:
    with Connection.open(endpoint(host)) as connection:
        engine = open_engine(connection, host.docker_socket)
        for container in engine.containers(all=True):
            engine.remove_container(container["Id"], force=True, v=True)


def read_one(connection: Connection, host: Host, container_id: str) -> ContainerFacts:
    found = read_facts(connection, host.docker_socket, host.data_root).containers
    return next(one for one in found if one.container_id == container_id)


def check_container(host: Host, archive: Path) -> None:
    """One container from its start to a restart, as the script tells it."""
    with Connection.open(endpoint(host)) as connection:
        engine = open_engine(connection, host.docker_socket)
        load(engine, archive)
        # It burns some time before it waits.
        words = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; exec /bin/sleep 1000"
        container_id = run_container(engine, ["/bin/sh", "-c", words], port=4345)
        try:
            deadline = time.monotonic() + 20
            while not (first := read_one(connection, host, container_id)).cpu_seconds:
                assert time.monotonic() < deadline
            assert [interface.name for interface in first.interfaces] == ["eth0"]
            assert first.interfaces[0].index
            assert first.memory_bytes is not None
            assert 100_000 < first.memory_bytes < 100_000_000
            assert first.connections == 0
            later = read_one(connection, host, container_id)
            assert later.epoch == first.epoch
            assert later.interfaces[0].index == first.interfaces[0].index
            assert later.interfaces[0].received_bytes >= first.interfaces[0].received_bytes
            engine.restart(container_id, timeout=0)
            again = read_one(connection, host, container_id)
            assert again.epoch != first.epoch
            assert again.interfaces[0].index != first.interfaces[0].index
        finally:
            engine.remove_container(container_id, force=True, v=True)
        with pytest.raises(StopIteration):
            read_one(connection, host, container_id)


def test_containers_are_read_on_hosts_of_every_kind(running_lab: Lab, archive: Path) -> None:
    for host in running_lab.hosts[:3]:
        check_container(host, archive)


def test_containers_are_read_when_docker_is_rootless(rootless_host: Host, archive: Path) -> None:
    check_container(rootless_host, archive)


def test_twenty_containers_cost_one_round_trip_and_little_time(
    running_lab: Lab, archive: Path, record_property: Callable[[str, object], None]
) -> None:
    host = running_lab.hosts[0]
    with Connection.open(endpoint(host)) as connection:
        engine = open_engine(connection, host.docker_socket)
        load(engine, archive)

        def seconds() -> float:
            took = []
            for _time in range(10):
                begun = time.monotonic()
                read_facts(connection, host.docker_socket, host.data_root)
                took.append(time.monotonic() - begun)
            return statistics.median(took)

        try:
            without = seconds()
            made = {run_container(engine, ["/bin/sleep", "1000"]) for _number in range(MANY)}
            found = read_facts(connection, host.docker_socket, host.data_root).containers
            assert {one.container_id for one in found} >= made
            with_many = seconds()
            times = connection.run(f"({FACTS_SCRIPT}) >/dev/null; times").stdout.decode().split()
        finally:
            tidy(host)
    record_property("seconds", (without, with_many))
    print(
        f"facts: {without * 1000:.0f} ms without containers, {with_many * 1000:.0f} ms with {MANY}, of it the host's own {times}"
    )
    assert with_many < without + 1
