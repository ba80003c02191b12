"""The web server beside clients that are slow, silent, or too many: real sockets, a process of its own."""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import pytest

from derpmgmt import web

SLOW = 50
PATIENCE = 60.0


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Says what it was asked; `/slow` takes a while, `/broken` fails."""
    if environ["PATH_INFO"].startswith("/broken"):
        raise RuntimeError("a mistake")
    if environ["PATH_INFO"] == "/slow":
        time.sleep(2.5)
    body = environ["wsgi.input"].read()
    said = f"{environ.get('HTTP_X_FORWARDED_FOR', '-')} {len(body)} {environ['PATH_INFO']}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(said)))])
    return [said]


class Served:
    """A server in a process of its own."""

    def __init__(self, port: int, pid: int, log: Any) -> None:
        self.port, self.pid, self.log = port, pid, log

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def get(self, path: str = "/", headers: str = "") -> bytes:
        """The whole answer to a request on a connection of its own."""
        with self.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n".encode())
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    answer = b""
    with suppress(ConnectionResetError):
        while data := client.recv(65536):
            answer += data
    return answer


def is_closed(client: socket.socket) -> bool:
    """Whether the server has closed the connection."""
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    finally:
        client.settimeout(PATIENCE)


@contextmanager
def serving(tmp_path: Any, **limits: float) -> Iterator[Served]:
    """The server with other limits than usual."""
    log = tmp_path / "web.log"
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        pid = os.fork()
        if pid == 0:
            try:
                logging.basicConfig(filename=log, level=logging.DEBUG, force=True)
                for name, value in limits.items():
                    setattr(web, name, value)
                started = web.Web.__new__(web.Web)
                started._listener, started._application = listener, application
                started.begin = started.end = lambda: None  # type: ignore[method-assign]
                started.run()
            finally:
                os._exit(0)
        port = listener.getsockname()[1]
    try:
        yield Served(port, pid, log)
    finally:
        with suppress(ChildProcessError, ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


HEADER = b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "
BODY = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"


@contextmanager
def dripping(clients: list[socket.socket]) -> Iterator[None]:
    """Each of them sends one byte more, again and again."""
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.2):
            for client in clients:
                with suppress(OSError):
                    client.sendall(b"a")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_pages_answer_when_many_clients_send_slowly(tmp_path: Any) -> None:
    with serving(tmp_path) as served, ExitStack() as stack:
        slow = [stack.enter_context(served.connect()) for _ in range(3 * SLOW)]
        for client in slow[:SLOW]:
            client.sendall(HEADER)
        for client in slow[SLOW : 2 * SLOW]:
            client.sendall(BODY)
        with dripping(slow[: 2 * SLOW]):
            for _ in range(20):
                assert served.get().endswith(b" 0 /")
            # They were there all the time.
            assert not any(is_closed(client) for client in slow)


@pytest.mark.parametrize("beginning", [HEADER, BODY, b""], ids=["header", "body", "nothing"])
def test_a_slow_client_is_closed_when_its_time_is_over_whatever_it_drips(
    tmp_path: Any, beginning: bytes
) -> None:
    with serving(tmp_path, HEADER_SECONDS=1.0, REQUEST_SECONDS=1.0) as served, served.connect() as client:
        client.sendall(beginning)
        with dripping([client] if beginning else []):
            assert read_all(client) == b""


def test_a_connection_without_another_request_is_closed(tmp_path: Any) -> None:
    with serving(tmp_path, IDLE_SECONDS=1.0) as served, served.connect() as client:
        for _ in range(2):
            client.sendall(b"GET /kept HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = b""
            while not answer.endswith(b"/kept"):
                answer += client.recv(65536)
        assert read_all(client) == b""


def test_an_answer_that_takes_longer_than_a_request_may_is_given(tmp_path: Any) -> None:
    limits = dict.fromkeys(("HEADER_SECONDS", "REQUEST_SECONDS", "IDLE_SECONDS"), 0.5)
    with serving(tmp_path, **limits) as served:
        assert served.get("/slow").endswith(b"/slow")


def test_who_waits_longest_gives_way_when_there_are_too_many(tmp_path: Any) -> None:
    with serving(tmp_path, CONNECTIONS=20) as served, ExitStack() as stack:
        first = stack.enter_context(served.connect())
        first.sendall(HEADER)
        others = [stack.enter_context(served.connect()) for _ in range(60)]
        for client in others:
            client.sendall(BODY)
        assert read_all(first) == b""
        for _ in range(5):
            assert served.get().endswith(b" 0 /")
        assert sum(not is_closed(client) for client in others) <= 20


def test_a_request_under_way_is_answered_when_the_server_ends(tmp_path: Any) -> None:
    with serving(tmp_path) as served, served.connect() as client, served.connect() as idle:
        idle.sendall(HEADER)
        client.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(0.5)
        os.kill(served.pid, signal.SIGTERM)
        assert b"/slow" in read_all(client)
        os.waitpid(served.pid, 0)


def test_a_body_arrives_whole_and_one_that_is_too_large_is_refused(tmp_path: Any) -> None:
    with serving(tmp_path) as served:
        for size, status in ((1_500_000, b"200"), (5_000_000, b"413")):
            with served.connect() as client:
                client.sendall(
                    f"POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode()
                )
                with suppress(OSError):
                    client.sendall(b"x" * size)
                answer = read_all(client)
                assert answer.split()[1:2] == [status] or (status == b"413" and not answer)
                if status == b"200":
                    assert f" {size} ".encode() in answer


def test_what_proxies_say_reaches_the_panel_and_the_server_names_itself_to_nobody(tmp_path: Any) -> None:
    with serving(tmp_path) as served:
        answer = served.get(headers="X-Forwarded-For: 198.51.100.7\r\n")
        assert b"198.51.100.7 0 /" in answer
        assert b"waitress" not in answer.lower()


def test_no_path_stands_in_the_log_whether_an_answer_comes_or_fails(tmp_path: Any) -> None:
    with serving(tmp_path) as served:
        assert b"200" in served.get("/live/secret.json")
        with served.connect() as client:
            client.sendall(b"GET /live/secret.json HTTP/1.1\r\nContent-Length: none\r\n\r\n")
            assert b"400" in read_all(client)
        assert b"500" in served.get("/broken/live/secret.json")
        log = served.log.read_text()
        assert "a mistake" in log
        assert "secret" not in log
