"""The panel looks at itself: queues and who serves them, sweeps and their times, the disk it writes to."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import django_rq
from django.conf import settings
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.worker import BaseWorker

from accounts.alerts.decide import CRITICAL
from accounts.alerts.services import Reading
from derpmgmt.lib.workers import tick_name, ticks_done

# A worker's record is fresh for so long (`derpmgmt.lib.workers` renews it twice a minute).
BEAT = timedelta(seconds=100)


def read_queues(now: datetime) -> Iterator[Reading]:
    """For each queue: whether somebody serves it, how long its first job waits, and how many failed. Unknown while Redis is away."""
    try:
        with django_rq.get_connection("default") as client:
            served = {
                name
                for worker in BaseWorker.all(connection=client)
                if worker.last_heartbeat and datetime.now(UTC) - worker.last_heartbeat < BEAT
                for name in worker.queue_names()
            }
            queues = [Queue(name, connection=client) for name in settings.QUEUES]
            waits = {queue.name: _waited(queue) for queue in queues}
            failed = {queue.name: _failed(queue) for queue in queues}
    except RedisError:
        return
    for name in settings.QUEUES:
        severity = "" if name in served else CRITICAL
        yield Reading(rule="panel_workers", thing=f"queue:{name}", name=name, severity=severity)
        yield Reading(rule="panel_queue", thing=f"waits:{name}", name=name, value=waits[name])
        yield Reading(rule="panel_jobs", thing=f"jobs:{name}", name=name, value=failed[name])


def _waited(waiting: Queue) -> float:
    """For how many seconds its first job has waited; 0 without any."""
    for job in waiting.get_jobs(0, 1):
        if job.enqueued_at:
            return max(0.0, (datetime.now(UTC) - job.enqueued_at).total_seconds())
    return 0.0


def _failed(queue: Queue) -> int:
    """How many of its jobs raised an error within the last minute: so long they are kept (`derpmgmt.lib.bells`)."""
    registry = queue.failed_job_registry
    found: Any = registry.connection.zcount(registry.key, datetime.now(UTC).timestamp(), "+inf")
    return int(found)


def read_sweeps(now: datetime) -> Iterator[Reading]:
    """For each queue: by how many seconds what the clock asks of it is late, the latest of it. Unknown where none was ever done."""
    # Here, since the tables of all rooms name this module.
    from derpmgmt.flow import CRON

    try:
        done = ticks_done()
    except RedisError:
        return
    late: dict[str, float] = {}
    for tick in CRON:
        if (at := done.get(tick_name(tick))) is not None:
            late[tick.queue] = max(late.get(tick.queue, 0.0), time.time() - at - tick.seconds)
    for name, seconds in late.items():
        yield Reading(rule="panel_sweeps", thing=f"sweeps:{name}", name=name, value=seconds)


def read_disk(now: datetime) -> Iterator[Reading]:
    """How full the disk of the state folder is."""
    usage = shutil.disk_usage(settings.VAR_DIR)
    yield Reading(
        rule="panel_disk",
        thing="disk",
        name=str(settings.VAR_DIR),
        # As df counts it: what is kept for root is not free.
        value=100 * usage.used / (usage.used + usage.free),
    )
