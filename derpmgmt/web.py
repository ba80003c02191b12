"""The web server: gunicorn around the panel's pages."""

import os
import socket
from typing import Any

from gunicorn.app.base import BaseApplication

THREADS = 8


class Web(BaseApplication):
    """gunicorn on a socket that listens already, with the application that this process has loaded."""

    def __init__(self, listener: socket.socket) -> None:
        self._descriptor = listener.detach()
        super().__init__()

    def load_config(self) -> None:
        options = {
            "bind": [f"fd://{self._descriptor}"],
            "worker_class": "gthread",
            "workers": max(2, min(os.cpu_count() or 1, 8)),
            "threads": THREADS,
            "preload_app": True,
            "graceful_timeout": 5,
            "timeout": 60,
            "keepalive": 15,
            "loglevel": "warning",
            "control_socket_disable": True,
            "post_worker_init": self.began,
            "worker_exit": self.ended,
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from django.urls import get_resolver

        from derpmgmt.wsgi import application

        get_resolver().url_patterns  # noqa: B018 — loads every view once, before the web workers fork
        return application

    def began(self, worker: Any) -> None:
        """In every worker, after the fork."""
        from acl import admission_log

        admission_log.start()

    def ended(self, server: Any, worker: Any) -> None:
        """In every worker, before it ends."""
        from acl import admission_log

        admission_log.stop()
