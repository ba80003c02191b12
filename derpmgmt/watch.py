"""The panel looks at itself: queues and who serves them, sweeps and their times, the disk it writes to."""

import shutil
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.conf import settings
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.utils import utcparse
from rq.worker import BaseWorker

from accounts.alerts.decide import CRITICAL
from accounts.alerts.services import Reading
from derpmgmt.lib import bells
from derpmgmt.lib.workers import tick_name, ticks_done

# A worker's record is fresh for so long (`derpmgmt.lib.workers` renews it twice a minute).
BEAT = timedelta(seconds=100)


def read_queues(now: datetime) -> Iterator[Reading]:
    """For each queue: whether somebody serves it, how long its first job waits, and how many failed. Unknown while Redis is away."""
    client = bells.client()
    queues = [Queue(name, connection=client) for name in settings.QUEUES]
    try:
        keys = BaseWorker.all_keys(connection=client)
        pipe = client.pipeline(transaction=False)
        for key in keys:
            pipe.hmget(key, "last_heartbeat", "queues")
        for queue in queues:
            # Of its jobs those of the last minute: so long failed ones are kept (`derpmgmt.lib.bells`).
            pipe.llen(queue.key)
            pipe.zcount(queue.failed_job_registry.key, datetime.now(UTC).timestamp(), "+inf")
        found = pipe.execute()
        served = {
            name
            for heartbeat, names in found[: len(keys)]
            if heartbeat and names and datetime.now(UTC) - utcparse(heartbeat.decode()) < BEAT
            for name in names.decode().split(",")
        }
        counts = found[len(keys) :]
        waits = {
            queue.name: _waited(queue) if waiting else 0.0
            for queue, waiting in zip(queues, counts[::2], strict=True)
        }
        failed = dict(zip(settings.QUEUES, counts[1::2], strict=True))
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
