"""A mail server on loopback that takes or refuses messages as a test wants."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class SmtpServer(socketserver.ThreadingTCPServer):
    """`answers` replaces what is said to a verb ("RCPT": "550 no such user"); "" hangs up instead."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Talk)
        self.answers: dict[str, str] = {}
        self.taken: list[bytes] = []

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Talk(socketserver.StreamRequestHandler):
    server: SmtpServer

    def _say(self, verb: str, usual: str) -> bool:
        answer = self.server.answers.get(verb, usual)
        if answer:
            self.wfile.write(f"{answer}\r\n".encode())
        return bool(answer)

    def handle(self) -> None:
        usual: dict[str, str] = {"DATA": "354 go on", "QUIT": "221 bye"}
        if not self._say("CONNECT", "220 here"):
            return
        while line := self.rfile.readline():
            verb = line[:4].decode().strip().upper()
            if not self._say(verb, usual.get(verb, "250 ok")) or verb == "QUIT":
                return
            if verb == "DATA" and "DATA" not in self.server.answers:
                body = b""
                while not body.endswith(b"\r\n.\r\n"):
                    body += self.rfile.readline()
                self.server.taken.append(body)
                if not self._say("END", "250 taken"):
                    return


@contextmanager
def smtp_server(settings: Any) -> Iterator[SmtpServer]:
    """The panel's mail server for a while."""
    with SmtpServer() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT, settings.EMAIL_TIMEOUT = "127.0.0.1", server.port, 5
        yield server
        server.shutdown()
