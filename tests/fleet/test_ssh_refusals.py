"""Hosts whose SSH server cannot do what the panel needs: each is told in a sentence."""

from pathlib import Path

import pytest

from fleet import ssh
from fleet.engine import open_engine
from fleet.facts import read_facts
from fleet.ssh import Connection
from tests.fleet.ssh_host import SshHost


@pytest.mark.parametrize(
    ("forwarding", "code"), [(False, "forwarding_forbidden"), (None, "forwarding_unknown")]
)
def test_reason_is_told_when_sockets_are_out_of_reach(
    host: SshHost,
    connection: Connection,
    docker_socket: str,
    tmp_path: Path,
    forwarding: bool | None,
    code: str,
) -> None:
    host.forwarding = forwarding
    host.path = str(tmp_path)  # no docker command there
    for name in ("sh", "grep"):
        (tmp_path / name).symlink_to(f"/bin/{name}")
    with pytest.raises(ssh.ForwardingRefused) as caught:
        open_engine(connection, docker_socket, 10)
    assert caught.value.code == code
    assert ("AsyncSSH" in str(caught.value)) == (forwarding is None)


def test_hosts_words_are_told_when_it_has_no_shell(host: SshHost, connection: Connection) -> None:
    """As RouterOS answers."""
    host.forwarding = None
    host.before = "echo 'bad command name /bin/sh (line 1 column 1)'; exit 0"
    for ask in (
        lambda: read_facts(connection),
        lambda: open_engine(connection, "/var/run/docker.sock", 10),
        lambda: connection.open_session_command("cat", 10),
    ):
        with pytest.raises(ssh.CommandFailed) as caught:
            ask()
        assert caught.value.code == "no_commands"
        assert caught.value.detail == "bad command name /bin/sh (line 1 column 1) (status 0)"
