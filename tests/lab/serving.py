"""Web servers for benches: each in as many processes as a panel has, forked from one that has loaded it."""

import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def in_a_process(work: Callable[[], Any]) -> Any:
    """Run it apart, so that no connection of Django's is shared with the servers that are forked later."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work)


def setup() -> None:
    """Load the panel's own settings and apps."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "derpmgmt.settings"
    import django

    django.setup()


def serve(web: Any) -> None:
    """Serve in as many processes as the panel has."""
    from derpmgmt.web import PROCESSES

    others = [multiprocessing.get_context("fork").Process(target=web.run) for _ in range(PROCESSES - 1)]
    for other in others:
        other.start()
    web.run()
    for other in others:
        other.terminate()
        other.join(20)


@contextmanager
def server(start: Callable[..., None], is_ready: Callable[[int], bool], *given: Any) -> Iterator[int]:
    """The port of a web server in processes of its own, ready to answer; `start` gets its listening socket and what is `given`."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        arguments = (start, listener, *given)
        process = multiprocessing.get_context("spawn").Process(target=_begin, args=arguments)
        process.start()
        port = listener.getsockname()[1]
    try:
        for _ in range(300):
            try:
                if is_ready(port):
                    break
            except OSError:
                pass
            time.sleep(0.1)
        else:
            sys.exit("a web server did not start")
        yield port
    finally:
        assert process.pid
        os.kill(process.pid, signal.SIGTERM)
        process.join(20)


def _begin(start: Callable[..., None], listener: socket.socket, *given: Any) -> None:
    sys.argv = ["bench"]
    start(listener, *given)
