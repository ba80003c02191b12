"""Kept connections."""

import threading
import time

from fleet.ssh.connection import Connection, Endpoint


class ConnectionPool:
    """Keeps one connection per host, port and user. Thread-safe.

    `starts` limits how many connections are being made at a time (a key exchange costs CPU on both sides), `timeout` is
    each one's time limit in seconds.
    """

    IDLE_SECONDS = 15.0
    """A connection unused for longer is asked for a sign of life before it is handed out."""

    def __init__(self, *, starts: int = 8, timeout: float = 10.0) -> None:
        self._timeout = timeout
        self._starts = threading.BoundedSemaphore(starts)
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, int, str], threading.Lock] = {}
        self._kept: dict[tuple[str, int, str], Connection] = {}

    def get(self, endpoint: Endpoint, timeout: float | None = None) -> Connection:
        """The kept connection, or a new one, made within `timeout` (the pool's own). Raises what `Connection.open` raises."""
        place = (endpoint.host, endpoint.port, endpoint.user)
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:  # one start per host, however many threads ask
            kept = self._kept.get(place)
            if kept is not None:
                fresh = time.monotonic() - kept.used_at < self.IDLE_SECONDS
                if kept.endpoint == endpoint and kept.is_alive and (fresh or kept.ping()):
                    return kept
                kept.close()
                self._kept.pop(place, None)
            with self._starts:
                connection = Connection.open(endpoint, timeout or self._timeout)
            self._kept[place] = connection
            return connection

    def drop(self, endpoint: Endpoint) -> None:
        """Closes the kept connection, if any."""
        with self._lock:
            kept = self._kept.pop((endpoint.host, endpoint.port, endpoint.user), None)
        if kept is not None:
            kept.close()

    def close(self) -> None:
        """Closes everything kept."""
        with self._lock:
            kept = list(self._kept.values())
            self._kept.clear()
        for connection in kept:
            connection.close()
