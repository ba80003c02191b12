"""RQ: carries jobs and knows nothing else. The rows are the truth; what is enqueued here is only a bell.

`announce` says that something is the case; `derpmgmt/flow.py` says which jobs that rings for. `ask` puts a question to the
apps above the asker, inside the asker's transaction.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import django_rq
import redis
from django.db import transaction
from rq.exceptions import DuplicateJobError

log = logging.getLogger(__name__)

Job = Callable[[int], Any]


@dataclass(frozen=True)
class Ring:
    """One job that a fact rings for; `queue` names the queue, or says it for a primary key."""

    job: Job
    queue: str | Callable[[int], str] = "default"


@dataclass(frozen=True)
class Tick:
    """A job that the one scheduler rings for every `seconds`; it must be harmless when it is rung twice."""

    job: Callable[..., Any]
    queue: str
    seconds: int
    args: tuple[int, ...] = ()


_jobs: dict[str, list[Ring]] = {}
_answers: dict[str, list[Callable[..., Iterable[Any]]]] = {}


def register(jobs: dict[str, list[Ring]], answers: dict[str, list[Callable[..., Iterable[Any]]]]) -> None:
    """Take over the two tables of `derpmgmt/flow.py`, once, at start-up."""
    _jobs.clear()
    _jobs.update(jobs)
    _answers.clear()
    _answers.update(answers)


def enqueue(job: Job, pk: int, *, queue: str = "default", is_again: bool = False) -> None:
    """Ring for `job(pk)` after the current transaction commits (at once when there is none).

    `is_again` is for sweeps: it does not ring while their last ring for the same work still waits. A Redis that is away is
    logged and no more: the sweep finds the same work from the rows.
    """

    def ring() -> None:
        once: dict[str, Any] = {}
        if is_again:
            once = {"job_id": f"again-{job.__module__}-{job.__name__}-{pk}".replace(".", "-"), "unique": True}
        try:
            django_rq.get_queue(queue, commit_mode="auto").enqueue(
                job, args=(pk,), result_ttl=0, failure_ttl=60, **once
            )
        except DuplicateJobError:
            pass
        except redis.RedisError as error:
            log.warning("the queue %s is away, the sweep will ring again: %s", queue, error)

    transaction.on_commit(ring)


def announce(fact: str, pk: int) -> None:
    """Say that `fact` is now the case for the row `pk`; an unknown fact is a programming error (`KeyError`)."""
    for ring in _jobs[fact]:
        enqueue(ring.job, pk, queue=ring.queue if isinstance(ring.queue, str) else ring.queue(pk))


def ask(question: str, *args: Any, **kwargs: Any) -> list[Any]:
    """All answers of the apps above to `question`; raises `KeyError` for a question that no table lists."""
    return [answer for function in _answers[question] for answer in function(*args, **kwargs)]
