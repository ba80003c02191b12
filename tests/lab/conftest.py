"""One lab for a whole run of lab tests, and SSH servers without hosts."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.lab.host import Host
from tests.lab.hosts import Lab, lab
from tests.lab.kinds import ROOTLESS
from tests.lab.shell_image import write_archive
from tests.lab.sshd import Sshd, StartSshd, sshd


@pytest.fixture(scope="session")
def running_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """This test process's own lab: three good hosts, of the kinds `GOOD`."""
    with lab(state=tmp_path_factory.mktemp("lab")) as running:
        yield running


@pytest.fixture(scope="session")
def rootless_host(running_lab: Lab) -> Host:
    """A host more, whose Docker belongs to an unprivileged user."""
    return running_lab.add(ROOTLESS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[StartSshd]:
    """Starts OpenSSH's server with these lines before its settings."""
    with ExitStack() as stack:

        def begin(
            config: str = "", *, login_shell: str = "/bin/sh", changed: str = "19000", expires: str = ""
        ) -> Sshd:
            return stack.enter_context(sshd(tmp_path, config, login_shell, changed, expires))

        yield begin


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of the image with a shell."""
    return write_archive(tmp_path_factory.mktemp("image"))
