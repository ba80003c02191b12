"""Files and processes that a lab is made of: keys, locks, records of what runs."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.lab import network

START_SECONDS = 60.0


class LabError(Exception):
    """The lab could not be brought up; the text says why."""


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Nobody else is inside at the same time, in whatever process."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner reads."""
    path.touch(mode=0o600)
    path.write_text(text)


def write_key(path: Path) -> str:
    """Writes a new private key (0600) and returns the public key's line."""
    key = ed25519.Ed25519PrivateKey.generate()
    write_private(
        path,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
        ).decode(),
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return public.decode()


def recorded(path: Path) -> int | None:
    """The process in a record file, if it is still that process and runs."""
    try:
        pid, started = path.read_text().split()
    except (FileNotFoundError, ValueError):
        return None
    return int(pid) if network.is_running(int(pid)) and network.started_at(int(pid)) == started else None


def end(record: Path, number: int) -> None:
    """Ends the recorded process by that signal, if it runs, and waits for its end. Raises LabError."""
    pid = recorded(record)
    if pid is not None:
        os.kill(pid, number)
        os.kill(pid, signal.SIGCONT)
        wait(lambda: recorded(record) is None, f"the end of {record.stem}", None)
    record.unlink(missing_ok=True)


def connects(path: str) -> bool:
    """Whether somebody listens at that unix socket."""
    with suppress(OSError), socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        return True
    return False


def wait(done: Callable[[], bool], what: str, log: Path | None) -> None:
    """Waits until it is so. Raises LabError, with the end of the log, after `START_SECONDS`."""
    deadline = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:] if log and log.exists() else ""
            raise LabError(f"waited {START_SECONDS:.0f} s in vain for {what}\n{said}")
        time.sleep(0.03)
