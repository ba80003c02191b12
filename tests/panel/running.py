"""A panel or demo that runs in a folder of its own, as a person would start it."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from django.db import connections

from derpmgmt.lib import keys
from tests.panel import preloaded

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 150.0


def free_port() -> int:
    """A port of 127.0.0.1 that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for(
    holds: Callable[[], object], what: str, seconds: float = START_SECONDS, pause: float = 0.05
) -> None:
    """Returns when `holds()` does, asked again after each pause (seconds); fails when it never does."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(pause)


@contextmanager
def apart(main: Callable[[], object]) -> Iterator[int]:
    """`main` in a process of its own, as the supervisor starts it; its number."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setpgid(0, 0)
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        finally:
            os._exit(code)
    try:
        yield child
    finally:
        with suppress(ChildProcessError):  # the test has asked for its end
            if os.waitpid(child, os.WNOHANG) == (0, 0):
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)


def processes() -> dict[int, int]:
    """Every living process of the machine and its parent."""
    listing = subprocess.run(
        ["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    rows = (line.split() for line in listing.splitlines())
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


class Folder:
    """A state folder, and what `manage.py` does in it. `variables` are all `DERPMGMT_…` variables there are."""

    def __init__(self, path: Path, **variables: str) -> None:
        self.path = path
        self.port = free_port()
        self.variables = {"DERPMGMT_VAR_DIR": str(path), **variables}

    def environment(self, **more: str) -> dict[str, str]:
        """The environment of a command in this folder."""
        others = {
            name: value for name, value in os.environ.items() if not name.startswith(("DERPMGMT_", "DJANGO_"))
        }
        return others | self.variables | more

    def manage(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run `manage.py` to its end."""
        return preloaded.run(["manage.py", *arguments], self.environment(**more), START_SECONDS)

    def refuses(self, command: str) -> str:
        """What is said where the panel or demo does not start; never a traceback."""
        done = self.manage(command, DERPMGMT_PORT=str(self.port))
        assert done.returncode == 1, done.stderr
        said = done.stderr + done.stdout
        assert "Traceback" not in said, said
        return done.stderr

    def fill(self, database: Path) -> "Folder":
        """Keys, and a copy of this database; returns itself."""
        keys.load_keys(self.path, has_database=False)
        shutil.copyfile(database, self.path / "panel.sqlite3")
        return self

    def python(self, code: str) -> str:
        """What `code` prints in the panel's Django, without the port or any other variable given."""
        done = self.manage("shell", "--verbosity", "0", "-c", code)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    @property
    def record(self) -> dict[str, Any]:
        """The content of running.json."""
        return json.loads((self.path / "running.json").read_text())

    @contextmanager
    def running(self, command: str = "up", seconds: float = START_SECONDS) -> Iterator["Running"]:
        """The panel, from its ready line on; killed at the end if the test has not ended it."""
        log = self.path.parent / f"{self.path.name}.log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", command],
                cwd=ROOT,
                env=self.environment(DERPMGMT_PORT=str(self.port)),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        running = Running(self, process)
        try:
            record = self.path / "running.json"
            wait_for(
                lambda: record.exists() or process.poll() is not None,
                f"{command} is ready, see {log}",
                seconds,
            )
            assert process.poll() is None, log.read_text()
            yield running
        finally:
            if process.poll() is None:
                running.end(signal.SIGTERM)

    def copy_to(self, path: Path) -> "Folder":
        """Another folder with the same state; not to be used while a panel runs here."""
        shutil.copytree(self.path, path)
        return Folder(path)


class Running:
    """A panel that runs."""

    def __init__(self, folder: Folder, process: subprocess.Popen[bytes]) -> None:
        self.folder = folder
        self.process = process

    def get(self, path: str = "/") -> int:
        """The HTTP status of a page; 0 when nothing answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.folder.port}{path}", timeout=20) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def family(self) -> set[int]:
        """The panel's process, and everything it started, directly or not."""
        parents = processes()
        found = {self.process.pid}
        while more := {pid for pid, parent in parents.items() if parent in found} - found:
            found |= more
        return found

    def children(self, program: str) -> set[int]:
        """Processes of the family whose command line has `program` in it."""
        listing = subprocess.run(
            ["ps", "-wweo", "pid=,args="], capture_output=True, text=True, check=True
        ).stdout
        named = {int(line.split()[0]) for line in listing.splitlines() if program in line}
        return named & self.family()

    def named(self, name: str) -> set[int]:
        """Processes of the family that ps shows under `name`."""
        found = set()
        for pid in self.family():
            with suppress(OSError):
                found |= {pid} if Path(f"/proc/{pid}/comm").read_text().strip() == name else set()
        return found

    def end(self, number: int) -> int:
        """Signal the panel's process and wait until its whole family is gone; returns its exit code."""
        family = self.family()
        self.process.send_signal(number)
        code = self.process.wait(timeout=START_SECONDS)
        wait_for(lambda: not family & processes().keys(), f"processes {family & processes().keys()} end", 60)
        return code
