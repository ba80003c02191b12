"""A job that people may wait for is a row: `JobRecord`."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar, Self

from django.db import DatabaseError, connection, models
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.utils import timezone
from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.problems import Problem, explain

# Within this time a living worker has written `heartbeat_at`; without it the row is taken for lost.
HEARTBEAT_EVERY = timedelta(seconds=5)
LOST_AFTER = timedelta(seconds=20)


def worker_name() -> str:
    """Who works: machine, process and thread."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_native_id()}"


@dataclass(frozen=True)
class StepTime:
    """One step of a piece of work: its name in the log, and how long it took or has taken so far."""

    name: str
    seconds: float
    is_over: bool


def _read_line(columns: list[str]) -> str:
    """The text of a line of the log; what was written before lines had a problem of their own is text."""
    text = columns[0]
    if len(columns) == 1:
        return text
    stored = json.loads(columns[1])
    sentence = explain(stored["code"], stored["values"], stored["sentence"])
    words = f" · {stored['detail']}" if stored["detail"] else ""
    return " ".join(filter(None, [stored["mark"], text, sentence])) + words


class JobQuerySet(models.QuerySet[Any]):
    """Job rows by what is to be done about them."""

    def open(self) -> Self:
        """Not finished: queued or running."""
        return self.filter(status__in=[JobRecord.Status.QUEUED, JobRecord.Status.RUNNING])

    def lost(self, now: Any) -> Self:
        """Running by their own word, but no worker has written `heartbeat_at` for `LOST_AFTER`."""
        return self.filter(status=JobRecord.Status.RUNNING, heartbeat_at__lt=now - LOST_AFTER)


class JobRecord(models.Model):
    """One piece of work with its state, its log and the worker that has it.

    `failed` means that the host said no, `errored` that we have a bug, `lost` that the worker died. Every change of state is a
    conditional UPDATE whose count is checked, so two workers never both believe they have the job.
    """

    class Status(models.TextChoices):
        QUEUED = "queued", _("waiting")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        ERRORED = "errored", _("internal error")
        LOST = "lost", _("interrupted")

    status = models.CharField(_("state"), max_length=8, choices=Status, default=Status.QUEUED, db_index=True)
    step = models.CharField(_("step"), max_length=24, blank=True)
    error_code = models.CharField(_("error code"), max_length=32, blank=True)
    error = models.TextField(_("reason"), blank=True, help_text=_("In English; pages show it translated."))
    error_values = models.JSONField(default=dict, blank=True, editable=False)
    detail = models.TextField(_("the host's own words"), blank=True)
    log = models.TextField(_("log"), blank=True, editable=False)
    worker = models.CharField(_("worker"), max_length=120, blank=True)
    created_at = models.DateTimeField(_("created"), default=timezone.now, db_index=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    heartbeat_at = models.DateTimeField(_("last sign of life"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    objects: ClassVar[Any] = JobQuerySet.as_manager()

    class Meta:
        abstract = True
        ordering = ["-pk"]

    @property
    def is_open(self) -> bool:
        """Whether the work is still to be waited for."""
        return self.status in {self.Status.QUEUED, self.Status.RUNNING}

    def claim(self) -> bool:
        """Take the queued row for this worker; False when somebody else has it or it has ended."""
        now = timezone.now()
        claimed = (
            type(self)
            .objects.filter(pk=self.pk, status=self.Status.QUEUED)
            .update(status=self.Status.RUNNING, started_at=now, heartbeat_at=now, worker=worker_name())
        )
        if claimed:
            self.refresh_from_db()
        return bool(claimed)

    def beat(self) -> bool:
        """Show a sign of life; False when the row was taken away (a sweep held this worker for dead)."""
        return bool(self._mine().update(heartbeat_at=timezone.now()))

    def write(
        self, text: str = "", *, step: str | None = None, problem: Problem | None = None, mark: str = ""
    ) -> bool:
        """Append a line to the log (UTC time, step, text), naming the step now under way; also a sign of life.

        `text` is for names, addresses and numbers, which need no translation; a sentence is a `problem`, of which code and
        values are stored, and `mark` stands before it.
        """
        now = timezone.now()
        if step is not None:
            self.step = step
        line = f"{now:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z\t{self.step}\t{' '.join(text.split())[:1000]}"
        if problem is not None:
            line += "\t" + json.dumps({"mark": mark, **asdict(problem)}, ensure_ascii=False)
        line += "\n"
        self.log += line
        return bool(self._mine().update(log=Concat(F("log"), Value(line)), step=self.step, heartbeat_at=now))

    def finish(self, status: str, problem: "Problem | None" = None) -> bool:
        """End the running row with `status`; False when it was no longer this worker's."""
        problem = problem or Problem("", "")
        ended = self._mine().update(
            status=status,
            error_code=problem.code[:32],
            error=problem.sentence[:4000],
            error_values=problem.values,
            detail=problem.detail[:4000],
            finished_at=timezone.now(),
        )
        if ended:
            self.refresh_from_db()
        return bool(ended)

    @property
    def reason(self) -> str:
        """Why it did not end well, in the language of the page."""
        return (
            explain(self.error_code, self.error_values, self.error) if self.error_code or self.error else ""
        )

    def log_lines(self) -> list[tuple[str, str, str]]:
        """The log as (UTC time, step, text), in the active language."""
        return [
            (parts[0], parts[1], _read_line(parts[2:]))
            for parts in (line.split("\t", 3) for line in self.log.splitlines())
            if len(parts) >= 3
        ]

    def step_times(self, now: datetime) -> list[StepTime]:
        """The steps so far, each with the time it took; the last of open work is still under way."""
        starts: list[tuple[str, datetime]] = []
        for at, step, _text in self.log_lines():
            moment = parse_datetime(at)
            if moment is not None and (not starts or starts[-1][0] != step):
                starts.append((step, moment))
        if not starts:
            return []
        end = self.finished_at or now
        ends = [*(moment for _step, moment in starts[1:]), end]
        return [
            StepTime(
                step,
                max((ended - began).total_seconds(), 0.0),
                is_over=not self.is_open or number < len(starts),
            )
            for number, ((step, began), ended) in enumerate(zip(starts, ends, strict=True), 1)
        ]

    def _mine(self) -> models.QuerySet[Any]:
        return type(self).objects.filter(pk=self.pk, status=self.Status.RUNNING, worker=self.worker)


class Heartbeat:
    """Beats while work sits in one long call (an image on its way to a host); a context manager.

    `beats` are called every `HEARTBEAT_EVERY`, in a thread of its own with a database connection of its own.
    """

    def __init__(self, *beats: Callable[[], object]) -> None:
        self._beats = beats
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stop.wait(HEARTBEAT_EVERY.total_seconds()):
                for beat in self._beats:
                    # A database that is away for a moment must not end the beating.
                    with contextlib.suppress(DatabaseError):
                        beat()
        finally:
            connection.close()
