"""A worker that dies at one of its writes, as kill -9 ends it."""

from collections.abc import Callable
from typing import Any


class Died(BaseException):
    """As kill -9: what was not committed is not there."""


def die_at(write: int) -> Callable[..., Any]:
    """Has whoever writes end at the nth statement that changes something."""
    left = write

    def run(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        nonlocal left
        left -= sql.startswith(("INSERT", "UPDATE", "DELETE"))
        if left == -1:
            left = -(10**6)
            raise Died
        return execute(sql, params, many, context)

    return run
