"""Relays, admission servers and misbehaving hosts that the tests of this folder run against, all on loopback."""

import asyncio
import contextlib
import hashlib
import http.client
import ipaddress
import json
import secrets
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from containers.derp import keys
from containers.derp.client import DerpClient
from containers.derp.probe import ProbeTarget
from derpmgmt.sandbox.relay import SandboxRelay

# Generous for a loaded machine; nothing that works comes near it.
PATIENCE = 10.0


@dataclass(frozen=True)
class Certificate:
    pem: bytes
    key_pem: bytes
    sha256: str


def make_certificate(address: str, *, age: timedelta = timedelta(hours=1)) -> Certificate:
    """A certificate for an address that became valid `age` ago, for a day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, address)])
    start = datetime.now(UTC) - age
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), False)
        .sign(key, hashes.SHA256())
    )
    return Certificate(
        pem=certificate.public_bytes(serialization.Encoding.PEM),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        sha256=hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest(),
    )


@dataclass
class Relay:
    """A relay that runs, whatever kind it is of."""

    address: str
    derp_port: int
    stun_port: int
    cert_sha256: str
    public_key: str
    mesh_key: str
    stop: Callable[[], None]
    sandbox: SandboxRelay | None = None
    pid: int | None = None

    def connect(self, **changes: Any) -> DerpClient:
        known: dict[str, Any] = {
            "cert_sha256": self.cert_sha256,
            "server_key": self.public_key,
            "timeout": PATIENCE,
        }
        return DerpClient.connect(self.address, self.derp_port, **(known | changes))

    def target(self, **changes: Any) -> ProbeTarget:
        known: dict[str, Any] = {
            "host": self.address,
            "derp_port": self.derp_port,
            "stun_port": self.stun_port,
            "cert_sha256": self.cert_sha256,
            "public_key": self.public_key,
            "mesh_key": self.mesh_key,
        }
        return ProbeTarget(**(known | changes))

    def open_tls(self) -> ssl.SSLSocket:
        return unverified().wrap_socket(socket.create_connection((self.address, self.derp_port), PATIENCE))

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, http.client.HTTPMessage]:
        connection = http.client.HTTPSConnection(
            self.address, self.derp_port, timeout=PATIENCE, context=unverified()
        )
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers or {})
            response = connection.getresponse()
            return response.status, response.read(), response.headers


def unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class LoopThread:
    """An asyncio loop in a thread, for asynchronous relays under blocking tests."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


def start_sandbox(
    loop: LoopThread,
    *,
    verify_url: str = "",
    fail_open: bool = False,
    relay_class: type[SandboxRelay] = SandboxRelay,
    debug_key: str = "",
    ports: tuple[int, int] = (0, 0),
    certificate: Certificate | None = None,
    seen_source: str = "",
) -> Relay:
    address = "127.0.0.1"
    certificate = certificate or make_certificate(address)
    mesh_key = keys.generate_mesh_key()
    relay = relay_class(
        address,
        *ports,
        certificate.pem,
        certificate.key_pem,
        keys.generate_private_key(),
        mesh_key,
        verify_url,
        fail_open=fail_open,
        debug_key=debug_key,
        seen_source=seen_source,
    )
    loop.run(relay.start())
    return Relay(
        address=address,
        derp_port=relay.derp_port,
        stun_port=relay.stun_port,
        cert_sha256=certificate.sha256,
        public_key=relay.public_key,
        mesh_key=mesh_key,
        stop=lambda: loop.run(relay.stop()),
        sandbox=relay,
    )


def start_derper(binary: str, folder: Path, *, verify_url: str = "", fail_open: bool = False) -> Relay:
    # An address of its own keeps the ports apart from those of tests that run beside this one.
    address = f"127.{secrets.randbelow(200) + 10}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 1}"
    derp_port, stun_port = 20000 + secrets.randbelow(10000), 20000 + secrets.randbelow(10000)
    certificate = make_certificate(address)
    private_key, mesh_key = keys.generate_private_key(), keys.generate_mesh_key()
    (folder / f"{address}.crt").write_bytes(certificate.pem)
    (folder / f"{address}.key").write_bytes(certificate.key_pem)
    (folder / "derper.json").write_text(json.dumps({"PrivateKey": keys.format_private_key(private_key)}))
    (folder / "mesh.key").write_text(mesh_key)
    command = [
        binary,
        *("-a", f"{address}:{derp_port}", "-http-port", "-1", "-stun", "-stun-port", str(stun_port)),
        *("-hostname", address, "-certmode", "manual", "-certdir", str(folder), "-home", "blank"),
        *("-c", str(folder / "derper.json"), "-mesh-psk-file", str(folder / "mesh.key")),
        *(("-verify-client-url", verify_url) if verify_url else ()),
        f"-verify-client-url-fail-open={str(fail_open).lower()}",
    ]
    log = folder / "derper.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def stop() -> None:
        process.kill()
        process.wait(PATIENCE)

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((address, derp_port), 1.0).close()
            break
        except OSError as error:
            if process.poll() is not None or time.monotonic() > deadline:
                stop()
                raise RuntimeError(f"derper did not start: {log.read_text()}") from error
            time.sleep(0.02)
    return Relay(
        address=address,
        derp_port=derp_port,
        stun_port=stun_port,
        cert_sha256=certificate.sha256,
        public_key=keys.public_key_of(private_key),
        mesh_key=mesh_key,
        stop=stop,
        pid=process.pid,
    )


@dataclass
class AdmissionServer:
    """An admission URL: answers each question with `status` and `body`; or never, or no further than its headers."""

    status: int = 200
    body: bytes = b'{"Allow": true}'
    is_hung: bool = False
    hangs_after_headers: bool = False
    questions: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    @contextlib.contextmanager
    def running(self) -> Iterator["AdmissionServer"]:
        admission = self
        released = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                question = self.rfile.read(int(self.headers["Content-Length"]))
                admission.questions.append({"path": self.path, "json": json.loads(question)})
                if admission.is_hung:
                    released.wait(PATIENCE * 2)
                    return
                self.send_response(admission.status)
                self.send_header("Content-Length", str(len(admission.body)))
                self.end_headers()
                if admission.hangs_after_headers:
                    self.wfile.flush()
                    released.wait(PATIENCE * 2)
                    return
                self.wfile.write(admission.body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        self.url = f"http://127.0.0.1:{server.server_port}/verify/7?part=a"
        try:
            yield self
        finally:
            released.set()
            server.shutdown()
            thread.join(PATIENCE)
            server.server_close()


class ScriptedServer:
    """A TCP port whose every connection is handed to `script`, in a thread, with TLS when there is a certificate."""

    def __init__(self, script: Callable[[Any], None], certificate: Certificate | None = None) -> None:
        self._script = script
        self._context: ssl.SSLContext | None = None
        self._certificate = certificate
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._is_closing = False

    def start(self, folder: Path) -> "ScriptedServer":
        if self._certificate is not None:
            pair = folder / "pair.pem"
            pair.write_bytes(self._certificate.pem + self._certificate.key_pem)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(pair)
        self._threads[0].start()
        return self

    def close(self) -> None:
        self._is_closing = True
        # Wakes the thread that waits for a connection.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(PATIENCE)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._is_closing:
                    return
                raise
            if self._is_closing:
                connection.close()
                return
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # Whatever the client does to a misbehaving server is no failure of the test.
        with contextlib.suppress(OSError):
            if self._context is not None:
                connection = self._context.wrap_socket(connection, server_side=True)
            with connection:
                self._connections.append(connection)
                self._script(connection)


def say_nothing(_datagram: bytes, _client: tuple[str, int]) -> None:
    return None


def say_noise(_datagram: bytes, _client: tuple[str, int]) -> bytes:
    return b"noise"


@contextlib.contextmanager
def udp_server(
    answer: Callable[[bytes, tuple[str, int]], bytes | None], port: int = 0, host: str = "127.0.0.1"
) -> Iterator[tuple[int, list[bytes]]]:
    """Run a UDP port that answers each datagram with what `answer` returns; yields the port and the datagrams seen."""
    seen: list[bytes] = []
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((host, port))
    port = server.getsockname()[1]

    def serve() -> None:
        while True:
            datagram, client = server.recvfrom(2048)
            if datagram == b"stop":
                return
            seen.append(datagram)
            if (reply := answer(datagram, client)) is not None:
                server.sendto(reply, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield port, seen
    finally:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"stop", (host, port))
        thread.join(PATIENCE)
        server.close()
