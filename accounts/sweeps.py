"""Sweeps that go on when the work on one of their rows raises.

Such a row is a `PutOff`: it comes again later each time, and operators see it, the error and the next try, until its work is done.
"""

import logging
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from django.db import Error as DatabaseFailure
from django.db.models import Q, QuerySet
from django.utils.translation import gettext_lazy as _

from accounts.models import PutOff
from accounts.works import WORKS, Work
from derpmgmt.lib import problems
from derpmgmt.lib.refusals import Refusal
from derpmgmt.lib.retries import Retry
from derpmgmt.lib.sweeps import attempt

log = logging.getLogger(__name__)

RETRY = Retry(first=timedelta(seconds=10), longest=timedelta(minutes=10))
# Rows that were put off and of which one sweep tries so many again, beside those that never failed.
_AGAIN_AT_ONCE = 100
_DATABASE = "database_failed"
# How the log says it, with what was raised.
LOGGED = "%s: row %s is put off"

problems.declare({_DATABASE: _("The database did not answer, or did not take what was written.")})


def sweep(work: Work, *, now: datetime, rows: QuerySet[Any] | None = None) -> int:
    """Have `work` done on the rows that are due (`rows`: on these of them); returns the sum of what it did.

    Where it raises for several, each has its turn alone. Where it raises for one, that is logged, and the row put off: it is left out
    for a while, longer each time, and then comes after the others.
    """
    rows = work.due(now) if rows is None else rows
    pks = list(rows.values_list("pk", flat=True)[: work.limit])
    if not pks:
        return 0
    failed = PutOff.objects.filter(work=work.name)
    again: list[int] = []
    if failed.exists():
        is_due = Q(try_after__lte=now) | Q(failed_at__gt=now)  # The clock was set back.
        waiting = failed.filter(is_due).order_by("try_after").values_list("row", flat=True)[:_AGAIN_AT_ONCE]
        again = list(rows.filter(pk__in=list(waiting)).values_list("pk", flat=True))
        left = rows.exclude(pk__in=failed.values("row"))
        pks = list(left.values_list("pk", flat=True)[: work.limit])
    parts = [pks[at : at + work.together] for at in range(0, len(pks), work.together)]
    done = sum(_try(work, part, now) for part in parts)
    return done + sum(_try(work, [pk], now, is_again=True) for pk in again)


def try_row(work: Work, pk: int, *, now: datetime) -> datetime | None:
    """Have `work` done on one row, as a job does that a sweep rings for.

    Where it raises, that is logged and the row put off: returns until when the sweep should leave it alone, None where it went well.
    """
    try:
        work.do([pk], now)
    except Exception as error:
        log.exception(LOGGED, work.name, pk)
        return _put_off(work, pk, error, now)
    # Hardly ever there: a look costs less than a statement that writes.
    if (failed := PutOff.objects.filter(work=work.name, row=pk)).exists():
        failed.delete()
    return None


def try_again(*, put_off_pk: int, now: datetime) -> None:
    """Do what was put off now, if it is still to be done."""
    row = PutOff.objects.filter(pk=put_off_pk).first()
    work = WORKS.get(row.work) if row else None
    if row and work and work.due(now).filter(pk=row.row).exists():
        _try(work, [row.row], now, is_again=True)
    elif row:
        _forget(PutOff.objects.filter(pk=row.pk), work, now)


def forget_settled(*, now: datetime) -> None:
    """Forget what was put off and is to be done no more: something else did it, its row is gone, or it is no work any more."""
    names = set(PutOff.objects.order_by().values_list("work", flat=True).distinct())
    for name in names:
        rows = PutOff.objects.filter(work=name)
        attempt(f"what was put off of “{name}”", partial(_forget, rows, WORKS.get(name), now))


def _forget(rows: QuerySet[PutOff], work: Work | None, now: datetime) -> None:
    if work:
        rows = rows.exclude(row__in=work.due(now).order_by().values("pk"))
    rows.delete()


def name_rows(rows: Iterable[PutOff]) -> None:
    """Find out whom each is about (`PutOff.whose`), in one query for each work."""
    rows = list(rows)
    for work in [WORKS[name] for name in {row.work for row in rows} & WORKS.keys()]:
        failed = PutOff.objects.filter(work=work.name).values("row")
        names = dict(work.model._default_manager.filter(pk__in=failed).values_list("pk", work.whose))
        for row in rows:
            if row.work == work.name:
                row.whose = names.get(row.row)


def _try(work: Work, pks: Sequence[int], now: datetime, *, is_again: bool = False) -> int:
    try:
        done = work.do(pks, now)
    except Exception as error:
        if len(pks) > 1:
            return sum(_try(work, [pk], now) for pk in pks)
        log.exception(LOGGED, work.name, pks[0])
        _put_off(work, pks[0], error, now)
        return 0
    if is_again:
        PutOff.objects.filter(work=work.name, row__in=pks).delete()
    return done


def _put_off(work: Work, pk: int, error: Exception, now: datetime) -> datetime:
    row, _made = PutOff.objects.get_or_create(work=work.name, row=pk, defaults={"since": now})
    failed = RETRY.failed(row.failures, now, _code_of(error))
    # Of the error its kind alone: what it says may hold a secret.
    PutOff.objects.filter(pk=row.pk).update(exception=type(error).__name__[:80], **failed)
    return now + RETRY.pause(row.failures)


def _code_of(error: Exception) -> str:
    if isinstance(error, Refusal) and problems.sentence_of(error.code):
        return error.code
    return _DATABASE if isinstance(error, DatabaseFailure) else problems.INTERNAL
