"""Supervision: starts a panel's processes, brings back the ones that die, and ends all of them in order. Knows no Django.

Every program is forked from the supervisor, so it starts without importing anything again, and leads a process group of its
own. A small reaper process holds the read end of a pipe whose write end only the supervisor has: when the supervisor is gone,
however it went, the pipe closes and the reaper ends every group that is left. So the supervisor must stay free of threads and of
open connections: whatever it opens it closes before it starts a program.
"""

import contextlib
import fcntl
import gc
import logging
import os
import select
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TextIO

log = logging.getLogger(__name__)

# A program that dies is started again after the first pause; each further death doubles it, a long life resets it.
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
LONG_LIFE_SECONDS = 60.0
# What the reaper gives the groups it finds to end by themselves.
REAPER_SECONDS = 3.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def name_thread(name: str) -> None:
    """Have ps, top and the like show `name` (15 bytes at most are kept) for this thread, or process where it is its main one."""
    with contextlib.suppress(OSError):  # no Linux
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)


class AlreadyRunning(Exception):
    """Another supervisor holds the lock; `pid` is its process."""

    def __init__(self, pid: int) -> None:
        super().__init__(f"held by process {pid}")
        self.pid = pid


class Lock:
    """A lock on a file, held by one supervisor at a time, whose process id stands in the file while it lives.

    It is the system's (flock), so it never outlives its holders. The reaper shares it: until the last process of a killed supervisor is gone
    nobody else gets it.
    """

    def __init__(self, path: Path) -> None:
        """Take the lock; waits while a reaper still ends what a killed supervisor left. Raises `AlreadyRunning`."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+")
        deadline = time.monotonic() + REAPER_SECONDS + 3
        # Whoever asks for the holder takes the lock for an instant, which is no reason to give up.
        soon = time.monotonic() + 0.5
        while not self._try(self._file, fcntl.LOCK_EX):
            holder = self._read(self._file)
            if time.monotonic() > (soon if holder else deadline):
                self._file.close()
                raise AlreadyRunning(holder)
            time.sleep(0.05)
        self._write(str(os.getpid()))

    def disown(self) -> None:
        """The supervisor is gone; the reaper that shares the lock keeps it a little."""
        self._write("")

    def close(self) -> None:
        """Give the lock back; in a forked child: drop the child's share of it."""
        self._file.close()

    @classmethod
    def holder(cls, path: Path) -> int:
        """The process id of the supervisor that holds the lock; 0 when none does (or its file may not be read)."""
        try:
            with path.open() as file:
                return 0 if cls._try(file, fcntl.LOCK_SH) else cls._read(file)
        except OSError:
            return 0

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()

    @staticmethod
    def _read(file: TextIO) -> int:
        file.seek(0)
        # It says 0 where somebody else wrote into it.
        text = file.buffer.read().strip()
        return int(text) if text.isdigit() else 0

    @staticmethod
    def _try(file: TextIO, kind: int) -> bool:
        try:
            fcntl.flock(file, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@dataclass(frozen=True)
class Program:
    """One process to keep running.

    `main` is what the forked child does; its return ends the child with 0, `SystemExit` with its code. Programs with the lowest
    `rank` end first, those of one rank together; after `grace` seconds a group that is left is killed. A program that is not
    `is_restarted` runs once. One that `is_heard` writes where the supervisor writes.
    """

    name: str
    main: Callable[[], object]
    rank: int = 0
    grace: float = 5.0
    is_restarted: bool = True
    is_heard: bool = False


@dataclass
class _Child:
    program: Program
    pid: int
    started: float
    pause: float


class Groups:
    """Tells the reaper which process groups are to be gone when the supervisor is; usable from every forked child."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def add(self, group: int) -> None:
        """`group` is to be ended with the supervisor."""
        self._write(f"+{group}\n")

    def remove(self, group: int) -> None:
        """`group` has ended; its number may be somebody else's soon."""
        self._write(f"-{group}\n")

    def _write(self, line: str) -> None:
        # So short a write is atomic on a pipe, whoever else writes.
        with contextlib.suppress(BrokenPipeError):
            os.write(self._descriptor, line.encode())


class Supervisor:
    """Keeps programs running until it is told to stop; a context manager that leaves no process behind.

    `lock` is the one it runs under. `output` is the file that the programs' output goes to, None = where the supervisor's own
    goes. With `parent`, the supervisor also stops when that process, which started it, is gone.
    """

    def __init__(self, lock: Lock, *, output: Path | None = None, parent: int | None = None) -> None:
        self._lock = lock
        self._output = output
        self._parent = parent
        self._children: dict[str, _Child] = {}
        self._due: list[tuple[float, Program, float]] = []
        self._ended: dict[str, int] = {}
        self._deaths: Counter[str] = Counter()
        self._signals = 0
        self._signalled = 0.0
        self._handlers: dict[int, object] = {}

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe()
        self._life_read, self._life_write = os.pipe()
        group_read, group_write = os.pipe()
        for descriptor in (self._wake_read, self._wake_write):
            os.set_blocking(descriptor, False)
        self.groups = Groups(group_write)
        gc.collect()
        gc.freeze()  # or every child's first collection would copy the memory it shares with the supervisor
        self._reaper = self._fork(
            "reaper", lambda: _reap(self._life_read, group_read, self._lock), is_reaper=True
        )
        os.close(self._life_read)
        os.close(group_read)
        self._group_write = group_write
        for number in (*_SIGNALS, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup
            self._handlers[number] = signal.signal(number, self._on_signal)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            self._stop()
        finally:
            # The reaper sees the pipe close, ends what may be left in groups that it was told of, and ends itself.
            os.close(self._life_write)
            os.close(self._group_write)
            os.waitpid(self._reaper, 0)
            signal.set_wakeup_fd(-1)
            for number, handler in self._handlers.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            os.close(self._wake_read)
            os.close(self._wake_write)
            gc.unfreeze()

    @property
    def is_stopping(self) -> bool:
        """Whether a signal asked for the end, or the process that started this one is gone."""
        if self._parent is not None and os.getppid() != self._parent:
            return True
        return self._signals > 0

    def start(self, program: Program) -> None:
        """Start a program; its name must be new."""
        self._start(program, FIRST_PAUSE_SECONDS)

    def exit_code(self, name: str) -> int | None:
        """How a program that is not restarted ended (negative: the signal); None while it runs."""
        return self._ended.get(name)

    def deaths(self, name: str) -> int:
        """How many times a program that is restarted has ended by itself."""
        return self._deaths[name]

    def run(self, until: Callable[[], bool] | None = None, seconds: float | None = None) -> bool:
        """Keep everything running until `until()` holds, `seconds` have passed or the end is asked for.

        `until` is asked ten times a second and must not block. Returns whether it came to hold.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        turn = 1.0 if until is None else 0.1
        while not self.is_stopping:
            self._collect()
            now = time.monotonic()
            due = [entry for entry in self._due if entry[0] <= now]
            self._due = [entry for entry in self._due if entry[0] > now]
            for _moment, program, pause in due:
                self._start(program, pause)
            if until is not None and until():
                return True
            if deadline is not None and now >= deadline:
                return False
            self._sleep(max(0.0, min([turn, *(moment - now for moment, _program, _pause in self._due)])))
        return False

    def _on_signal(self, number: int, frame: object) -> None:
        # One wish may arrive twice: from the terminal or service manager, and passed on by make.
        if number != signal.SIGCHLD and time.monotonic() - self._signalled > 1:
            self._signalled = time.monotonic()
            self._signals += 1

    def _sleep(self, seconds: float) -> None:
        ready, _w, _x = select.select([self._wake_read], [], [], seconds)
        if ready:
            with contextlib.suppress(BlockingIOError):
                os.read(self._wake_read, 4096)

    def _start(self, program: Program, pause: float) -> None:
        pid = self._fork(program.name, program.main, is_heard=program.is_heard)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # the child does it too: whoever comes first
        self.groups.add(pid)
        self._children[program.name] = _Child(program, pid, time.monotonic(), pause)

    def _fork(
        self, name: str, main: Callable[[], object], *, is_heard: bool = False, is_reaper: bool = False
    ) -> int:
        sys.stdout.flush()
        sys.stderr.flush()
        # A signal between the fork and the child's own handlers would be lost on the parent's.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return pid
        code = 1
        try:
            os.setpgid(0, 0)
            name_thread(name)
            signal.set_wakeup_fd(-1)
            for number in (*_SIGNALS, signal.SIGCHLD):
                is_deaf = is_reaper and number != signal.SIGCHLD
                signal.signal(number, signal.SIG_IGN if is_deaf else signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            for descriptor in (self._life_write, self._wake_read, self._wake_write):
                os.close(descriptor)
            if not is_reaper:
                self._redirect(None if is_heard else self._output)
                self._lock.close()
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
            if isinstance(error.code, str):
                log.error("%s", error.code)
        except BaseException:
            log.exception("a process of the panel failed")
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _redirect(self, output: Path | None) -> None:
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.close(null)
        if output is not None:
            try:
                file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                # Whoever started the supervisor finds the same, and says it in a sentence.
                raise SystemExit(1) from error
            os.dup2(file, 1)
            os.dup2(file, 2)
            os.close(file)

    def _collect(self) -> None:
        for name, child in list(self._children.items()):
            pid, status = os.waitpid(child.pid, os.WNOHANG)
            if not pid:
                continue
            code = os.waitstatus_to_exitcode(status)
            self._forget(name)
            if not child.program.is_restarted:
                self._ended[name] = code
                continue
            self._deaths[name] += 1
            lived = time.monotonic() - child.started
            pause = FIRST_PAUSE_SECONDS if lived >= LONG_LIFE_SECONDS else child.pause
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            log.warning("%s %s after %.0f s; it starts again in %.1f s", name, how, lived, pause)
            self._due.append((time.monotonic() + pause, child.program, min(pause * 2, LONGEST_PAUSE_SECONDS)))

    def _forget(self, name: str) -> None:
        child = self._children.pop(name)
        _signal_group(child.pid, signal.SIGKILL)  # what the program started and left behind
        self.groups.remove(child.pid)

    def _stop(self) -> None:
        self._due.clear()
        for rank in sorted({child.program.rank for child in self._children.values()}):
            names = [name for name, child in self._children.items() if child.program.rank == rank]
            self._end(names)

    def _end(self, names: list[str]) -> None:
        began = time.monotonic()
        for name in names:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._children[name].pid, signal.SIGTERM)
        while names:
            for name in list(names):
                child = self._children[name]
                # A second signal means that somebody does not want to wait.
                is_late = time.monotonic() - began > child.program.grace or self._signals > 1
                pid, _status = os.waitpid(child.pid, os.WNOHANG)
                if not pid and is_late:
                    log.warning("%s did not end in %.0f s and is killed", name, time.monotonic() - began)
                    _signal_group(child.pid, signal.SIGKILL)
                    pid, _status = os.waitpid(child.pid, 0)
                if pid:
                    self._forget(name)
                    names.remove(name)
            if names:
                self._sleep(0.05)


def _signal_group(group: int, number: int) -> bool:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _reap(life: int, told: int, lock: Lock) -> None:
    groups: set[int] = set()
    for line in _lines(life, told):
        number = int(line[1:])
        groups.add(number) if line[0] == "+" else groups.discard(number)
    lock.disown()
    left = {group for group in groups if _signal_group(group, signal.SIGTERM)}
    deadline = time.monotonic() + REAPER_SECONDS
    while left and time.monotonic() < deadline:
        time.sleep(0.05)
        left = {group for group in left if _signal_group(group, 0)}
    for group in left:
        _signal_group(group, signal.SIGKILL)


def _lines(life: int, told: int) -> Iterator[str]:
    """The lines that come through the pipe `told`, until the pipe `life` is closed at its other end and `told` is drained."""
    rest = b""
    is_over = False
    while not is_over:
        ready, _w, _x = select.select([life, told], [], [])
        is_over = life in ready
        while select.select([told], [], [], 0)[0] and (data := os.read(told, 65536)):
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode() for line in lines)
