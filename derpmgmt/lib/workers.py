"""What serves the queues: threads that keep their connections and mind the clock, and one worker that forks for each job.

Every queue has a thread of its own, whichever process it is in: nothing that hangs in one holds another up.
"""

import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

import django_rq
import redis
from django.db import close_old_connections, connections
from rq import SimpleWorker, Worker
from rq.exceptions import DequeueTimeout, StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.timeouts import BaseDeathPenalty, BaseTimeoutException, JobTimeoutException
from rq.utils import now as rq_now
from rq.worker import BaseWorker

from derpmgmt.lib.processes import Groups, name_thread
from derpmgmt.lib.queue import Tick, serving

# A sweep may take so long; a job's own time stands with its queue.
TICK_SECONDS = 600
# What is over its time and does not even take the exception for it by then ends the whole process.
PATIENCE_SECONDS = 60
# Jobs under way have so long when the process ends.
ENDING_SECONDS = 9.0
_WATCH_SECONDS = 1.0
# A queue is asked anew, and its server's record kept, so often; RQ takes a worker that is silent for longer for dead.
_WAIT_SECONDS = 60
_REDIS_AWAY_SECONDS = 2.0
# That a tick was done is noted so often.
_NOTE_SECONDS = 5.0
_TICKS_KEY = "derpmgmt:ticks"
# What a job may open at once: a connection to a server, its database, a file or two.
_SPARE_FILES = 16

log = logging.getLogger(__name__)


def lacks_files() -> bool:
    """Whether this process may open hardly any file more."""
    opened: list[int] = []
    try:
        while len(opened) < _SPARE_FILES:
            opened.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        return True
    finally:
        for descriptor in opened:
            os.close(descriptor)
    return False


class TimeLimit(BaseDeathPenalty):
    """Raises in the thread whose time is over; `look`, called by the main thread, sees to it. Signals reach that one only."""

    _lock = threading.Lock()
    _running: dict[int, tuple[float, type[BaseTimeoutException]]] = {}
    _told: set[int] = set()

    def setup_death_penalty(self) -> None:
        if self._timeout > 0:
            with self._lock:
                self._running[threading.get_ident()] = time.monotonic() + self._timeout, self._exception

    def cancel_death_penalty(self) -> None:
        try:
            self._forget()
        except BaseTimeoutException:  # it came as the work had just ended
            self._forget()

    def _forget(self) -> None:
        with self._lock:
            self._running.pop(threading.get_ident(), None)
            self._told.discard(threading.get_ident())

    @classmethod
    def look(cls, now: float) -> bool:
        """Whether everything is in time, or at least takes its end, at `now` (time.monotonic)."""
        with cls._lock:
            for thread, (until, exception) in cls._running.items():
                if now > until + PATIENCE_SECONDS:
                    return False
                if now > until and thread not in cls._told:
                    cls._told.add(thread)
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(thread), ctypes.py_object(exception)
                    )
        return True


class Clock:
    """What one queue's ticks are due when; moments are `time.monotonic`. At first all are due."""

    def __init__(self, ticks: Iterable[Tick], now: float) -> None:
        self._due = [(now, tick) for tick in ticks]

    def take(self, now: float) -> Tick | None:
        """The tick that is due for the longest time; None when none is. What was missed meanwhile is not made up for."""
        at = min(range(len(self._due)), key=lambda number: self._due[number][0], default=None)
        if at is None or (moment := self._due[at][0]) > now:
            return None
        tick = self._due[at][1]
        following = moment + tick.seconds
        self._due[at] = (following if following > now else now + tick.seconds, tick)
        return tick

    def wait(self, now: float) -> float:
        """Seconds until one is due: 0 where one is already, infinite without any."""
        return max(0.0, min((moment - now for moment, _tick in self._due), default=float("inf")))


class KeepingWorker(SimpleWorker):
    """Runs its jobs in its own thread, so SSH connections live from job to job; database connections by Django's rules."""

    death_penalty_class = TimeLimit

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        close_old_connections()
        try:
            return super().perform_job(job, queue, execution)
        finally:
            close_old_connections()


class _Lane:
    """The thread that serves one queue: the queue's ticks when they are due, its jobs in between."""

    def __init__(self, queue: str, ticks: Iterable[Tick], client: redis.Redis) -> None:
        self.queue = queue
        self.is_busy = False
        self.is_ending = False
        self._clock = Clock(ticks, time.monotonic())
        self._client = client
        self._noted: dict[Tick, float] = {}
        self._worker: KeepingWorker | None = None
        self.thread = threading.Thread(target=self._run, name=queue, daemon=True)

    def leave(self) -> None:
        """Nobody serves the queue here any more; called when the process ends."""
        if self._worker is not None:
            with suppress(redis.RedisError):
                self._worker.register_death()

    def beat(self) -> None:
        """Have the worker's record say that it lives while its thread is at a long piece of work; called by another thread."""
        worker = self._worker
        if worker is None or not self.is_busy:
            return
        beat = worker.last_heartbeat
        if beat is None or (rq_now() - beat).total_seconds() > _WAIT_SECONDS / 2:
            with suppress(redis.RedisError):
                worker.heartbeat()

    def _run(self) -> None:
        name_thread(self.queue)
        serving.set(self.queue)
        while not self.is_ending:
            if lacks_files():
                log.error("%s has no files left to open and ends; it is started anew", self.queue)
                return
            if tick := self._clock.take(time.monotonic()):
                self._busy(partial(self._follow, tick))
            try:
                self._take_job()
            except redis.RedisError as error:
                self._worker = None
                log.warning("the queue %s is away: %s", self.queue, error)
                time.sleep(min(_REDIS_AWAY_SECONDS, self._clock.wait(time.monotonic())))
            except Exception:
                log.exception("a job of the queue %s could not be taken", self.queue)
                self._worker = None
                time.sleep(_REDIS_AWAY_SECONDS)

    def _busy(self, work: Callable[[], object]) -> None:
        self.is_busy = True
        try:
            work()
        finally:
            self.is_busy = False

    def _follow(self, tick: Tick) -> None:
        close_old_connections()
        try:
            with TimeLimit(TICK_SECONDS, JobTimeoutException):
                tick.job(*tick.args)
            self._note(tick)
        except Exception:
            log.exception("%s%s failed; it comes again in %s s", tick.job.__name__, tick.args, tick.seconds)
        finally:
            close_old_connections()

    def _note(self, tick: Tick) -> None:
        """Write down when it was done, for who looks whether the clock is followed (`ticks_done`); at most every few seconds."""
        now = time.time()
        if now - self._noted.get(tick, 0.0) < _NOTE_SECONDS:
            return
        with suppress(redis.RedisError):
            self._client.hset(_TICKS_KEY, tick_name(tick), str(now))
            self._noted[tick] = now

    def _take_job(self) -> None:
        worker = self._keep_worker()
        wait = min(self._clock.wait(time.monotonic()), _WAIT_SECONDS)
        # Redis would take less than a millisecond for 0, which is for ever.
        seconds: Any = max(wait, 0.01) if wait else None
        try:
            found = Queue.dequeue_any(
                worker.queues,
                seconds,
                connection=self._client,
                death_penalty_class=TimeLimit,
            )
        except DequeueTimeout:
            return
        if found and not self.is_ending:
            self._busy(partial(worker.execute_job, *found))

    def _keep_worker(self) -> KeepingWorker:
        """RQ's worker of this thread, whose record is fresh."""
        if self._worker is None:
            worker = KeepingWorker([self.queue], connection=self._client, worker_ttl=_WAIT_SECONDS + 15)
            worker.register_birth()
            self._worker = worker
        beat = self._worker.last_heartbeat
        if beat is None or (rq_now() - beat).total_seconds() > _WAIT_SECONDS / 2:
            self._worker.heartbeat()
        if self._worker.should_run_maintenance_tasks:
            self._worker.run_maintenance_tasks()
        return self._worker


def _beat(lanes: Sequence[_Lane]) -> None:
    """In a thread of its own: a Redis that hangs must not keep the main thread from looking after the others."""
    while not all(lane.is_ending for lane in lanes):
        time.sleep(_WAIT_SECONDS / 4)
        for lane in lanes:
            lane.beat()


class _Ending(BaseException):
    """A signal asks for the end."""


def run_workers(queues: Sequence[str], ticks: Iterable[Tick] = ()) -> None:
    """Serve each of `queues`, with those of `ticks` that are its, until SIGTERM, which lets jobs under way finish.

    Raises `SystemExit` with code 1 when a thread has ended or hangs: the supervisor starts the process anew.
    """
    ticks = list(ticks)
    client = django_rq.get_connection("default")
    # Each connection that waits for a job, whatever it was made for, waits longer than the client gives any answer by itself.
    client.connection_pool.connection_kwargs["socket_timeout"] = _WAIT_SECONDS + 10
    lanes = [_Lane(queue, [tick for tick in ticks if tick.queue == queue], client) for queue in queues]

    def end(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise _Ending

    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, end)
        for lane in lanes:
            lane.thread.start()
        threading.Thread(target=_beat, args=(lanes,), name="beats", daemon=True).start()
        while all(lane.thread.is_alive() for lane in lanes):
            if not TimeLimit.look(time.monotonic()):
                log.error("a job does not end when its time is over; %s start anew", ", ".join(queues))
                break
            time.sleep(_WATCH_SECONDS)
    except _Ending:
        code = 0
    for lane in lanes:
        lane.is_ending = True
    deadline = time.monotonic() + ENDING_SECONDS
    while any(lane.is_busy for lane in lanes) and time.monotonic() < deadline:
        time.sleep(0.05)
    for lane in lanes:
        lane.leave()
    if code:
        sys.exit(code)


class ForkingWorker(Worker):
    """Forks for every job, for work that is slow or may crash; tells `groups` of the process group each job leads.

    Ends when its jobs would fail for want of files, whatever took them.
    """

    groups: Groups

    def heartbeat(self, *args: Any, **options: Any) -> None:
        if not self.executions and lacks_files():
            log.error("%s has no files left to open and ends; it is started anew", self.queue_names())
            raise StopRequested
        super().heartbeat(*args, **options)

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        connections.close_all()
        super().fork_work_horse(job, queue)
        self.groups.add(self.horse_pid)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Any) -> None:
        group = self.horse_pid
        super().monitor_work_horse(job, queue, execution)
        self.groups.remove(group)


def run_forking_worker(queue: str, groups: Groups) -> None:
    """Serve `queue` by a process for each job until SIGTERM, which lets the one under way finish."""
    served = django_rq.get_queue(queue)
    # Its record is as fresh as those of the others.
    worker = ForkingWorker([served], connection=served.connection, worker_ttl=_WAIT_SECONDS + 15)
    worker.groups = groups
    worker.work(logging_level="WARNING")


def tick_name(tick: Tick) -> str:
    """What a tick is called beside others."""
    return f"{tick.job.__module__}.{tick.job.__name__}{tick.args}"


def ticks_done() -> dict[str, float]:
    """When each tick was last done well (time.time), by its name; raises `redis.RedisError`."""
    with django_rq.get_connection("default") as connection:
        return {name.decode(): float(at) for name, at in connection.hgetall(_TICKS_KEY).items()}


def served_queues(since: datetime) -> set[str]:
    """The queues that workers born on this machine at `since` (aware) or later serve."""
    with django_rq.get_connection("default") as connection:
        return {
            name
            for worker in BaseWorker.all(connection=connection)
            if worker.hostname == socket.gethostname() and worker.birth_date and worker.birth_date >= since
            for name in worker.queue_names()
        }
