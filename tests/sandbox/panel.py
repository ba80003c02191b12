"""A panel as gates see it, on loopback: it answers, with or without TLS, or fails in one of its ways."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ALLOW, REFUSE = b'{"Allow":true}', b'{"Allow":false}'


@dataclass
class Panel:
    """``hangs``: "" = never, "headers" = before them, "body" = after them. ``questions``: path, Authorization, body."""

    status: int = 200
    body: bytes = ALLOW
    hangs: str = ""
    questions: list[tuple[str, str, bytes]] = field(default_factory=list)
    port: int = 0

    @contextlib.contextmanager
    def running(self, pair: Path | None = None) -> Iterator[Panel]:
        """``pair``: a file with certificate and key. On the port that it had before, if any."""
        panel, released = self, threading.Event()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                question = self.rfile.read(int(self.headers["Content-Length"]))
                panel.questions.append((self.path, self.headers.get("Authorization", ""), question))
                if panel.hangs == "headers":
                    released.wait(60)
                    return
                self.send_response(panel.status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(panel.body)))
                self.end_headers()
                if panel.hangs == "body":
                    released.wait(60)
                    return
                self.wfile.write(panel.body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        server.daemon_threads, server.block_on_close = True, False
        if pair:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pair)
            # Not in the thread that accepts: clients that do not like the certificate end the handshake.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.port = server.server_port
        try:
            yield self
        finally:
            released.set()
            server.shutdown()
            server.server_close()
            thread.join(10)
