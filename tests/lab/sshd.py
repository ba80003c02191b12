"""SSH servers with login shells, passwords and PAM of their own, on loopback: OpenSSH and dropbear.

Each runs in a mount namespace in which `/etc/passwd`, `/etc/shadow` and `/etc/pam.d/sshd` are the test's. Needs root.
"""

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import asyncssh

from fleet.ssh import Endpoint

PASSWORD = "correct horse"


@dataclass
class Sshd:
    """A running server."""

    port: int
    host_key: str
    private_key: str

    def endpoint(self, *, key: bool = True, password: str = "") -> Endpoint:
        return Endpoint(
            "127.0.0.1", self.port, "root", self.host_key, self.private_key if key else "", password
        )


StartSshd = Callable[..., Sshd]


@contextmanager
def sshd(folder: Path, config: str, shell: str, changed: str = "19000", expires: str = "") -> Iterator[Sshd]:
    """OpenSSH's. `changed`: the day of the last change of the password, as /etc/shadow has it; 0 = it has expired. `expires`: the
    day on which the account does."""
    private_key = _write_account(folder, shell, changed, expires)
    host = asyncssh.generate_private_key("ssh-ed25519")
    host.write_private_key(folder / "host_key")
    (folder / "host_key").chmod(0o600)
    port = _free_port()
    (folder / "config").write_text(
        f"{config}\nListenAddress 127.0.0.1:{port}\nHostKey {folder}/host_key\n"
        f"AuthorizedKeysFile {folder}/.ssh/authorized_keys\nPidFile none\nPermitRootLogin yes\nUsePAM no\nStrictModes no\n"
        "KbdInteractiveAuthentication no\nUseDNS no\nPrintMotd no\nPrintLastLog no\n"
    )
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    line = " ".join(host.export_public_key().decode().split()[:2])
    with _running(folder, ["/usr/sbin/sshd", "-D", "-e", "-f", f"{folder}/config"], "Server listening"):
        yield Sshd(port, line, private_key)


@contextmanager
def dropbear(folder: Path, *options: str) -> Iterator[Sshd]:
    """dropbear, with options beside its own."""
    private_key = _write_account(folder, "/bin/sh")
    port, key = _free_port(), folder / "host_key"
    made = subprocess.run(
        ["dropbearkey", "-t", "ed25519", "-f", key], check=True, capture_output=True, text=True
    ).stdout
    line = next(line for line in made.splitlines() if line.startswith("ssh-ed25519 "))
    command = [
        "dropbear",
        "-F",
        "-E",
        "-p",
        f"127.0.0.1:{port}",
        "-r",
        str(key),
        "-P",
        f"{folder}/pid",
        *options,
    ]
    with _running(folder, command, "Not backgrounding"):
        yield Sshd(port, " ".join(line.split()[:2]), private_key)


def _write_account(folder: Path, shell: str, changed: str = "19000", expires: str = "") -> str:
    """The files of root's account, with `folder` as its home; returns the key that may sign in."""
    client = asyncssh.generate_private_key("ssh-ed25519")
    (folder / ".ssh").mkdir(mode=0o700)
    (folder / ".ssh/authorized_keys").write_text(client.export_public_key().decode())
    (folder / ".ssh/authorized_keys").chmod(0o600)
    hashed = subprocess.run(
        ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True
    ).stdout.strip()
    (folder / "passwd").write_text(
        f"root:x:0:0:root:{folder}:{shell}\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    (folder / "shadow").write_text(
        f"root:{hashed}:{changed}:0:99999:7::{expires}:\nsshd:!:19000:0:99999:7:::\n"
    )
    (folder / "pam").write_text(
        "".join(f"{kind} required pam_unix.so\n" for kind in ("auth", "account", "password"))
        + "session required pam_permit.so\n"
    )
    return client.export_private_key().decode()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _running(folder: Path, command: list[str], is_up: str) -> Iterator[None]:
    """The server runs inside, from the moment that its log has the words `is_up`."""
    script = (
        'mount --bind "$1/passwd" /etc/passwd && mount --bind "$1/shadow" /etc/shadow && '
        'mount --bind "$1/pam" /etc/pam.d/sshd && shift && exec "$@"'
    )
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "TERM", "--", "unshare", "--mount"),
                *("sh", "-c", script, "sh", str(folder), *command),
            ],
            stdout=log,
            stderr=log,
        )
    try:
        # Not by connecting: the server would count it.
        deadline = time.monotonic() + 60
        while is_up not in (folder / "log").read_text():
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield
    finally:
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        process.wait(30)
