"""One lab for a whole run of lab tests."""

from collections.abc import Iterator

import pytest

from tests.lab.hosts import Lab, lab


@pytest.fixture(scope="session")
def running_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Three hosts of this test process's own."""
    with lab(3, tmp_path_factory.mktemp("lab")) as running:
        yield running
