"""Sweeps that go on when the work on one of their rows raises."""

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet

from accounts.models import PutOff
from derpmgmt.lib.retries import Retry

log = logging.getLogger(__name__)

RETRY = Retry(first=timedelta(seconds=10), longest=timedelta(minutes=10))
# Rows that were put off and of which one sweep tries so many again, beside those that never failed.
_AGAIN_AT_ONCE = 100
# A row that has not failed for so long is not due any more.
_FORGOTTEN_AFTER = timedelta(days=1)


def sweep(
    work: str,
    rows: QuerySet[Any],
    do: Callable[[Sequence[int]], int],
    *,
    now: datetime,
    limit: int | None = None,
    together: int = 1,
) -> int:
    """Have `do` work on `rows`, those that are due in the order in which they are; returns the sum of what it returns.

    `do` gets the primary keys of up to `together` rows, and does all of that or nothing. Where it raises for several, each has its
    turn alone. Where it raises for one, that is logged, and the row put off: it is left out for a while, longer each time, and then
    comes after the others. `work` names what is done (40 characters); `limit` is how many rows have their turn.
    """
    pks = list(rows.values_list("pk", flat=True)[:limit])
    if not pks:
        return 0
    failed = PutOff.objects.filter(work=work)
    again: list[int] = []
    if failed.exists():
        failed.filter(failed_at__lt=now - _FORGOTTEN_AFTER).delete()
        is_due = Q(try_after__lte=now) | Q(failed_at__gt=now)  # The clock was set back.
        waiting = failed.filter(is_due).order_by("try_after").values_list("row", flat=True)[:_AGAIN_AT_ONCE]
        again = list(rows.filter(pk__in=list(waiting)).values_list("pk", flat=True))
        pks = list(rows.exclude(pk__in=failed.values("row")).values_list("pk", flat=True)[:limit])
    parts = [pks[at : at + together] for at in range(0, len(pks), together)]
    done = sum(_try(work, part, do, now) for part in parts)
    return done + sum(_try(work, [pk], do, now, is_again=True) for pk in again)


def _try(
    work: str,
    pks: Sequence[int],
    do: Callable[[Sequence[int]], int],
    now: datetime,
    *,
    is_again: bool = False,
) -> int:
    try:
        done = do(pks)
    except Exception as error:
        if len(pks) > 1:
            return sum(_try(work, [pk], do, now) for pk in pks)
        log.exception("%s: row %s is put off", work, pks[0])
        _put_off(work, pks[0], error, now)
        return 0
    if is_again:
        PutOff.objects.filter(work=work, row__in=pks).delete()
    return done


def _put_off(work: str, pk: int, error: Exception, now: datetime) -> None:
    row, _made = PutOff.objects.get_or_create(work=work, row=pk)
    PutOff.objects.filter(pk=row.pk).update(**RETRY.failed(row.failures, now, type(error).__name__))
