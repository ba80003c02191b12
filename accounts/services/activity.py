"""The activity log that every room writes to."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from accounts.models import OperationLog, User

# Whose request is being answered here, and the address it came from.
_acting: ContextVar[tuple[int, str] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(user_pk: int, ip: str) -> Iterator[None]:
    """While this lasts, what the operator `user_pk` does is written down with the address that they do it from."""
    token = _acting.set((user_pk, ip))
    try:
        yield
    finally:
        _acting.reset(token)


def log_operation(
    *,
    by: User | None,
    action: str,
    target: object = "",
    subject: User | None = None,
    is_success: bool = True,
    ip: str | None = None,
    **detail: Any,
) -> OperationLog:
    """Write one line of the activity log; `by` None means the system itself.

    `detail` must be JSON and free of secrets. Without `ip`, an operator's own request gives it, so no act through the admin lacks it.
    """
    line = log_line(
        by=by, action=action, target=target, subject=subject, is_success=is_success, ip=ip, **detail
    )
    line.save()
    return line


def log_lines(lines: Iterable[OperationLog]) -> None:
    """Write many lines of the activity log (`log_line`) at once."""
    OperationLog.objects.bulk_create(lines)


def log_line(
    *,
    by: User | None,
    action: str,
    target: object = "",
    subject: User | None = None,
    is_success: bool = True,
    ip: str | None = None,
    **detail: Any,
) -> OperationLog:
    """A line of the activity log that is not written yet; the arguments are those of `log_operation`."""
    here = _acting.get()
    if ip is None and by is not None and by.is_staff and here is not None and here[0] == by.pk:
        ip = here[1]
    return OperationLog(
        actor=by,
        subject=subject,
        action=action,
        target=str(target)[:120],
        is_success=is_success,
        ip=ip,
        detail=detail,
    )
