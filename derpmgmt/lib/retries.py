"""Trying again later what failed, each time after a longer pause."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import models
from django.db.models import F, Q
from django.utils.translation import gettext_lazy as _

# So often a pause has doubled that it is longer than any `longest`; a number without end would be too great for a time.
_MOST_DOUBLINGS = 20
CODE_LENGTH = 32


@dataclass(frozen=True)
class Retry:
    """When something that failed is tried again: after `first`, and after each further failure in a row twice as late, at most `longest`.

    `failures` and `try_after` name the columns of the row that hold how often it failed in a row, and until when it rests.
    """

    first: timedelta
    longest: timedelta
    failures: str = "failures"
    try_after: str = "try_after"

    def pause(self, failures: int) -> timedelta:
        """How long to wait after a failure before which there were so many in a row."""
        doublings = min(failures, _MOST_DOUBLINGS)
        return min(self.first * 2**doublings, self.longest)

    def failed(self, failures: int, now: datetime, code: str | None = None) -> dict[str, Any]:
        """What an UPDATE writes after a failure before which there were so many in a row; `code` where the row is a `Retried`."""
        known = {} if code is None else {"failure_code": code[:CODE_LENGTH], "failed_at": now}
        return {self.failures: F(self.failures) + 1, self.try_after: now + self.pause(failures), **known}

    @property
    def cleared(self) -> dict[str, Any]:
        """What an UPDATE writes when it went well, or is to be tried at once."""
        return {self.failures: 0, self.try_after: None}

    def due(self, now: datetime, row: str = "") -> Q:
        """The rows that do not rest; `row` leads to them (`gate__`)."""
        column = f"{row}{self.try_after}"
        return Q((column, None)) | Q((f"{column}__lte", now))

    def rests(self, row: models.Model, now: datetime) -> bool:
        """As the opposite of `due`, for one row."""
        until: datetime | None = getattr(row, self.try_after)
        return until is not None and until > now


class Retried(models.Model):
    """Columns of what is tried again later (`Retry`): how often it failed in a row, until when it rests, and what of it is known."""

    failures = models.PositiveIntegerField(_("failed tries"), default=0, editable=False)
    try_after = models.DateTimeField(_("next try not before"), null=True, blank=True, editable=False)
    failure_code = models.CharField(
        _("error code of the last failure"), max_length=CODE_LENGTH, blank=True, editable=False
    )
    failed_at = models.DateTimeField(_("last failure"), null=True, blank=True, editable=False)

    class Meta:
        abstract = True
