"""An SSH server on loopback, and a connection to it."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.ssh import Connection
from tests.fleet.ssh_host import SshHost, ssh_host


@pytest.fixture
def host() -> Iterator[SshHost]:
    with ssh_host() as running:
        yield running


@pytest.fixture
def connection(host: SshHost) -> Iterator[Connection]:
    opened = Connection.open(host.endpoint(), 5)
    yield opened
    opened.close()


@pytest.fixture
def docker_socket(tmp_path: Path) -> Iterator[str]:
    """A socket that somebody listens on."""
    path = str(tmp_path / "docker.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        yield path
