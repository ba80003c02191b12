"""The web server: waitress around the panel's pages; `panel.py` keeps as many of its processes as there are processors.

A request is read whole, header and body, before it gets a thread, so clients that are slow take no turn from others. waitress
itself only closes connections on which nothing moves; here each part of a request also has its time, and the place of whoever
waits longest goes to the next one when there are too many.
"""

import gc
import logging
import os
import resource
import signal
import socket
import time
from importlib import import_module
from typing import Any

from waitress import wasyncore
from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import TcpWSGIServer

PROCESSES = max(2, min(os.cpu_count() or 1, 8))
THREADS = 8

# What a connection has, in seconds: for its header from its first byte (or its beginning) on, for the whole request, between two
# requests, and for an answer of which nothing is taken.
HEADER_SECONDS = 10.0
REQUEST_SECONDS = 60.0
IDLE_SECONDS = 15.0
ANSWER_SECONDS = 60.0
# So long a page waits for a SQLite that somebody else writes to; a thread that waits is one less for pages that only read.
BUSY_SECONDS = 5
# Objects after which the youngest are looked through for garbage; Python's own 700 are a few for each page.
GARBAGE = 20_000
# Requests under way have so long when the server ends.
ENDING_SECONDS = 5.0
# Open connections of one process; beyond it whoever waits longest gives way.
CONNECTIONS = 500
# Django's own limit for a form, and some more for what stands around it.
MOST_BODY_BYTES = 4_000_000
MOST_HEADER_BYTES = 32_768


class Channel(HTTPChannel):
    """One connection, which knows since when (`time.monotonic`) it waits for what comes next from its client."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.waits_since = time.monotonic()
        self.has_asked = False
        super().__init__(*args, **options)

    def received(self, data: bytes) -> bool:
        if self.request is None:
            self.waits_since = time.monotonic()
        self.has_asked = True
        return bool(super().received(data))

    def service(self) -> None:
        super().service()
        self.waits_since = time.monotonic()

    @property
    def is_waiting(self) -> bool:
        """Whether it is the client's turn to send, and no request of theirs is under way."""
        return not self.requests and not self.total_outbufs_len

    def is_late(self) -> bool:
        """Whether the client has had the time for what they are at."""
        if self.total_outbufs_len:
            return bool(self.last_activity < time.time() - ANSWER_SECONDS)
        if self.requests:
            return False
        if self.request is None and self.has_asked:
            limit = IDLE_SECONDS
        elif self.request is None or not self.request.headers_finished:
            limit = HEADER_SECONDS
        else:
            limit = REQUEST_SECONDS
        return self.waits_since < time.monotonic() - limit


class Server(TcpWSGIServer):
    """waitress on a socket that listens already, with limits of time for each connection and a fixed number of them."""

    channel_class = Channel

    def __init__(self, application: Any, listener: socket.socket) -> None:
        most_files, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.most = min(CONNECTIONS, most_files // 2) if most_files > 0 else CONNECTIONS
        options = Adjustments(
            threads=THREADS,
            # Stops accepting, so only above what this class lets be.
            connection_limit=self.most + 50,
            cleanup_interval=1,
            asyncore_use_poll=True,
            log_socket_errors=False,
            max_request_header_size=MOST_HEADER_BYTES,
            max_request_body_size=MOST_BODY_BYTES,
            inbuf_overflow=65_536,
            # Django looks at them, when proxies are trusted.
            clear_untrusted_proxy_headers=False,
            ident=None,
        )
        where = (listener.family, listener.type, listener.proto, listener.getsockname())
        super().__init__(application, adj=options, _sock=listener, sockinfo=where, bind_socket=False)
        self._is_ending = False

    def maintenance(self, now: float) -> None:
        """Close the connections whose client is late; called every second."""
        for channel in self.active_channels.values():
            if channel.is_late():
                channel.will_close = True

    def handle_accept(self) -> None:
        """Take a connection, and let go the one that waits longest when there are too many."""
        super().handle_accept()
        if len(self.active_channels) > self.most:
            waiting = [
                channel
                for channel in self.active_channels.values()
                if channel.is_waiting and not channel.will_close
            ]
            if waiting:
                min(waiting, key=lambda channel: channel.waits_since).will_close = True

    def serve(self) -> None:
        """Answer until SIGTERM; then requests under way have `ENDING_SECONDS` to be answered."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        while not self._is_ending:
            self._turn(1.0)
        self.del_channel()  # other processes listen on the same socket
        deadline = time.monotonic() + ENDING_SECONDS
        while time.monotonic() < deadline:
            if all(channel.is_waiting for channel in self.active_channels.values()):
                break
            self._turn(0.1)
        self.task_dispatcher.shutdown(timeout=1)

    def _turn(self, seconds: float) -> None:
        wasyncore.loop(timeout=seconds, use_poll=True, map=self._map, count=1)

    def _end(self, number: int, frame: object) -> None:
        self._is_ending = True
        self.pull_trigger()


# What commands import only where they need it.
LATE = (
    "containers.certificates",
    "cryptography.x509",
    "derpmgmt.flow",
    "derpmgmt.lib.bells",
    "derpmgmt.lib.cache",
    "fleet.ssh.pool",
    "fleet.ssh.private_keys",
)


def preload() -> None:
    """Import all that pages and the API need, without the application itself, which reads what static files there are.

    To be called before anything is forked: of what a process changes after a fork the other has a copy of its own.
    """
    from django.conf import settings
    from django.urls import get_resolver, reverse
    from django.utils import translation
    from django.utils.module_loading import import_string

    from derpmgmt.lib import problems

    for name in settings.MIDDLEWARE:
        import_string(name)
    for name in LATE:
        import_module(name)
    problems.declare_all()
    get_resolver().url_patterns  # noqa: B018 — loads every view
    for language, _name in settings.LANGUAGES:
        with translation.override(language):
            reverse("home")  # which makes what all addresses are found by, once for each language


class Web:
    """The application, loaded once and served by each of the processes that are forked afterwards."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._application = self.load()
        gc.collect()
        gc.freeze()  # or every process' first collection would copy the memory they share

    def load(self) -> Any:
        """The WSGI application with all its views, so that no process loads them by itself."""
        from django.urls import get_resolver

        from derpmgmt.wsgi import application

        get_resolver().url_patterns  # noqa: B018 — loads every view
        return application

    def run(self) -> None:
        """Serve in this process until SIGTERM."""
        logging.getLogger("waitress").addFilter(_drop_path)
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it tells of each request that waits
        self.begin()
        try:
            Server(self._application, self._listener).serve()
        finally:
            self.end()

    def begin(self) -> None:
        """In each process, before it answers."""
        from django.db import connection

        from acl.devices import admission_writer
        from derpmgmt.lib.database import trust_used_connections

        trust_used_connections()
        # A page makes some thousands of objects that are gone with it.
        gc.set_threshold(GARBAGE)
        if connection.vendor == "sqlite":
            connection.settings_dict["OPTIONS"]["timeout"] = (
                BUSY_SECONDS  # every thread's connection has the same
            )
        admission_writer.start()

    def end(self) -> None:
        """In each process, before it ends."""
        from acl.devices import admission_writer

        admission_writer.stop()


def _drop_path(record: logging.LogRecord) -> bool:
    # The path of a live URL is a secret.
    record.msg = str(record.msg).partition(" while serving ")[0]
    return True
