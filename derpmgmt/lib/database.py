"""Connections to the database that were used a moment ago are good: they are not asked whether they live.

Django asks MariaDB before the first query of each request (`CONN_HEALTH_CHECKS`), which costs as much as a query by an index.
"""

import time
from typing import Any

from django.core.signals import request_finished, request_started
from django.db import connections

_GOOD_SECONDS = 1.0


def _note(**_signal: Any) -> None:
    connection: Any
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None:
            connection.used_at = time.monotonic()


def _trust(**_signal: Any) -> None:
    connection: Any
    for connection in connections.all(initialized_only=True):
        used_at = getattr(connection, "used_at", float("-inf"))
        if connection.health_check_enabled and 0 <= time.monotonic() - used_at < _GOOD_SECONDS:
            connection.health_check_done = True


def trust_used_connections() -> None:
    """From now on in this process. After Django's own receivers, which forget at each request what was found."""
    request_finished.connect(_note)
    request_started.connect(_trust)
