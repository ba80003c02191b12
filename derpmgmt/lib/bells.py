"""RQ: carries jobs from one process to another, and knows nothing else."""

import logging
import uuid
from collections.abc import Collection
from functools import cache
from typing import Any

import django_rq
import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.queue import Queue

from derpmgmt.lib.queue import Job

log = logging.getLogger(__name__)

# Who rings waits no longer for a Redis that hangs: a page may be waiting for its bells.
_REDIS_SECONDS = 2.0
# So long RQ keeps jobs that are over, in seconds: their rows say what came of them.
_KEPT: dict[str, Any] = {"result_ttl": 0, "failure_ttl": 60}
# So long a sweep remembers its last ring; where that still waits after so long, there are two.
_REMEMBER_SECONDS = 3600


@cache
def _client_of(url: str) -> redis.Redis:
    return redis.Redis.from_url(
        url,
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
        retry=Retry(NoBackoff(), 1),
    )


def client() -> redis.Redis:
    """The one client of the queue's Redis in this process, for everything that does not wait long for an answer.

    Threads share it, and forked children begin with no connection of their parent's. RQ keeps something for each client that it
    is given, so another one for each ring would be an open file more for each. Not for `rq.Worker`, which changes the time limits
    of the client it gets.
    """
    return _client_of(settings.RQ_QUEUES["default"]["URL"])


def ring(job: Job, pks: Collection[int], queue: str, *, is_again: bool = False) -> None:
    """Ring at once for `job` of each of these rows, on that queue, with one message to Redis. A Redis that is away is logged.

    `is_again`: not while the last ring of a sweep for the same row still waits for a worker.
    """
    try:
        served = django_rq.get_queue(queue, commit_mode="auto", connection=client())
        if len(pks) > 1 and not is_again:
            served.enqueue_many(
                [Queue.prepare_data(job, args=(pk,), job_id=str(uuid.uuid4()), **_KEPT) for pk in pks]
            )
            return
        for pk in pks:
            job_id = str(uuid.uuid4())
            if is_again:
                mark = f"again:{job.__module__}.{job.__name__}:{pk}"
                if _is_waiting(queue, mark):
                    continue
                client().set(mark, job_id, ex=_REMEMBER_SECONDS)
            served.enqueue(job, args=(pk,), job_id=job_id, **_KEPT)
    except redis.RedisError as error:
        log.warning("the queue %s is away, the sweep will ring again: %s", queue, error)


def _is_waiting(queue: str, mark: str) -> bool:
    """Whether the last ring under `mark` stands in `queue`.

    What RQ says of a job that a worker took does not count: where that worker was killed, the job stays "started" for many
    minutes. The rows know whether somebody is at work.
    """
    last: Any = client().get(mark)
    return last is not None and client().lpos(Queue.redis_queue_namespace_prefix + queue, last) is not None
