"""Deploying on the sandbox: its SSH server, its Docker Engine API, its relays, and what goes wrong with them."""

import itertools
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.deploy import read_differences, remove_relay
from containers.image import build_placeholder
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine, open_engine
from fleet.ssh import Connection, Endpoint, RemoteError
from tests.containers.deploying import PANEL, DeployBehaviour, Host, served_pin, wanted_pin


def free_ports(address: str) -> Iterator[int]:
    """Ports that nobody holds, neither TCP nor UDP, below those that the system gives away."""
    return (port for port in itertools.count(20000) if is_free(address, port))


def is_free(address: str, port: int) -> bool:
    with socket.socket(type=socket.SOCK_STREAM) as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        try:
            tcp.bind((address, port))
            udp.bind((address, port))
        except OSError:
            return False
    return True


def connect(sandbox: Sandbox) -> Engine:
    server = sandbox.hosts[0]
    private_key = Path(server.private_key_path).read_text()
    endpoint = Endpoint(server.address, server.ssh_port, server.user, server.host_key, private_key)
    return open_engine(Connection.open(endpoint), server.docker_socket)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    # Addresses of this process alone: other tests and a demo may run beside it.
    subnet = f"127.{100 + os.getpid() // 256 % 64}.{os.getpid() % 256}"
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet) as running:
        yield running


@pytest.fixture
def host(sandbox: Sandbox, tmp_path: Path) -> Host:
    address = sandbox.hosts[0].address
    return Host(connect(sandbox), address, free_ports(address), build_placeholder(tmp_path))


class TestDeployInTheSandbox(DeployBehaviour):
    """What every fleet promises."""


@pytest.mark.parametrize("step", ["image", "create", "files", "start"])
def test_nothing_is_left_when_the_disk_fills_up(sandbox: Sandbox, host: Host, step: str) -> None:
    spec = host.spec()

    def fill_disk(name: str) -> None:
        if name == step:
            sandbox.server(0).fault(disk_full=True)

    with pytest.raises(RemoteError) as refusal:
        host.make(spec, fill_disk)
    assert refusal.value.code == "disk_full"
    assert host.steps[-1] == step
    remove_relay(host.engine, PANEL, spec.relay_id)
    assert host.leftovers() == ([], set())
    sandbox.server(0).heal()
    assert host.make(spec) is True


@pytest.mark.parametrize(
    "request_name",
    [
        "POST /networks/create",
        "POST /images/load",
        "POST /volumes/create",
        "POST /containers/create",
        "PUT /containers/{id}/archive",
        "POST /containers/{id}/start",
    ],
)
def test_one_whole_relay_stands_when_the_server_died_in_between(
    sandbox: Sandbox, host: Host, request_name: str
) -> None:
    spec = host.spec()
    sandbox.server(0).fault(dies_after=request_name)
    with pytest.raises(RemoteError):
        host.make(spec)
    sandbox.server(0).heal()
    host.engine = connect(sandbox)
    host.make(spec)
    assert host.only().state == "running"
    assert read_differences(host.engine, spec) == []
    assert served_pin(spec) == wanted_pin(spec)
