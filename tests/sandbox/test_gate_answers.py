"""How gates answer: the sandbox's stand-in, and the real nginx where one is named, from the same files."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from containers.gate import ALL_BUT, EVERYBODY, GATE_PORT, GateSpec, list_files, render_list
from derpmgmt.sandbox import gate as sandbox_gate
from derpmgmt.sandbox.program import Surroundings
from tests.derp.parts import LoopThread
from tests.sandbox.panel import REFUSE, Panel

NGINX_VARIABLE = "DERPMGMT_TEST_NGINX"
SECRET = "a-secret-between-gate-and-panel-12345"
KNOWN, STRANGER, REVOKED = "aa" * 32, "bb" * 32, "cc" * 32
LIST = render_list([(17, KNOWN), (18, EVERYBODY), (18, ALL_BUT + REVOKED)])
# Less than the gate's own two seconds where the stand-in may be told so.
SHORT = b"proxy_read_timeout 400ms"


class Gate:
    """A gate that runs. ``log``: what it has said so far."""

    def __init__(
        self,
        place: tuple[str, int],
        put: Callable[[str, bytes], None],
        hang_up: Callable[[], None],
        log: Callable[[], str],
    ) -> None:
        self._place = place
        self.put = put
        self.hang_up = hang_up
        self.log = log

    def ask(self, path: str, body: bytes | None = None, method: str = "POST") -> tuple[int, bytes]:
        """Status and body of its answer. Raises what http.client raises for one that breaks off."""
        connection = http.client.HTTPConnection(*self._place, timeout=20)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            response = connection.getresponse()
            return response.status, response.read()


def question(key: str) -> bytes:
    return b'{"NodePublic":"nodekey:' + key.encode() + b'","Source":"192.0.2.7"}'


def files_for(panel_url: str, ca_pem: str = "") -> dict[str, bytes]:
    spec = GateSpec("0123abcd", "gate:1", SECRET, panel_url, ca_pem)
    files = {**spec.files, **list_files(LIST)}
    conf = files["/gate/nginx.conf"]
    assert b"proxy_read_timeout 2s" in conf
    return {**files, "/gate/nginx.conf": conf.replace(b"proxy_read_timeout 2s", SHORT)}


def start_stand_in(loop: LoopThread, files: dict[str, bytes]) -> tuple[Gate, Callable[[], None]]:
    said: list[str] = []

    def read(path: str) -> bytes:
        if path not in files:
            raise FileNotFoundError(2, "No such file or directory")
        return files[path]

    around = Surroundings(
        address="127.0.0.1",
        read=read,
        log=said.append,
        locate=lambda _port, _protocol: 0,
        resolve=lambda host, port: (host, port),
    )
    program = sandbox_gate.Gate(["/usr/sbin/nginx", "-c", "/gate/nginx.conf"], around)
    loop.run(program.start())
    place = program.place_of(GATE_PORT)
    assert place is not None

    async def reload() -> None:
        program.reload()
        while len(program.processes()) > 2:  # master and worker
            await asyncio.sleep(0.02)

    gate = Gate(place, files.__setitem__, lambda: loop.run(reload()), lambda: "\n".join(said))
    return gate, lambda: loop.run(program.stop())


def start_nginx(binary: str, folder: Path, files: dict[str, bytes]) -> tuple[Gate, Callable[[], None]]:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    (folder / "tmp").mkdir()

    def put(path: str, content: bytes) -> None:
        for here, there in ((b" /tmp/", f" {folder}/tmp/"), (b" /gate/", f" {folder}/")):
            content = content.replace(here, there.encode())
        content = content.replace(f"listen {GATE_PORT};".encode(), f"listen 127.0.0.1:{port};".encode())
        (folder / path.rpartition("/")[2]).write_bytes(content)

    for path, content in files.items():
        put(path, content)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen([binary, "-c", str(folder / "nginx.conf")], stderr=output)

    def stop() -> None:
        process.terminate()
        process.wait(10)

    def workers() -> set[str]:
        return set(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())

    def wait(done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not done():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)

    def hang_up() -> None:
        before, said = workers(), log.stat().st_size
        process.send_signal(1)
        # Another worker, or a word why not.
        wait(lambda: not workers() & before or log.stat().st_size > said)

    def listens() -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return True
        return False

    wait(listens)
    return Gate(("127.0.0.1", port), put, hang_up, log.read_text), stop


@pytest.fixture(params=["sandbox", "nginx"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Gate]]:
    """Start gates of each kind: what a test finds must be true of both."""
    binary = os.environ.get(NGINX_VARIABLE, "")
    if request.param == "nginx" and not binary:
        pytest.skip(f"{NGINX_VARIABLE} does not name an nginx")
    ends: list[Callable[[], None]] = []
    loop = LoopThread()

    def start_one(panel: Panel, *, scheme: str = "http", ca_pem: str = "") -> Gate:
        files = files_for(f"{scheme}://127.0.0.1:{panel.port}", ca_pem)
        if request.param == "sandbox":
            gate, end = start_stand_in(loop, files)
        else:
            gate, end = start_nginx(binary, tmp_path, files)
        ends.append(end)
        return gate

    yield start_one
    for end in ends:
        end()
    loop.close()


@pytest.fixture
def panel() -> Iterator[Panel]:
    with Panel().running() as running:
        yield running


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"Allow":true}'),
        (200, REFUSE),
        (401, b"no"),
        (404, b""),
        (429, b"later"),
        (413, b"x"),
        (501, b""),
    ],
)
def test_answer_is_the_panels_when_it_gives_one(
    status: int, body: bytes, start: Callable[..., Gate], panel: Panel
) -> None:
    panel.status, panel.body = status, body

    assert start(panel).ask("/relay/17", question(KNOWN)) == (status, body)

    assert panel.questions == [("/admission/17", f"Bearer {SECRET}", question(KNOWN))]


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_list_answers_when_the_panel_fails(status: int, start: Callable[..., Gate], panel: Panel) -> None:
    panel.status, panel.body = status, b'{"Allow":true}'
    gate = start(panel)

    assert gate.ask("/relay/17", question(KNOWN)) == (200, b'{"Allow":true}')
    assert gate.ask("/relay/17", question(STRANGER))[0] == 403
    assert gate.ask("/relay/18", question(STRANGER)) == (200, b'{"Allow":true}')
    assert gate.ask("/relay/18", question(REVOKED))[0] == 403
    assert gate.ask("/relay/118", question(STRANGER))[0] == 403
    assert gate.ask("/relay/1", question(KNOWN))[0] == 403


def test_list_answers_when_the_panel_is_gone(start: Callable[..., Gate]) -> None:
    with Panel().running() as panel:
        gate = start(panel)

    assert gate.ask("/relay/17", question(KNOWN))[0] == 200
    assert gate.ask("/relay/17", question(STRANGER))[0] == 403
    for body in (
        b"",
        b"rubbish",
        b"{}",
        question(KNOWN[:-1]),
        question(KNOWN.upper()),
        b"x" + question(KNOWN),
    ):
        assert gate.ask("/relay/17", body)[0] == 400, body


def test_list_answers_when_the_panel_hangs(start: Callable[..., Gate], panel: Panel) -> None:
    panel.hangs = "headers"
    gate = start(panel)

    assert gate.ask("/relay/17", question(KNOWN))[0] == 200
    assert gate.ask("/relay/17", question(STRANGER))[0] == 403


def test_answer_breaks_off_when_the_panels_does(start: Callable[..., Gate], panel: Panel) -> None:
    panel.hangs = "body"
    gate = start(panel)

    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        gate.ask("/relay/17", question(KNOWN))


@pytest.mark.parametrize(
    ("method", "path", "size", "status"),
    [
        ("GET", "/relay/17", 0, 403),
        ("PUT", "/relay/17", 10, 403),
        ("POST", "/relay/", 10, 404),
        ("POST", "/relay/seventeen", 10, 404),
        ("POST", "/relay/17/", 10, 404),
        ("POST", "/relay/" + "1" * 20, 10, 404),
        ("POST", "/", 10, 404),
        ("GET", "/nginx.conf", 0, 404),
        ("POST", "/relay/17", 5000, 413),
        ("PUT", "/relay/17", 5000, 413),
    ],
)
def test_panel_is_not_asked_when_the_question_is_none(
    method: str, path: str, size: int, status: int, start: Callable[..., Gate], panel: Panel
) -> None:
    assert start(panel).ask(path, b"x" * size if size else None, method)[0] == status
    assert panel.questions == []


def test_new_files_count_when_the_gate_hangs_up(start: Callable[..., Gate]) -> None:
    with Panel().running() as panel:
        gate = start(panel)

    gate.put("/gate/known.map", render_list([(17, STRANGER)]))
    assert gate.ask("/relay/17", question(STRANGER))[0] == 403
    gate.hang_up()
    assert gate.ask("/relay/17", question(STRANGER))[0] == 200
    assert gate.ask("/relay/17", question(KNOWN))[0] == 403

    gate.put("/gate/known.map", b'"/relay/17|')
    gate.hang_up()
    assert gate.ask("/relay/17", question(STRANGER))[0] == 200
    assert 'unexpected end of file, expecting ";" or "}"' in gate.log()


def make_pair(folder: Path, common_name: str, **names: Any) -> tuple[Path, str]:
    """A file with a self-signed certificate and its key, and the certificate alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
    if names:
        listed = [x509.DNSName(text) for text in names.get("dns", ())]
        listed += [x509.IPAddress(address) for address in names.get("addresses", ())]
        builder = builder.add_extension(x509.SubjectAlternativeName(listed), critical=False)
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "pair.pem").write_bytes(pem + private)
    return folder / "pair.pem", pem.decode()


@pytest.mark.parametrize(
    ("common_name", "dns", "is_believed"),
    [("127.0.0.1", (), True), ("panel.example", (), False), ("127.0.0.1", ("panel.example",), False)],
)
def test_panel_counts_when_its_certificate_bears_its_address(
    common_name: str, dns: tuple[str, ...], is_believed: bool, start: Callable[..., Gate], tmp_path: Path
) -> None:
    pair, pem = make_pair(tmp_path, common_name, **({"dns": dns} if dns else {}))
    with Panel(body=REFUSE).running(pair) as panel:
        # Where it is not believed, the list lets the known device in.
        status = start(panel, scheme="https", ca_pem=pem).ask("/relay/17", question(KNOWN))

    assert status == ((200, REFUSE) if is_believed else (200, b'{"Allow":true}'))
    assert bool(panel.questions) is is_believed


def test_panel_does_not_count_when_its_certificate_is_not_ours(
    start: Callable[..., Gate], tmp_path: Path
) -> None:
    pair, _ = make_pair(tmp_path, "127.0.0.1")
    (tmp_path / "other").mkdir()
    _, other_pem = make_pair(tmp_path / "other", "127.0.0.1")
    with Panel(body=REFUSE).running(pair) as panel:
        answer = start(panel, scheme="https", ca_pem=other_pem).ask("/relay/17", question(KNOWN))

    assert answer == (200, b'{"Allow":true}')
    assert panel.questions == []
