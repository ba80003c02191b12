"""What the hot path answered, kept in memory until a thread of the process writes it down, once a second.

A process that is killed loses what it answered in its last second; the devices knock again.
"""

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

from django.db import InterfaceError, OperationalError, connection

from acl.devices.services.admission_rows import record_admissions, record_seen
from acl.devices.services.pace import Asked

log = logging.getLogger(__name__)

_PAUSE_SECONDS = 1.0
# Different questions that may wait to be written; what comes beyond is answered but not written.
_MOST_WAITING = 20_000
_WRITE_AT_ONCE = 2000
# Devices whose row is told in one go that they were seen; the others' turn comes later.
_SEEN_AT_ONCE = 100

_lock = threading.Lock()
_waiting: dict[tuple[object, ...], Asked] = {}
_seen: dict[tuple[int, str], Asked] = {}
_ended = threading.Event()
_thread: threading.Thread | None = None
_pid = 0
_lost = 0


def record(asked: Asked) -> None:
    """Have a question and its answer written down soon; the same one within a moment is counted."""
    global _lost
    key = (asked.relay, asked.node_key, asked.ip, asked.reason)
    with _lock:
        known = _waiting.get(key)
        if known is not None:
            _waiting[key] = replace(asked, count=known.count + asked.count)
        elif len(_waiting) < _MOST_WAITING:
            _waiting[key] = asked
        else:
            _lost += 1


def flush() -> int:
    """Write down what waits; returns how many rows. A database that is away is logged, and what waits goes on waiting.

    What cannot be written for another reason is logged and given up.
    """
    global _lost
    written = 0
    try:
        # No more than waits now: under load there is always something new, and small batches cost as much as large ones.
        for _turn in range(-(-len(_waiting) // _WRITE_AT_ONCE)):
            for part in _write(_take(_waiting, _WRITE_AT_ONCE)):
                written += len(part)
                with _lock:
                    for asked in part:
                        if asked.is_allowed and (
                            len(_seen) < _MOST_WAITING or (asked.rental, asked.node_key) in _seen
                        ):
                            _seen[asked.rental, asked.node_key] = asked
        if seen := _take(_seen, _SEEN_AT_ONCE):
            try:
                record_seen(seen)
            except (OperationalError, InterfaceError):
                with _lock:
                    for asked in seen:
                        _seen.setdefault((asked.rental, asked.node_key), asked)
                raise
    except (OperationalError, InterfaceError) as error:
        log.warning("admissions cannot be written now: %s", type(error).__name__)
        connection.close()
    with _lock:
        lost, _lost = _lost, 0
    if lost:
        log.warning("%d admissions were answered but not written down", lost)
    return written


def _write(batch: list[Asked]) -> Iterator[list[Asked]]:
    """Write a batch, and the halves of what fails, so that one odd row takes no other with it; the parts that are written.

    Raises the errors of a database that is away, and what is not written then waits again.
    """
    global _lost
    parts = [batch]
    while parts:
        part = parts.pop()
        try:
            record_admissions(part)
        except (OperationalError, InterfaceError):
            for asked in (*part, *chain.from_iterable(parts)):
                record(asked)
            raise
        except Exception:
            if part is batch:
                log.exception("admissions cannot be written all at once")
            if len(part) > 1:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
            else:
                with _lock:
                    _lost += 1
        else:
            yield part


def _take(waiting: dict[Any, Asked], most: int) -> list[Asked]:
    with _lock:
        return [waiting.pop(key) for key in list(islice(waiting, most))]


def start() -> None:
    """Write from now on by itself, in this process; call it after a fork."""
    global _thread, _pid
    if _thread is not None and _pid == os.getpid():
        return
    _pid = os.getpid()
    _ended.clear()
    _thread = threading.Thread(target=_run, name="admission log", daemon=True)
    _thread.start()


def stop() -> None:
    """Write what waits a last time, and end."""
    if _thread is not None and _pid == os.getpid():
        _ended.set()
        _thread.join(timeout=5)


def _run() -> None:
    while not _ended.wait(_PAUSE_SECONDS):
        _try_flush()
    _try_flush()
    connection.close()


def _try_flush() -> None:
    try:
        flush()
    except Exception:
        log.exception("the log of admissions")
