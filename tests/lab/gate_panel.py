"""What gates are tested against: a stand-in for the panel on the lab's own address, and a voice inside a host's network."""

import ctypes
import http.client
import http.server
import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000


@dataclass
class Asked:
    """One question that reached the panel."""

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Panel:
    """Answers as told: a status and a body, or nothing at all while `is_hung`. Keeps what it was asked."""

    url: str
    status: int = 200
    body: bytes = b'{"Allow":true}'
    is_hung: bool = False
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def running_panel(address: str, tls: ssl.SSLContext | None = None, port: int = 0) -> Iterator[Panel]:
    """A panel that listens until the end of the block; then its port refuses."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            panel.asked.append(Asked(self.path, dict(self.headers), body))
            while panel.is_hung:
                time.sleep(0.05)
            self.send_response(panel.status)
            self.send_header("Content-Length", str(len(panel.body)))
            self.end_headers()
            self.wfile.write(panel.body)

        def log_message(self, *args: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: Any) -> None:
            """Clients that went away are part of the tests."""

    with Server((address, port), Handler) as server:
        if tls:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        scheme = "https" if tls else "http"
        panel = Panel(f"{scheme}://{address}:{server.server_address[1]}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield panel
        finally:
            panel.is_hung = False
            server.shutdown()


def inside(netns: str, work: Callable[[], Any]) -> Any:
    """Do `work` in a thread whose new sockets belong to that network namespace."""

    def enter() -> Any:
        handle = os.open(f"/run/netns/{netns}", os.O_RDONLY)
        try:
            if ctypes.CDLL(None, use_errno=True).setns(handle, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(handle)
        return work()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(enter).result()


def connect(netns: str, address: str, port: int) -> socket.socket:
    """A connection from inside a host."""
    return inside(netns, lambda: socket.create_connection((address, port), timeout=10))


@dataclass
class Answer:
    """What the gate said and after how many seconds."""

    status: int
    body: bytes
    seconds: float

    @property
    def is_yes(self) -> bool:
        """As derper reads it."""
        return self.status == 200 and json.loads(self.body)["Allow"] is True


def ask(netns: str, address: str, port: int, path: str, body: bytes, method: str = "POST") -> Answer:
    """One question to a gate, as derper puts it."""
    started = time.monotonic()
    client = http.client.HTTPConnection(address, port, timeout=10)
    client.sock = connect(netns, address, port)
    headers = {"User-Agent": "Go-http-client/1.1", "Content-Type": "application/json"}
    client.request(method, path, body, headers)
    response = client.getresponse()
    answer = Answer(response.status, response.read(), time.monotonic() - started)
    client.close()
    return answer


def question(key: str, source: str = "198.51.100.7") -> bytes:
    """derper's own words."""
    return json.dumps({"NodePublic": f"nodekey:{key}", "Source": source}, separators=(",", ":")).encode()


def make_tls(folder: Path, name: str) -> tuple[ssl.SSLContext, str]:
    """A server's context with a self-signed certificate for that common name, made as docs/running.md says; and its PEM."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *("-days", "3650", "-subj", f"/CN={name}", "-addext", f"subjectAltName=IP:{name}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context, certificate.read_text()
