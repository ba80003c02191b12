"""RQ: carries jobs and knows nothing else. The rows are the truth; what is enqueued here is only a bell.

`announce` says that something is the case, which rings for jobs: for those of the same room by the room's own table, for those of
rooms above by `derpmgmt/flow.py`. `ask` puts a question to the apps above the asker, inside the asker's transaction.
"""

import logging
import uuid
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import django_rq
import redis
from django.conf import settings
from django.db import transaction
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq.queue import Queue

log = logging.getLogger(__name__)

Job = Callable[[int], Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])

# Who rings waits no longer for a Redis that hangs: a page may be waiting for its bells.
_REDIS_SECONDS = 2.0
# So long RQ keeps jobs that are over, in seconds: their rows say what came of them.
_KEPT: dict[str, Any] = {"result_ttl": 0, "failure_ttl": 60}
# So long a sweep remembers its last ring; where that still waits after so long, there are two.
_REMEMBER_SECONDS = 3600


@dataclass(frozen=True)
class Tick:
    """What whoever serves `queue` does by itself every `seconds`, between its jobs; two who do it must be harmless."""

    job: Callable[..., Any]
    queue: str
    seconds: int
    args: tuple[int, ...] = ()


def on_queue(queue: str | Callable[[int], str]) -> Callable[[_Function], _Function]:
    """Say which queue a job belongs to: its name, or what tells it for the job's argument. Jobs without are on "default"."""

    def mark(job: _Function) -> _Function:
        job.queue = queue  # type: ignore[attr-defined]
        return job

    return mark


def queue_of(job: Callable[..., Any], *args: int) -> str:
    """The name of the queue to which a job with these arguments belongs."""
    queue = getattr(job, "queue", "default")
    return queue if isinstance(queue, str) else str(queue(*args))


def every(seconds: int, job: Callable[..., Any], *args: int) -> Tick:
    """What the clock does every so many seconds."""
    return Tick(job, queue_of(job, *args), seconds, args)


# The queue whose work this thread does, and what it starts by `copy_context`; empty elsewhere.
serving: ContextVar[str] = ContextVar("serving", default="")

_jobs: dict[str, list[Job]] = {}
_answers: dict[str, list[Callable[..., Iterable[Any]]]] = {}


def register(jobs: dict[str, list[Job]], answers: dict[str, list[Callable[..., Iterable[Any]]]]) -> None:
    """Take over the two tables of `derpmgmt/flow.py`, once, at start-up."""
    _jobs.clear()
    _jobs.update(jobs)
    _answers.clear()
    _answers.update(answers)


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


def enqueue(job: Job, pk: int, *, queue: str = "", is_again: bool = False) -> None:
    """Ring for `job(pk)` on its queue (`queue`, where the caller knows it) after the current transaction commits, at once when there
    is none.

    `is_again` is for sweeps: it does not ring while their last ring for the same work still waits for a worker. A Redis that is
    away is logged and no more: the sweep finds the same work from the rows.
    """

    queue = queue or queue_of(job, pk)

    def ring() -> None:
        try:
            served = django_rq.get_queue(queue, commit_mode="auto", connection=client())
            job_id = str(uuid.uuid4())
            if is_again:
                mark = f"again:{job.__module__}.{job.__name__}:{pk}"
                if _is_waiting(queue, mark):
                    return
                client().set(mark, job_id, ex=_REMEMBER_SECONDS)
            served.enqueue(job, args=(pk,), job_id=job_id, **_KEPT)
        except redis.RedisError as error:
            log.warning("the queue %s is away, the sweep will ring again: %s", queue, error)

    transaction.on_commit(ring)


def _is_waiting(queue: str, mark: str) -> bool:
    """Whether the last ring under `mark` stands in `queue`.

    What RQ says of a job that a worker took does not count: where that worker was killed, the job stays "started" for many
    minutes. The rows know whether somebody is at work.
    """
    last: Any = client().get(mark)
    return last is not None and client().lpos(Queue.redis_queue_namespace_prefix + queue, last) is not None


def announce(fact: str, pk: int) -> None:
    """Say that `fact` is now the case for the row `pk`; an unknown fact is a programming error (`KeyError`)."""
    for job in _jobs[fact]:
        enqueue(job, pk)


def announce_all(fact: str, pks: Collection[int]) -> None:
    """Say that `fact` is now the case for all these rows: as `announce` for each, with one message to Redis for each queue."""
    for job in _jobs[fact]:
        by_queue: dict[str, list[int]] = defaultdict(list)
        for pk in pks:
            by_queue[queue_of(job, pk)].append(pk)
        for queue, some in by_queue.items():
            _enqueue_all(job, some, queue)


def _enqueue_all(job: Job, pks: Collection[int], queue: str) -> None:
    def ring() -> None:
        try:
            served = django_rq.get_queue(queue, connection=client())
            served.enqueue_many(
                [Queue.prepare_data(job, args=(pk,), job_id=str(uuid.uuid4()), **_KEPT) for pk in pks]
            )
        except redis.RedisError as error:
            log.warning("the queue %s is away, the sweep will ring again: %s", queue, error)

    transaction.on_commit(ring)


def ask(question: str, *args: Any, **kwargs: Any) -> list[Any]:
    """All answers of the apps above to `question`; raises `KeyError` for a question that no table lists."""
    return [answer for function in _answers[question] for answer in function(*args, **kwargs)]
