"""Bells for jobs. The rows are the truth; what is enqueued here is only a bell.

`announce` says that something is the case, which rings for jobs: for those of the same room by the room's own table, for those of
rooms above by `derpmgmt/flow.py`. `ask` puts a question to the apps above the asker, inside the asker's transaction.
"""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from django.db import transaction

Job = Callable[[int], Any]
_Function = TypeVar("_Function", bound=Callable[..., Any])


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
_load: Callable[[], object] | None = None


def register(jobs: dict[str, list[Job]], answers: dict[str, list[Callable[..., Iterable[Any]]]]) -> None:
    """Take over the two tables of `derpmgmt/flow.py`, once."""
    _jobs.clear()
    _jobs.update(jobs)
    _answers.clear()
    _answers.update(answers)


def register_later(load: Callable[[], object]) -> None:
    """Have the tables registered by `load`, which is called when one of them is first needed."""
    global _load
    _load = load


def _tables() -> None:
    """The tables are there when this returns."""
    if not _answers and _load is not None:
        _load()


def enqueue(job: Job, pk: int, *, queue: str = "", is_again: bool = False) -> None:
    """Ring for `job(pk)` on its queue (`queue`, where the caller knows it) after the current transaction commits, at once when there
    is none.

    `is_again` is for sweeps: it does not ring while their last ring for the same work still waits for a worker. A Redis that is
    away is logged and no more: the sweep finds the same work from the rows.
    """

    queue = queue or queue_of(job, pk)

    transaction.on_commit(lambda: _ring(job, [pk], queue, is_again=is_again))


def _ring(job: Job, pks: Collection[int], queue: str, *, is_again: bool = False) -> None:
    from derpmgmt.lib import bells  # RQ weighs much in a process that rings no bell

    bells.ring(job, pks, queue, is_again=is_again)


def announce(fact: str, pk: int) -> None:
    """Say that `fact` is now the case for the row `pk`; an unknown fact is a programming error (`KeyError`)."""
    _tables()
    for job in _jobs[fact]:
        enqueue(job, pk)


def announce_all(fact: str, pks: Collection[int]) -> None:
    """Say that `fact` is now the case for all these rows: as `announce` for each, with one message to Redis for each queue."""
    _tables()
    for job in _jobs[fact]:
        by_queue: dict[str, list[int]] = defaultdict(list)
        for pk in pks:
            by_queue[queue_of(job, pk)].append(pk)
        for queue, some in by_queue.items():
            transaction.on_commit(partial(_ring, job, some, queue))


def ask(question: str, *args: Any, **kwargs: Any) -> list[Any]:
    """All answers of the apps above to `question`; raises `KeyError` for a question that no table lists."""
    _tables()
    return [answer for function in _answers[question] for answer in function(*args, **kwargs)]
