"""Tests in several processes beside each other: `--processes N`. Each is a fork of the one that has imported and collected them all.

A process asks for its next test when it begins the one before, so nobody waits while there is work.
"""

import atexit
import fcntl
import os
import pickle
import random
import shutil
import signal
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path

import pytest
from _pytest._io import TerminalWriter

# After so many seconds without a word from anybody it is looked whether somebody has ended.
LOOK_AFTER = 1.0
# So many tests are meant for one process at once.
MOST_TOGETHER = 10


class _Quiet:
    """In place of the reporter of pytest's that writes to the terminal: only a test that takes too long says where it hangs."""

    def __init__(self) -> None:
        self._tw = TerminalWriter(sys.stderr)


class _Player:
    """Runs the tests that it is told, in a process of its own, and says what comes of them."""

    def __init__(self, session: pytest.Session, channel: Connection, number: int) -> None:
        self._session, self._channel = session, channel
        random.seed()
        manager = session.config.pluginmanager
        manager.unregister(name="terminalreporter")
        manager.register(_Quiet(), "terminalreporter")
        # Files of its own for what tests print.
        capture = manager.getplugin("capturemanager")
        capture.stop_global_capturing()
        capture.start_global_capturing()
        capture.suspend_global_capture(in_=False)
        folders = session.config._tmp_path_factory  # type: ignore[attr-defined]
        folders._basetemp = folders.getbasetemp() / f"process-{number}"
        folders._basetemp.mkdir(exist_ok=True)
        # Warnings from before are told again to whoever is registered.
        self._is_new = True
        manager.register(self)
        self._is_new = False

    def play(self) -> None:
        items, hook = self._session.items, self._session.config.hook
        number = self._next()
        while number is not None:
            following = self._next()
            hook.pytest_runtest_protocol(
                item=items[number], nextitem=None if following is None else items[following]
            )
            self._channel.send(("done", number))
            number = following

    def _next(self) -> int | None:
        self._channel.send(("next", None))
        return self._channel.recv()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        config = self._session.config
        self._channel.send(
            ("report", config.hook.pytest_report_to_serializable(config=config, report=report))
        )

    def pytest_warning_recorded(
        self, warning_message: warnings.WarningMessage, when: str, nodeid: str
    ) -> None:
        if self._is_new:
            return
        category = warning_message.category
        try:
            pickle.dumps(category)
        except Exception:
            category = UserWarning
        said = (str(warning_message.message), category, warning_message.filename, warning_message.lineno)
        self._channel.send(("warning", (said, when, nodeid)))


class _Process:
    """One of the processes, as the first sees it.

    `given` are the tests it knows of, of which it runs the first; `waiting` those that it will ask for.
    """

    def __init__(
        self,
        session: pytest.Session,
        number: int,
        settle: Callable[[int], None],
        others: Iterable["_Process"],
        waiting: Iterable[int],
    ) -> None:
        self.given: deque[int] = deque()
        self.waiting = deque(waiting)
        # Its exit code, or the signal that ended it as a negative number.
        self.status: int | None = None
        self.channel, its = Pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            its.close()
            return
        try:
            # What the first process does at its end is not for this one.
            atexit._clear()
            for other in (self, *others):
                other.channel.close()
            settle(number)
            with suppress(EOFError, ConnectionError, KeyboardInterrupt):
                _Player(session, its, number).play()
        except BaseException:
            traceback.print_exc()
        finally:
            # Where it was interrupted, what its fixtures have started still runs.
            with suppress(BaseException):
                session._setupstate.teardown_exact(None)
            atexit._run_exitfuncs()
            os._exit(0)

    def has_ended(self, *, is_waited_for: bool = False) -> bool:
        if self.status is None:
            pid, status = os.waitpid(self.pid, 0 if is_waited_for else os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status is not None


class _Run:
    """All processes and all tests."""

    def __init__(self, session: pytest.Session, count: int, settle: Callable[[int], None]) -> None:
        self._session, self._settle, self._begun = session, settle, 0
        self._processes: list[_Process] = []
        session.config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        # What takes long comes first: at the end they wait for each other by what is short.
        items = session.items
        order = sorted(range(len(items)), key=lambda number: items[number].get_closest_marker("slow") is None)
        self._waiting = deque(order)
        for _ in range(min(count, len(order))):
            self._begin(())

    def _begin(self, waiting: Iterable[int]) -> None:
        begun = _Process(self._session, self._begun, self._settle, self._processes, waiting)
        self._processes.append(begun)
        self._begun += 1

    def go(self) -> None:
        try:
            while self._processes:
                channels = {process.channel: process for process in self._processes}
                ready = wait(list(channels), LOOK_AFTER)
                for channel in ready:
                    self._hear(channels[channel])  # type: ignore[index]
                if not ready:
                    for process in self._processes[:]:
                        # What a test has left running may keep the channel open.
                        if process.has_ended() and not process.channel.poll():
                            self._part_with(process)
        finally:
            # Where all has gone well, none is left.
            for process in self._processes:
                process.channel.close()
                if not process.has_ended():
                    os.kill(process.pid, signal.SIGINT)
                process.has_ended(is_waited_for=True)

    def _hear(self, process: _Process) -> None:
        kind, said, config = "end", None, self._session.config
        with suppress(EOFError, ConnectionError):
            kind, said = process.channel.recv()
        if kind == "end":
            process.has_ended(is_waited_for=True)
            self._part_with(process)
        elif kind == "next":
            number = self._take(process)
            process.given.extend([] if number is None else [number])
            with suppress(ConnectionError):
                process.channel.send(number)
        elif kind == "report":
            report = config.hook.pytest_report_from_serializable(config=config, data=said)
            config.hook.pytest_runtest_logreport(report=report)
        elif kind == "done":
            item = self._session.items[process.given.popleft()]
            config.hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        else:
            (text, category, file, line), when, nodeid = said
            message = warnings.WarningMessage(text, category, file, line)
            config.hook.pytest_warning_recorded.call_historic(
                kwargs={"warning_message": message, "when": when, "nodeid": nodeid, "location": None}
            )

    def _is_over(self) -> bool:
        return bool(self._session.shouldfail or self._session.shouldstop)

    def _take(self, process: _Process) -> int | None:
        """What that process does next."""
        if self._is_over():
            return None
        if not process.waiting:
            # Some that stand together, since they may share what takes long to make; the fewer, the fewer there are.
            count = min(
                MOST_TOGETHER, len(self._waiting) // (4 * len(self._processes)) + 1, len(self._waiting)
            )
            process.waiting.extend(self._waiting.popleft() for _ in range(count))
        return process.waiting.popleft() if process.waiting else None

    def _part_with(self, process: _Process) -> None:
        """Nothing more comes from it. A test that it ran has failed, and another process does the rest."""
        self._processes.remove(process)
        process.channel.close()
        if not process.given:
            if self._waiting and not self._is_over():
                raise RuntimeError("a process has ended before its first test")
            return
        number, *rest = process.given
        item = self._session.items[number]
        report = pytest.TestReport(
            item.nodeid, item.location, {}, "failed", f"its process ended: {process.status}", "call"
        )
        self._session.config.hook.pytest_runtest_logreport(report=report)
        if not self._is_over():
            self._begin([*rest, *process.waiting])


def make_once(kept: Path, make: Callable[[], Path]) -> Path | None:
    """A copy, under that name, of the file that `make` leaves; None where this process has just made it."""
    with kept.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept.exists():
            return kept
        part = kept.with_suffix(".part")
        shutil.copyfile(make(), part)
        part.replace(kept)
        return None


def run(session: pytest.Session, count: int, settle: Callable[[int], None]) -> None:
    """Run all tests of a session in so many processes.

    `settle` gives a process, by its number, what it has for itself; it is called there before the first test.
    """
    _Run(session, count, settle).go()
    if session.shouldfail:
        raise session.Failed(session.shouldfail)
    if session.shouldstop:
        raise session.Interrupted(session.shouldstop)
