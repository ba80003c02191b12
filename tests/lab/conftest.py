"""One lab for a whole run of lab tests."""

from collections.abc import Iterator

import pytest

from tests.lab.hosts import Host, Lab, lab
from tests.lab.kinds import ROOTLESS


@pytest.fixture(scope="session")
def running_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """This test process's own lab: three good hosts, of the kinds `GOOD`."""
    with lab(state=tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def rootless_host(running_lab: Lab) -> Host:
    """A host more, whose Docker belongs to an unprivileged user."""
    return running_lab.add(ROOTLESS)
