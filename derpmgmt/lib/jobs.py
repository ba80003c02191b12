"""A job that people may wait for is a row: `JobRecord`."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar, Self

from django.db import DatabaseError, connection, models
from django.db.models import F, Value
from django.db.models.functions import Concat
from django.utils import timezone, translation
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

# Within this time a living worker has written `heartbeat_at`; without it the row is taken for lost.
HEARTBEAT_EVERY = timedelta(seconds=5)
LOST_AFTER = timedelta(seconds=20)


@dataclass(frozen=True)
class Problem:
    """Why something failed, in a form that can be stored and read in any language later.

    `sentence` is the English text as it stands in the code (the msgid), `values` what is filled into it, `detail` the host's own
    words.
    """

    code: str
    sentence: str
    values: dict[str, str] = field(default_factory=dict)
    detail: str = ""

    @classmethod
    def of(cls, error: Any) -> "Problem":
        """The problem behind an exception that has `code`, `sentence`, `values` and `detail`, as `RemoteError` does."""
        with translation.override(None):
            sentence = str(error.sentence)
        return cls(
            error.code, sentence, {key: str(value) for key, value in error.values.items()}, error.detail
        )


def translate(sentence: str, values: dict[str, str]) -> str:
    """A stored sentence in the active language; one that the catalogue no longer has stays English."""
    if not sentence:
        return ""
    return gettext(sentence) % values if values else gettext(sentence)


def worker_name() -> str:
    """Who works: machine, process and thread."""
    return f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident() % 100_000}"


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

    def write(self, text: str, *, step: str | None = None) -> bool:
        """Append a line to the log (UTC time, step, text), naming the step now under way; also a sign of life."""
        now = timezone.now()
        if step is not None:
            self.step = step
        line = f"{now:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + f"Z\t{self.step}\t{' '.join(text.split())[:1000]}\n"
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
        return translate(self.error, self.error_values)

    def log_lines(self) -> list[tuple[str, str, str]]:
        """The log as (UTC time, step, text)."""
        return [
            (parts[0], parts[1], parts[2])
            for parts in (line.split("\t", 2) for line in self.log.splitlines())
            if len(parts) == 3
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
