"""The activity log that every room writes to."""

from typing import Any

from accounts.models import OperationLog, User


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

    `detail` must be JSON and free of secrets.
    """
    return OperationLog.objects.create(
        actor=by,
        subject=subject,
        action=action,
        target=str(target)[:120],
        is_success=is_success,
        ip=ip,
        detail=detail,
    )
