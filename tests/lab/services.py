"""A MariaDB and a Redis of the tests' own: their data in memory where there is room, on 127.0.0.1, ended with the test.

They also end when the process that started them dies (`setpriv --pdeathsig`). Needs the packages mariadb-server and
redis-server.
"""

import os
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_SECONDS = 60.0


@contextmanager
def mariadb(name: str = "derpmgmt", *, is_local: bool = False) -> Iterator[str]:
    """A MariaDB with an empty database of that name; yields `mysql://user:password@127.0.0.1:port/name`.

    With `is_local` the address is that of its unix socket, as where panel and database are on one machine.

    The user may create and drop every database, as test runners do. Data is not kept safe against a power cut.
    """
    with tempfile.TemporaryDirectory(prefix="mariadb-", dir=_roomy_folder()) as folder:
        port, password = _free_port(), secrets.token_hex(16)
        start = Path(folder, "start.sql")
        start.touch(mode=0o600)
        start.write_text(
            f"CREATE DATABASE {name} CHARACTER SET utf8mb4;\n"
            + "".join(
                f"CREATE USER '{name}'@'{host}' IDENTIFIED BY '{password}';\nGRANT ALL ON *.* TO '{name}'@'{host}';\n"
                for host in ("127.0.0.1", "localhost")
            )
        )
        account = ["--user=root"] if os.geteuid() == 0 else []
        # Of its own: a MariaDB that starts removes temporary tables from there, those of another one that runs too.
        temporary = Path(folder, "tmp")
        temporary.mkdir()
        installed = subprocess.run(
            [
                *("mariadb-install-db", "--no-defaults", f"--datadir={folder}/data", *account),
                *("--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(temporary)},
        )
        if installed.returncode:
            raise RuntimeError(
                f"mariadb-install-db failed:\n{installed.stdout.decode(errors='replace')[:2000]}"
            )
        command = [
            *("mariadbd", "--no-defaults", f"--datadir={folder}/data", *account, f"--port={port}"),
            f"--tmpdir={temporary}",
            *(f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--bind-address=127.0.0.1"),
            *(f"--init-file={start}", "--character-set-server=utf8mb4", "--skip-name-resolve"),
            *("--innodb-flush-log-at-trx-commit=0", "--max-connections=400"),
        ]
        with _running(command, Path(folder, "log"), lambda: _greets(port)):
            start.unlink()
            address = (
                f"localhost/{name}?unix_socket={folder}/socket" if is_local else f"127.0.0.1:{port}/{name}"
            )
            yield f"mysql://{name}:{password}@{address}"


@contextmanager
def redis() -> Iterator[str]:
    """An empty Redis that keeps nothing; yields `redis://127.0.0.1:port/0`."""
    with tempfile.TemporaryDirectory(prefix="redis-") as folder:
        port = _free_port()
        command = [
            *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder),
            *("--save", "", "--appendonly", "no"),
        ]
        with _running(command, Path(folder, "log"), lambda: _connects(port)):
            yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def _running(command: list[str], log: Path, ready: Callable[[], bool]) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _roomy_folder() -> str | None:
    """The folder in memory, if a few databases fit in; None stands for the usual one for temporary files."""
    with suppress(OSError):
        disk = os.statvfs("/dev/shm")
        if disk.f_bavail * disk.f_frsize > 4_000_000_000:
            return "/dev/shm"
    return None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def _connects(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def _greets(port: int) -> bool:
    # MariaDB greets once the start file has been carried out.
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1) as sock:
        return bool(sock.recv(1))
    return False
