"""What serves the queues: workers that keep their connections, one that forks for each job, and the one scheduler."""

import logging
import os
import socket
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import django_rq
from django.db import close_old_connections, connections
from rq import SimpleWorker, Worker
from rq.cron import CronScheduler
from rq.exceptions import StopRequested
from rq.job import Job
from rq.queue import Queue
from rq.worker import BaseWorker

from derpmgmt.lib.processes import Groups
from derpmgmt.lib.queue import Tick

# A tick that nobody took for so long is dropped: the next one finds the same work.
STALE_TICK_SECONDS = 30
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


class _EndingWorker(BaseWorker):
    """Ends when its jobs would fail for want of files, whatever took them: the supervisor starts another."""

    def heartbeat(self, *args: Any, **options: Any) -> None:
        if not self.executions and lacks_files():
            log.error("%s has no files left to open and ends; it is started anew", self.queue_names())
            raise StopRequested
        super().heartbeat(*args, **options)


class KeepingWorker(_EndingWorker, SimpleWorker):
    """Runs its jobs in its own process, so SSH connections live from job to job; database connections by Django's rules."""

    def perform_job(self, job: Job, queue: Queue, execution: Any) -> bool:
        close_old_connections()
        try:
            return super().perform_job(job, queue, execution)
        finally:
            close_old_connections()


class ForkingWorker(_EndingWorker, Worker):
    """Forks for every job, for work that is slow or may crash; tells `groups` of the process group each job leads."""

    groups: Groups

    def fork_work_horse(self, job: Job, queue: Queue) -> None:
        connections.close_all()
        super().fork_work_horse(job, queue)
        self.groups.add(self.horse_pid)

    def monitor_work_horse(self, job: Job, queue: Queue, execution: Any) -> None:
        group = self.horse_pid
        super().monitor_work_horse(job, queue, execution)
        self.groups.remove(group)


def run_worker(queue: str, *, groups: Groups | None = None) -> None:
    """Serve `queue` until SIGTERM, which lets the job under way finish; with `groups`, jobs run in forked processes."""
    served = django_rq.get_queue(queue)
    if groups is None:
        worker: SimpleWorker | ForkingWorker = KeepingWorker([served], connection=served.connection)
    else:
        worker = ForkingWorker([served], connection=served.connection)
        worker.groups = groups
    worker.work(logging_level="WARNING")


def served_queues(since: datetime) -> set[str]:
    """The queues that workers born on this machine at `since` (aware) or later serve."""
    with django_rq.get_connection("default") as connection:
        return {
            name
            for worker in Worker.all(connection=connection)
            if worker.hostname == socket.gethostname() and worker.birth_date and worker.birth_date >= since
            for name in worker.queue_names()
        }


def run_scheduler(ticks: Iterable[Tick]) -> None:
    """Ring for every tick at its interval until SIGTERM. There must be one scheduler only, or everything rings twice."""
    scheduler = CronScheduler(connection=django_rq.get_connection("default"), logging_level=logging.WARNING)
    for tick in ticks:
        scheduler.register(
            tick.job,
            tick.queue,
            args=tick.args,
            interval=tick.seconds,
            ttl=max(tick.seconds, STALE_TICK_SECONDS),
            result_ttl=60,
            failure_ttl=3600,
            name=f"{tick.job.__name__}{list(tick.args) if tick.args else ''}",
        )
    scheduler.start()
