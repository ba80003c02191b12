"""The activity log that every room writes to."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from accounts.models import OperationLog, User

# Whose request is being answered here, the address it came from, and the name of the token it was made with.
_acting: ContextVar[tuple[int, str, str] | None] = ContextVar("acting", default=None)


@contextmanager
def acting(user_pk: int, ip: str, api_token: str = "") -> Iterator[None]:
    """While this lasts, what the operator `user_pk` does is written down with the address that they do it from; what anybody does
    with a token of theirs also with the name of that."""
    token = _acting.set((user_pk, ip, api_token))
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

    `detail` must be JSON and free of secrets. Without `ip`, an operator's own request gives it, so no act through the admin lacks it;
    `token` in it is the name of the API token that it was done with.
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
    if by is not None and here is not None and here[0] == by.pk:
        if ip is None and (by.is_staff or here[2]):
            ip = here[1]
        if here[2]:
            detail = {**detail, "token": here[2]}
    return OperationLog(
        actor=by,
        subject=subject,
        action=action,
        target=str(target)[:120],
        is_success=is_success,
        ip=ip,
        detail=detail,
    )
