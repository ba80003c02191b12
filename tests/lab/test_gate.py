"""A gate on a real Docker Engine: a real nginx between what relays ask and what the panel says."""

import os
import signal
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import certifi
import pytest

from containers.deploy import (
    has_gate,
    make_so,
    put_files,
    read_differences,
    read_file,
    remove_gate,
)
from containers.gate import (
    EVERYBODY,
    GATE_DIR,
    GATE_PORT,
    LIST_HASH_PATH,
    Entry,
    GateSpec,
    gate_name,
    list_files,
    list_hash,
    render_list,
)
from containers.gate_image import build_gate_image, find_nginx
from containers.gate_list import ListNotTaken, activate_list
from containers.image import ImageArchive
from fleet.engine import Engine, engine_errors, open_engine
from fleet.engine_errors import EngineError
from fleet.ssh import Connection, Endpoint, RemoteError
from tests.lab.gate_panel import Answer, Panel, ask, connect, make_tls, question, running_panel
from tests.lab.host import Host as LabHost
from tests.lab.hosts import Lab

pytestmark = pytest.mark.lab

PANEL_ID = "0a1b2c3d"
NAME = gate_name(PANEL_ID)
SECRET = "aVery-Secret_Word0123456789abcdefghijklmnopq"
KNOWN, OTHER, STRANGER = "1f" * 32, "2e" * 32, "3d" * 32
LIST: list[Entry] = [(17, KNOWN), (18, KNOWN), (17, OTHER), (20, EVERYBODY)]


@dataclass
class Gate:
    """A gate on one host, and what can be asked of it."""

    engine: Engine
    host: LabHost
    archive: ImageArchive

    def make(self, panel_url: str, ca_pem: str = "", entries: list[Entry] = LIST) -> GateSpec:
        spec = GateSpec(PANEL_ID, self.archive.tag, SECRET, panel_url, ca_pem)
        make_so(self.engine, spec, self.archive, lambda _step: None, also=list_files(render_list(entries)))
        return spec

    def push(self, entries: list[Entry]) -> None:
        put_files(self.engine, NAME, GATE_DIR, list_files(render_list(entries)))
        activate_list(self.engine, PANEL_ID)

    @property
    def address(self) -> str:
        networks = self.engine.inspect_container(NAME)["NetworkSettings"]["Networks"]
        return str(networks["derpmgmt"]["IPAddress"])

    @property
    def pid(self) -> int:
        return int(self.engine.inspect_container(NAME)["State"]["Pid"])

    def ask(self, key: str, relay: int | str = 17) -> Answer:
        return self.put(question(key), f"/relay/{relay}")

    def put(self, body: bytes, path: str = "/relay/17", method: str = "POST") -> Answer:
        return ask(self.host.netns, self.address, GATE_PORT, path, body, method)

    def log(self) -> str:
        return self.engine.logs(NAME).decode()


@pytest.fixture(scope="module")
def lab_host(running_lab: Lab) -> LabHost:
    return running_lab.hosts[0]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ImageArchive:
    return build_gate_image(find_nginx(), tmp_path_factory.mktemp("image"))


@pytest.fixture
def gate(lab_host: LabHost, archive: ImageArchive) -> Iterator[Gate]:
    endpoint = Endpoint(
        lab_host.address, lab_host.ssh_port, lab_host.user, lab_host.host_key, lab_host.private_key
    )
    connection = Connection.open(endpoint)
    made = Gate(open_engine(connection, lab_host.docker_socket), lab_host, archive)
    yield made
    remove_gate(made.engine, PANEL_ID)
    connection.close()


@pytest.fixture
def panel(running_lab: Lab) -> Iterator[Panel]:
    with running_panel(running_lab.gateway) as running:
        yield running


def wait_for(done: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 15
    while True:
        with suppress(OSError, EngineError):
            if done():
                return
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


def test_panel_decides_when_it_answers(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    assert gate.ask(STRANGER).is_yes
    (asked,) = panel.asked
    assert asked.path == "/admission/17"
    assert asked.headers["Authorization"] == f"Bearer {SECRET}"
    assert asked.body == question(STRANGER)
    panel.body = b'{"Allow":false}'
    refused = gate.ask(KNOWN)
    assert (refused.status, refused.body) == (200, b'{"Allow":false}')
    for panel.status in (400, 401, 403, 404, 405, 413, 429):
        assert gate.ask(KNOWN).status == panel.status


def test_relay_cannot_speak_for_the_gate_when_it_sends_headers(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    with connect(gate.host.netns, gate.address, GATE_PORT) as sock:
        body = question(KNOWN)
        sock.sendall(
            b"POST /relay/17 HTTP/1.1\r\nHost: evil\r\nAuthorization: Bearer mine\r\nX-Forwarded-For: 1.2.3.4\r\n"
            b"Cookie: a=b\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        assert b" 200 " in sock.recv(4096)
    (asked,) = panel.asked
    assert asked.headers["Authorization"] == f"Bearer {SECRET}"
    assert {"Cookie", "X-Forwarded-For"}.isdisjoint(asked.headers)
    assert asked.headers["Host"] == panel.url.removeprefix("http://")


def test_list_decides_at_once_when_the_panel_is_down(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    known = gate.ask(KNOWN)
    assert known.is_yes
    assert known.seconds < 1
    assert [gate.ask(KNOWN, 18).is_yes, gate.ask(OTHER).is_yes, gate.ask(STRANGER, 20).is_yes] == [True] * 3
    # Known to one relay is not known to another.
    for key, relay in ((STRANGER, 17), (OTHER, 18), (KNOWN, 19), (KNOWN, 1), (STRANGER, 2), (STRANGER, 200)):
        assert gate.ask(key, relay).status == 403
    with running_panel(running_lab.gateway, port=int(panel.url.rpartition(":")[2])) as back:
        back.body = b'{"Allow":false}'
        assert not gate.ask(KNOWN).is_yes


def test_list_decides_after_two_seconds_when_the_panel_hangs(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    panel.is_hung = True
    known, stranger = gate.ask(KNOWN), gate.ask(STRANGER)
    assert (known.is_yes, stranger.status) == (True, 403)
    for answer in (known, stranger):
        assert 1.8 < answer.seconds < 4


def test_list_decides_when_packets_to_the_panel_vanish(gate: Gate) -> None:
    gate.make("http://192.0.2.1:8000")
    known = gate.ask(KNOWN)
    assert known.is_yes
    assert known.seconds < 3


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_list_decides_when_the_panel_fails(gate: Gate, panel: Panel, status: int) -> None:
    gate.make(panel.url)
    panel.status = status
    assert gate.ask(KNOWN).is_yes
    assert gate.ask(STRANGER).status == 403


def test_bad_question_is_refused_when_nobody_else_judges_it(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    good = question(KNOWN)
    for body in (
        b"",
        b"{}",
        b"\x00\xff",
        "{“NodePublic”: “你好”}".encode(),
        question(KNOWN, "来源"),
        good + b"x",
        good.replace(b"nodekey:", b""),
        good.replace(b'"Source"', b'"NodePublic":"nodekey:' + STRANGER.encode() + b'","Source"'),
        good.replace(b"1f", b"1F", 1),
    ):
        expected = {200, 400} if body == question(KNOWN, "来源") else {400}
        assert gate.put(body).status in expected, body
    # Nor does a rental that is open to everybody let in what is no question at all.
    assert gate.put(b"{}", "/relay/20").status == 400
    for path in (
        "/",
        "/relay/",
        "/relay/17/",
        "/relay/x",
        "/relay/17x",
        "/admission/17",
        "/relay/" + "1" * 20,
    ):
        assert gate.put(good, path).status == 404
    assert gate.put(good, "/relay/%31%37").is_yes  # the same relay
    assert gate.put(b"", method="GET").status == 403


def test_gate_serves_others_when_somebody_is_slow_or_sends_much(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    assert gate.put(question(KNOWN, "x" * 2000)).status == 413
    with connect(gate.host.netns, gate.address, GATE_PORT) as slow:
        slow.sendall(b"POST /relay/17 HTTP/1.1\r\nHost: gate\r\nContent-Length: 100\r\n\r\n{")
        assert gate.ask(KNOWN).is_yes
        started = time.monotonic()
        answer = slow.recv(4096)  # the end of the connection, or 408
        assert answer == b"" or b" 408 " in answer
        assert time.monotonic() - started < 5
    with connect(gate.host.netns, gate.address, GATE_PORT) as chunked:
        chunked.sendall(
            b"POST /relay/17 HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n"
            + b"x" * 4096
        )
        assert b" 413 " in chunked.recv(4096)
    assert len(panel.asked) == 1


def test_chunked_question_is_known_when_the_panel_is_down(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    body = question(KNOWN)
    parts = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:20], body[20:]))
    with connect(gate.host.netns, gate.address, GATE_PORT) as sock:
        sock.sendall(
            b"POST /relay/17 HTTP/1.1\r\nHost: gate\r\nTransfer-Encoding: chunked\r\n\r\n"
            + parts
            + b"0\r\n\r\n"
        )
        assert b'{"Allow":true}' in sock.recv(4096)


def test_new_list_counts_within_a_second_when_it_is_pushed(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    assert gate.ask(OTHER).is_yes
    pid = gate.pid
    started = time.monotonic()
    gate.push([(17, STRANGER)])
    assert time.monotonic() - started < 2
    assert all(gate.ask(STRANGER).is_yes and gate.ask(OTHER).status == 403 for _ in range(20))
    assert gate.pid == pid
    assert read_file(gate.engine, NAME, LIST_HASH_PATH).decode() == list_hash(render_list([(17, STRANGER)]))
    gate.push([])
    assert all(gate.ask(STRANGER).status == 403 for _ in range(20))


def test_old_list_stays_when_a_broken_one_came(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    put_files(gate.engine, NAME, GATE_DIR, {f"{GATE_DIR}/known.map": b'"/relay/17|nodekey:1f'})
    with pytest.raises(ListNotTaken) as refusal:
        activate_list(gate.engine, PANEL_ID)
    assert "known.map" in refusal.value.detail
    assert gate.ask(KNOWN).is_yes
    assert gate.ask(STRANGER).status == 403


def test_five_thousand_devices_are_known_when_the_panel_is_down(gate: Gate, running_lab: Lab) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    many: list[Entry] = [(relay, f"{device:064x}") for relay in range(50) for device in range(100)]
    gate.push(many)
    assert gate.ask(f"{99:064x}", 49).is_yes
    assert all(gate.ask(f"{device:064x}", device % 50).is_yes for device in range(0, 100, 7))
    assert gate.ask(f"{100:064x}", 49).status == 403
    assert gate.ask(f"{1:064x}", 50).status == 403
    assert "could not build" not in gate.log()


def test_gate_is_back_when_it_died_after_a_new_list(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    gate.push(LIST)
    before = gate.pid
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: gate.pid not in (0, before) and gate.ask(KNOWN).is_yes, "the gate after its death")


def test_worker_is_back_when_it_died(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    before = gate.pid
    [worker] = map(int, Path(f"/proc/{before}/task/{before}/children").read_text().split())
    os.kill(worker, signal.SIGKILL)
    wait_for(lambda: gate.ask(KNOWN).is_yes, "the worker after its death")
    assert gate.pid == before


@pytest.mark.parametrize("how", ["stop_docker", "kill_docker"])
def test_gate_is_back_when_the_engine_restarted(
    gate: Gate, lab_host: LabHost, running_lab: Lab, how: str
) -> None:
    with running_panel(running_lab.gateway) as panel:
        gate.make(panel.url)
    gate.push([(17, STRANGER)])
    getattr(lab_host, how)()
    lab_host.start_docker()
    wait_for(lambda: gate.ask(STRANGER).is_yes, "the gate after the Engine's restart")
    assert gate.ask(KNOWN).status == 403


def test_panel_is_verified_when_its_certificate_is_self_signed(
    gate: Gate, running_lab: Lab, tmp_path: Path
) -> None:
    tls, ca_pem = make_tls(tmp_path, running_lab.gateway)
    with running_panel(running_lab.gateway, tls) as panel:
        gate.make(panel.url, ca_pem)
        assert gate.ask(STRANGER).is_yes
        assert len(panel.asked) == 1


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_secret_is_not_sent_when_the_panel_is_another(
    gate: Gate, running_lab: Lab, tmp_path: Path, wrong: str
) -> None:
    name = "192.0.2.99" if wrong == "name" else running_lab.gateway
    tls, ca_pem = make_tls(tmp_path, name)
    if wrong == "authority":
        (tmp_path / "other").mkdir()
        _tls, ca_pem = make_tls(tmp_path / "other", name)
    with running_panel(running_lab.gateway, tls) as panel:
        gate.make(panel.url, ca_pem)
        assert gate.ask(STRANGER).status == 403
        assert gate.ask(KNOWN).is_yes  # by the list
        assert panel.asked == []


def test_gate_starts_when_the_name_of_the_panel_cannot_be_resolved(gate: Gate) -> None:
    gate.make("https://panel.invalid/prefix", Path(certifi.where()).read_text())
    known = gate.ask(KNOWN)
    assert known.is_yes
    assert known.seconds < 4
    assert gate.ask(STRANGER).status == 403


def test_hardening_is_what_engine_and_kernel_hold(gate: Gate, panel: Panel) -> None:
    gate.make(panel.url)
    inspected = gate.engine.inspect_container(NAME)
    config = inspected["HostConfig"]
    assert inspected["Config"]["User"] == "65532:65532"
    assert (config["ReadonlyRootfs"], config["CapDrop"], config["CapAdd"]) == (True, ["ALL"], None)
    assert (config["Privileged"], config["SecurityOpt"]) == (False, ["no-new-privileges"])
    assert (config["Memory"], config["PidsLimit"]) == (64 * 1024 * 1024, 64)
    assert config["LogConfig"]["Config"] == {"max-size": "1m", "max-file": "2"}
    assert not config["PortBindings"]
    assert list(inspected["NetworkSettings"]["Networks"]) == ["derpmgmt"]
    process = Path("/proc", str(inspected["State"]["Pid"]))
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert status["Uid"].split() == status["Gid"].split() == ["65532"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    mounts = {line.split()[4]: line.split()[5].split(",") for line in (process / "mountinfo").open()}
    assert "ro" in mounts["/"]
    assert {"noexec", "nosuid"} <= set(mounts["/tmp"])


def test_secret_is_nowhere_but_in_its_file(gate: Gate, panel: Panel, running_lab: Lab) -> None:
    spec = gate.make(panel.url)
    assert gate.ask(KNOWN).is_yes
    gate.put(b"nonsense")
    panel.status = 500
    gate.ask(STRANGER)
    process = Path("/proc", str(gate.pid))
    seen = str(gate.engine.inspect_container(NAME)) + gate.log() + repr(spec)
    seen += (process / "cmdline").read_text() + (process / "environ").read_bytes().decode()
    assert "/gate/nginx.conf" in seen
    assert SECRET not in seen
    folder = Path(gate.engine.inspect_volume(NAME)["Mountpoint"])
    files = {path.name: path.stat() for path in folder.iterdir()}
    assert set(files) == {"nginx.conf", "panel.pem", "known.map", "known.sha256"}
    for found in files.values():
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 65532, 65532)


def test_nothing_is_done_when_nothing_differs_and_all_when_something_does(gate: Gate, panel: Panel) -> None:
    spec = gate.make(panel.url)
    assert make_so(gate.engine, spec, gate.archive, lambda _step: None) is False
    assert read_differences(gate.engine, spec) == []
    before = gate.pid
    gate.make(panel.url + "/elsewhere")
    assert gate.pid != before
    assert gate.ask(STRANGER).is_yes
    assert panel.asked[0].path == "/elsewhere/admission/17"
    gate.engine.update_container(NAME, restart_policy={"Name": "no"})
    assert read_differences(gate.engine, gate.make(panel.url)) == []
    assert gate.engine.inspect_container(NAME)["HostConfig"]["RestartPolicy"]["Name"] == "always"
    remove_gate(gate.engine, PANEL_ID)
    assert not has_gate(gate.engine, PANEL_ID)
    with pytest.raises(EngineError), engine_errors():
        gate.engine.inspect_container(NAME)


def test_reason_is_told_when_the_gate_does_not_stay_up(gate: Gate) -> None:
    spec = GateSpec(PANEL_ID, gate.archive.tag, SECRET, "http://192.0.2.1", "")
    with pytest.raises(RemoteError) as refusal:
        make_so(gate.engine, spec, gate.archive, lambda _step: None)  # without a list
    assert refusal.value.code == "crashed"
    assert "known.map" in refusal.value.detail
    assert SECRET not in refusal.value.detail
