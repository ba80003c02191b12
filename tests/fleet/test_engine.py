"""The Docker client over SSH, against small servers that answer as Docker Engines of several ages do."""

import json
import socket
import socketserver
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from fleet.engine import engine_errors, open_engine
from fleet.engine_errors import EngineError, explain, port_in
from fleet.ssh import Connection, ForwardingRefused, TimedOut
from tests.fleet.ssh_host import SshHost, ssh_host

VERSION = {"ApiVersion": "1.41", "MinAPIVersion": "1.12"}


@contextmanager
def http_on(path: Path, answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[None]:
    """An HTTP server on a unix socket that answers every request so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def address_string(self) -> str:
            return "ssh"

        def log_message(self, *args: object) -> None:
            pass

        def handle_one_request(self) -> None:
            self.do_GET = self.do_POST = lambda: answer(self)
            super().handle_one_request()

    class Server(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            pass

    with Server(str(path), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield
        server.shutdown()
        thread.join()


def say(body: object, status: int = 200) -> Callable[[BaseHTTPRequestHandler], None]:
    """An answer with that body, as JSON unless it is text."""
    data = (body if isinstance(body, str) else json.dumps(body)).encode()

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return answer


@pytest.fixture
def host() -> Iterator[SshHost]:
    with ssh_host() as running:
        yield running


@pytest.fixture
def connection(host: SshHost) -> Iterator[Connection]:
    opened = Connection.open(host.endpoint(), 5)
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("newest", "oldest", "chosen"),
    [("1.41", "1.12", "1.41"), ("1.43", "1.12", "1.43"), ("1.52", "1.44", "1.45"), ("1.60", "1.50", "1.50")],
)
def test_version_is_one_both_speak_when_engines_differ_in_age(
    connection: Connection, tmp_path: Path, newest: str, oldest: str, chosen: str
) -> None:
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        say({"ApiVersion": newest, "MinAPIVersion": oldest, "Id": "x"})(handler)

    with http_on(tmp_path / "docker.sock", answer):
        engine = open_engine(connection, str(tmp_path / "docker.sock"), 5)
        engine.info()
        engine.close()
    assert asked == ["/version", f"/v{chosen}/info"]


def test_engine_is_refused_when_too_old(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    with http_on(path, say({"ApiVersion": "1.40"})), pytest.raises(EngineError) as caught:
        open_engine(connection, str(path), 5)
    assert caught.value.code == "too_old"


@pytest.mark.parametrize(
    "components",
    [
        [{"Name": "Podman Engine", "Version": "5.4.2"}, {"Name": "Conmon"}, {"Name": "OCI Runtime (crun)"}],
        [{"Name": "Conmon"}, {"Name": "Podman Engine"}],
    ],
)
def test_podman_is_refused_by_its_name(
    connection: Connection, tmp_path: Path, components: list[dict[str, str]]
) -> None:
    path = tmp_path / "docker.sock"
    about = {"ApiVersion": "1.41", "MinAPIVersion": "1.24", "Components": components, "Arch": "amd64"}
    with http_on(path, say(about)), pytest.raises(EngineError) as caught:
        open_engine(connection, str(path), 5)
    assert caught.value.code == "podman"
    assert "podman" in str(caught.value)


def test_architecture_is_known_once_the_engine_answered(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"
    engines = {"arm64": {"Arch": "arm64", "Components": [{"Name": "Engine"}]}, "": {"Components": None}}
    for architecture, about in engines.items():
        with http_on(path, say({"ApiVersion": "1.41", **about})):
            engine = open_engine(connection, str(path), 5)
            assert engine.architecture == architecture
            engine.close()
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("words", "port"),
    [
        ("Bind for 10.0.0.4:20000 failed: port is already allocated", 20000),
        ("listen tcp4 203.0.113.1:20999: bind: address already in use", 20999),
        ("Error starting userland proxy: listen udp4 0.0.0.0:20001: bind: address already in use", 20001),
        ("failed to bind host port for 10.0.0.4:20003:172.30.0.2:443/tcp: address already in use", 20003),
        ("failed to bind host port 10.0.0.4:20002/tcp: address already in use", 20002),
        ("port is already allocated", 0),
    ],
)
def test_port_is_found_in_the_words_about_one_that_is_taken(words: str, port: int) -> None:
    assert port_in(words) == port


@pytest.mark.parametrize("body", ["<html>", "[]", "{}", '{"ApiVersion": null}', '{"ApiVersion": "new"}'])
def test_answer_is_garbage_when_no_engine_listens_there(
    connection: Connection, tmp_path: Path, body: str
) -> None:
    path = tmp_path / "docker.sock"
    with http_on(path, say(body)), pytest.raises(EngineError) as caught:
        open_engine(connection, str(path), 5)
    assert caught.value.code == "garbage"


def test_request_times_out_and_connection_is_dropped_when_engine_hangs(
    connection: Connection, tmp_path: Path
) -> None:
    release = threading.Event()

    def wait(handler: BaseHTTPRequestHandler) -> None:
        release.wait(10)

    with http_on(tmp_path / "docker.sock", wait):
        with pytest.raises(TimedOut):
            open_engine(connection, str(tmp_path / "docker.sock"), 0.3)
        release.set()
    assert not connection.is_alive


def test_next_request_works_when_engine_was_restarted(connection: Connection, tmp_path: Path) -> None:
    path = tmp_path / "docker.sock"

    def answer_and_end(handler: BaseHTTPRequestHandler) -> None:
        say(VERSION)(handler)
        handler.close_connection = True

    with http_on(path, answer_and_end):
        engine = open_engine(connection, str(path), 5)
    path.unlink()
    with pytest.raises(EngineError) as caught, engine_errors():
        engine.version()
    # The second when the end of the old connection is only noticed by the request itself.
    assert caught.value.code in {"no_docker", "daemon_down"}
    with http_on(path, say({"Version": "new"})):
        assert engine.version() == {"Version": "new"}


def test_reason_is_no_docker_when_socket_is_absent(connection: Connection, tmp_path: Path) -> None:
    with pytest.raises(EngineError) as caught:
        open_engine(connection, str(tmp_path / "absent.sock"), 5)
    assert caught.value.code == "no_docker"


def test_reason_is_daemon_down_when_nobody_listens_on_the_socket(
    connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with pytest.raises(EngineError) as caught:
        open_engine(connection, str(path), 5)
    assert caught.value.code == "daemon_down"


def test_docker_command_is_used_when_forwarding_is_forbidden(
    host: SshHost, connection: Connection, tmp_path: Path
) -> None:
    path = tmp_path / "docker.sock"
    command = tmp_path / "bin" / "docker"
    command.parent.mkdir()
    command.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, socket, sys, threading
        assert sys.argv[1:] == ["-H", "unix://{path}", "system", "dial-stdio"]
        sock = socket.socket(socket.AF_UNIX)
        sock.connect("{path}")
        def forward():
            while data := os.read(0, 65536):
                sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        threading.Thread(target=forward, daemon=True).start()
        while data := sock.recv(65536):
            os.write(1, data)
        """)
    )
    command.chmod(0o755)
    host.forwarding = False
    host.path = f"{command.parent}:{host.path}"
    with http_on(path, say(VERSION)):
        engine = open_engine(connection, str(path), 5)
        assert engine.version() == VERSION
        engine.close()


def test_forwarding_is_refused_when_there_is_no_docker_command_either(
    host: SshHost, connection: Connection, tmp_path: Path
) -> None:
    host.forwarding = False
    host.path = "/nowhere"
    path = tmp_path / "docker.sock"
    with http_on(path, say(VERSION)), pytest.raises(ForwardingRefused):
        open_engine(connection, str(path), 5)


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        (
            500,
            (
                "driver failed programming external connectivity on endpoint a (5f): Bind for 192.0.2.1:4001 failed: port is "
                "already allocated"
            ),
            "port_taken",
        ),
        (
            500,
            (
                "driver failed programming external connectivity on endpoint a (5f): Error starting userland proxy: listen tcp4 "
                "192.0.2.1:4001: bind: address already in use"
            ),
            "port_taken",
        ),
        (
            500,
            (
                "failed to set up container networking: driver failed programming external connectivity on endpoint a (5f): "
                "failed to bind host port 192.0.2.1:4001/tcp: address already in use"
            ),
            "port_taken",
        ),
        (
            500,
            "Error starting userland proxy: listen udp4 192.0.2.9:1: bind: cannot assign requested address",
            "address_missing",
        ),
        (404, "No such image: derpmgmt/derper:0123456789ab", "image_missing"),
        (404, "No such container: derp-1", "not_found"),
        (404, "network derpmgmt not found", "not_found"),
        (404, "get derp-1: no such volume", "not_found"),
        (
            409,
            (
                'Conflict. The container name "/derp-1" is already in use by container "5f". You have to remove (or rename) '
                "that container to be able to reuse that name."
            ),
            "conflict",
        ),
        (409, "network with name derpmgmt already exists", "conflict"),
        (409, "removal of container 5f is already in progress", "busy"),
        (500, "write /var/lib/docker/tmp/GetImageBlob1: no space left on device", "disk_full"),
        (
            400,
            'OCI runtime create failed: runc: exec: "/derper": no such file or directory: unknown',
            "runtime",
        ),
        (400, "invalid reference format", "engine_refused"),
    ],
)
def test_daemons_words_are_understood_when_a_request_fails(
    connection: Connection, tmp_path: Path, status: int, words: str, code: str
) -> None:
    path = tmp_path / "docker.sock"

    def answer(handler: BaseHTTPRequestHandler) -> None:
        (say(VERSION) if handler.path == "/version" else say({"message": words}, status))(handler)

    with http_on(path, answer):
        engine = open_engine(connection, str(path), 5)
        with pytest.raises(EngineError) as caught, engine_errors():
            engine.start("derp-1")
        engine.close()
    assert caught.value.code == code
    assert caught.value.detail == words
    assert str(caught.value)


def test_detail_is_bounded_and_printable_when_words_are_wild() -> None:
    error = explain("a\x1b[31m\n" + "b" * 5000)
    assert error.detail.startswith("a [31m b")
    assert len(error.detail) == 500


@pytest.mark.parametrize("forbidden", [FileNotFoundError, KeyError, AssertionError])
def test_our_own_errors_pass_unchanged_when_they_are_no_hosts(forbidden: type[Exception]) -> None:
    with pytest.raises(forbidden), engine_errors():
        raise forbidden("ours")
