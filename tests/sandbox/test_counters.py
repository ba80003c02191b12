"""What a visit reads of the sandbox's containers: it moves as they carry bytes, and begins anew as real counters do."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from containers.spec import NETWORK
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine
from fleet.facts import ContainerFacts, HostFacts, read_facts
from fleet.ssh import Connection
from tests.sandbox.parts import Relay, endpoint_of, make_relay

pytestmark = pytest.mark.slow


@pytest.fixture
def connection(sandbox: Sandbox) -> Iterator[Connection]:
    with Connection.open(endpoint_of(sandbox.hosts[0]), 10.0) as connection:
        yield connection


@pytest.fixture
def relay(sandbox: Sandbox, engine: Engine, image: str) -> Relay:
    relay = make_relay(sandbox.hosts[0], image)
    relay.run(engine)
    return relay


def read_one(connection: Connection) -> tuple[HostFacts, ContainerFacts]:
    facts = read_facts(connection)
    (one,) = facts.containers
    return facts, one


def carried(one: ContainerFacts) -> int:
    return sum(interface.received_bytes for interface in one.interfaces)


def test_counters_move_when_the_relay_carries_a_packet(
    connection: Connection, engine: Engine, relay: Relay
) -> None:
    host, before = read_one(connection)
    assert relay.probe().ok
    host_after, after = read_one(connection)

    assert before.container_id == engine.inspect_container(relay.name)["Id"]
    assert (before.epoch, before.interfaces[0].index) == (after.epoch, after.interfaces[0].index)
    for now, then in ((after.interfaces[0], before.interfaces[0]), (host_after, host)):
        assert now.received_bytes is not None
        assert then.received_bytes is not None
        assert now.sent_bytes is not None
        assert then.sent_bytes is not None
        # Two clients that sign in and a packet of some dozen bytes.
        assert 1000 < now.received_bytes - then.received_bytes < 20_000
        assert 1000 < now.sent_bytes - then.sent_bytes < 20_000
    assert before.memory_bytes
    assert before.connections == 0
    assert before.cpu_seconds is not None
    assert after.cpu_seconds is not None
    assert host.cpu_ticks is not None
    assert host_after.cpu_ticks is not None
    assert host_after.cpu_ticks[1] > host.cpu_ticks[1]


def test_counters_begin_anew_in_another_epoch_when_the_container_starts_again(
    connection: Connection, engine: Engine, relay: Relay
) -> None:
    assert relay.probe().ok
    _host, before = read_one(connection)
    engine.stop(relay.name)
    assert read_facts(connection).containers == ()
    engine.start(relay.name)
    _host, after = read_one(connection)
    assert after.container_id == before.container_id
    assert after.epoch != before.epoch
    assert carried(after) < carried(before)


def test_counters_are_of_another_container_when_it_was_made_anew(
    connection: Connection, engine: Engine, relay: Relay
) -> None:
    assert relay.probe().ok
    _host, before = read_one(connection)
    engine.remove_container(relay.name, v=True, force=True)
    engine.remove_volume(relay.name)
    relay.run(engine)
    _host, after = read_one(connection)
    assert (after.container_id, after.epoch) != (before.container_id, before.epoch)
    assert carried(after) < carried(before)


def test_counters_are_of_another_interface_when_the_container_left_its_network(
    connection: Connection, engine: Engine, relay: Relay
) -> None:
    assert relay.probe().ok
    _host, before = read_one(connection)
    engine.disconnect_container_from_network(relay.name, NETWORK)
    assert read_one(connection)[1].interfaces == ()
    engine.connect_container_to_network(relay.name, NETWORK)
    _host, after = read_one(connection)
    assert after.epoch == before.epoch
    assert after.interfaces[0].index != before.interfaces[0].index
    assert carried(after) < carried(before)


def test_all_begins_anew_when_the_server_does(sandbox: Sandbox, connection: Connection, relay: Relay) -> None:
    assert relay.probe().ok
    host, before = read_one(connection)
    sandbox.server(0).fault(down=True)
    sandbox.server(0).heal()
    with Connection.open(endpoint_of(sandbox.hosts[0]), 10.0) as again:
        deadline = time.monotonic() + 10
        while not (facts := read_facts(again)).containers:
            assert time.monotonic() < deadline
        host_after, after = facts, facts.containers[0]
    assert host_after.boot_id != host.boot_id
    assert after.epoch != before.epoch
    assert host_after.received_bytes is not None
    assert host.received_bytes is not None
    assert host_after.received_bytes < host.received_bytes


def test_containers_are_unknown_when_the_host_hides_processes(
    sandbox: Sandbox, connection: Connection, relay: Relay
) -> None:
    sandbox.server(0).fault(hides_processes=True)
    facts = read_facts(connection)
    assert (facts.containers, facts.docker_usable) == ((), True)
