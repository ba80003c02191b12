"""Deploying on the sandbox: its SSH server, its Docker Engine API, its relays."""

import itertools
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from containers.image import build_placeholder
from containers.sandbox.fleet import Sandbox
from fleet.engine import open_engine
from fleet.ssh import Connection, Endpoint
from tests.containers.deploying import DeployBehaviour, Host


def free_ports(address: str) -> Iterator[int]:
    """Ports that nobody holds, neither TCP nor UDP, below those that the system gives away."""
    for port in itertools.count(20000):
        with (
            suppress(OSError),
            socket.socket(type=socket.SOCK_STREAM) as tcp,
            socket.socket(type=socket.SOCK_DGRAM) as udp,
        ):
            tcp.bind((address, port))
            udp.bind((address, port))
            yield port


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    with Sandbox(tmp_path / "sandbox", servers=1) as sandbox:
        server = sandbox.hosts[0]
        connection = Connection.open(
            Endpoint(server.address, server.ssh_port, server.user, server.host_key, server.private_key)
        )
        engine = open_engine(connection, server.docker_socket)
        yield Host(engine, server.address, free_ports(server.address), build_placeholder(tmp_path))
        connection.close()


class TestDeployInTheSandbox(DeployBehaviour):
    """What every fleet promises."""
