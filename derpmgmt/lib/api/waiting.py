"""Waiting for what a job does, for those who ask with `?wait=`: a request then answers when it is done, or when the time is over."""

import threading
import time
from collections.abc import Callable
from typing import Annotated, TypeVar

from django.db import transaction
from ninja import Query

MOST_SECONDS = 30
_EVERY_SECONDS = 0.2
# Requests of one process that wait at the same time; each holds a thread, and the others are for those who do not wait.
_waiting = threading.BoundedSemaphore(3)

Found = TypeVar("Found")
# The query's field; its default is 0.
Wait = Annotated[
    int,
    Query(
        ge=0,
        le=MOST_SECONDS,
        description="Seconds to wait until it is done. Where that takes longer, or many wait, the answer is 202 all the same.",
    ),
]


def wait_for(find: Callable[[], Found | None], seconds: int) -> Found | None:
    """What `find` gives once that is not None; None when the time is over, or when too many wait.

    `find` reads rows; it is asked once at least. Not inside of a transaction, which would not see what others write.
    """
    found = find()
    if found is not None or not seconds or not _waiting.acquire(blocking=False):
        return found
    assert not transaction.get_connection().in_atomic_block or seconds == 0
    try:
        deadline = time.monotonic() + seconds
        while found is None and time.monotonic() < deadline:
            time.sleep(_EVERY_SECONDS)
            found = find()
        return found
    finally:
        _waiting.release()
