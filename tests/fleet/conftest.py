"""An SSH server on loopback, and a connection to it."""

from collections.abc import Iterator

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
