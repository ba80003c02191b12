"""Gates of the sandbox: what relays and devices come to know of them. How they answer is in ``test_gate_answers``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from containers.deploy import ensure_image
from containers.derp import keys
from containers.derp.client import DerpClient, NotAdmitted
from containers.gate import EVERYBODY, Entry, GateSpec, gate_url, list_files, render_list
from containers.gate_image import build_gate_placeholder
from containers.gate_list import ListNotTaken, activate_list
from containers.spec import NETWORK
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine, engine_errors
from fleet.engine_errors import EngineError
from tests.sandbox.panel import REFUSE, Panel
from tests.sandbox.parts import PANEL, Relay, connect, make_relay
from tests.sandbox.talk import tar_of
from tests.sandbox.test_life import until

SECRET = "a-secret-between-gate-and-panel-12345"
RELAY = 17


class Device:
    """A device with its key; relays see it by that."""

    def __init__(self) -> None:
        self._private_key = keys.generate_private_key()
        self.key = keys.public_key_of(self._private_key)

    def connect(self, relay: Relay) -> DerpClient:
        """Raises NotAdmitted."""
        spec = relay.spec
        return DerpClient.connect(
            spec.address,
            spec.derp_port,
            cert_sha256=relay.certificate.sha256,
            private_key=self._private_key,
            timeout=10.0,
        )

    def is_let_in(self, relay: Relay) -> bool:
        try:
            with self.connect(relay) as client:
                client.ping(timeout=10.0)
                return True
        except NotAdmitted:
            return False


class Gate:
    """A gate as the panel would make it."""

    def __init__(self, engine: Engine, image: str, panel: Panel) -> None:
        self._engine = engine
        self.spec = GateSpec(PANEL, image, SECRET, f"http://127.0.0.1:{panel.port}", "")
        self.name = self.spec.container_name

    def create(self, *entries: Entry, **host: Any) -> None:
        """Its network, volume, container and files, not started."""
        body = self.spec.create_body
        body["HostConfig"] = {**body["HostConfig"], **host}
        if not self._engine.networks(names=[NETWORK]):
            self._engine.create_network(NETWORK, driver="bridge", check_duplicate=True)
        self._engine.create_volume(self.name, labels=self.spec.identity_labels)
        self._engine.create_container_from_config(body, self.name)
        self.put(self.spec.files)
        self.put(list_files(render_list(entries)))

    def put(self, files: dict[str, bytes]) -> None:
        named = {path.rpartition("/")[2]: content for path, content in files.items()}
        self._engine.put_archive(self.name, self.spec.files_dir, tar_of(named))

    def run(self, *entries: Entry, **host: Any) -> None:
        self.create(*entries, **host)
        self._engine.start(self.name)

    def hang_up(self) -> None:
        activate_list(self._engine, PANEL)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self._engine.inspect_container(self.name)
        return found


@pytest.fixture
def panel() -> Iterator[Panel]:
    with Panel().running() as running:
        yield running


@pytest.fixture
def gone_panel() -> Panel:
    """One that does not run, but once did."""
    with Panel().running() as running:
        return running


@pytest.fixture
def gate_image(engine: Engine, tmp_path: Path) -> str:
    archive = build_gate_placeholder(tmp_path / "gate")
    ensure_image(engine, archive)
    return archive.tag


@pytest.fixture
def make_gate(engine: Engine, gate_image: str) -> Callable[[Panel], Gate]:
    return lambda panel: Gate(engine, gate_image, panel)


@pytest.fixture
def relay(sandbox: Sandbox, engine: Engine, image: str) -> Relay:
    """A relay that asks the gate of its server, and runs."""
    made = make_relay(sandbox.hosts[0], image, RELAY, verify_url=gate_url(PANEL, RELAY))
    made.run(engine)
    return made


def test_device_is_let_in_when_the_panel_says_so(
    relay: Relay, make_gate: Callable[[Panel], Gate], panel: Panel
) -> None:
    make_gate(panel).run()
    device = Device()

    assert device.is_let_in(relay)

    path, authorization, question = panel.questions[0]
    assert (path, authorization) == (f"/admission/{RELAY}", f"Bearer {SECRET}")
    assert device.key.encode() in question


def test_known_device_is_refused_when_the_panel_says_no(
    relay: Relay, make_gate: Callable[[Panel], Gate], panel: Panel
) -> None:
    device = Device()
    panel.body = REFUSE
    make_gate(panel).run((RELAY, device.key))

    assert not device.is_let_in(relay)


def test_list_decides_when_the_panel_is_gone(
    relay: Relay, make_gate: Callable[[Panel], Gate], gone_panel: Panel
) -> None:
    known, elsewhere = Device(), Device()
    make_gate(gone_panel).run((RELAY, known.key), (RELAY + 1, elsewhere.key), (RELAY * 10, EVERYBODY))

    assert known.is_let_in(relay)
    assert not elsewhere.is_let_in(relay)
    assert not Device().is_let_in(relay)


def test_everybody_is_let_in_when_the_list_says_so(
    relay: Relay, make_gate: Callable[[Panel], Gate], gone_panel: Panel
) -> None:
    make_gate(gone_panel).run((RELAY, EVERYBODY))

    assert Device().is_let_in(relay)


def test_new_list_counts_when_the_gate_was_told_and_not_before(
    relay: Relay, make_gate: Callable[[Panel], Gate], gone_panel: Panel, engine: Engine
) -> None:
    first, second = Device(), Device()
    gate = make_gate(gone_panel)
    gate.run((RELAY, first.key))
    started = gate.state()["State"]["StartedAt"]

    gate.put(list_files(render_list([(RELAY, second.key)])))
    assert (first.is_let_in(relay), second.is_let_in(relay)) == (True, False)
    gate.hang_up()
    assert (first.is_let_in(relay), second.is_let_in(relay)) == (False, True)

    gate.put({"/gate/known.map": b"rubbish"})
    with pytest.raises(ListNotTaken) as refusal:
        gate.hang_up()
    assert "known.map" in refusal.value.detail
    assert second.is_let_in(relay)
    assert b"[emerg]" in engine.logs(gate.name)
    assert (gate.state()["State"]["StartedAt"], gate.state()["RestartCount"]) == (started, 0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault",
    [
        {"no_ps": True},
        {"other_ps": True},
        # Words of rootless Engines, of a ps with other columns, and some that are nobody's yet.
        {"top_refused": "runc did not terminate successfully: exit status 1: no such directory: unknown"},
        {"top_refused": "ps: exit status 1: error: unsupported option (BSD syntax)"},
        {"top_refused": "permission denied"},
        {"top_refused": "OCI runtime ps failed: not supported"},
    ],
)
def test_new_list_counts_when_the_server_cannot_list_processes(
    sandbox: Sandbox,
    relay: Relay,
    make_gate: Callable[[Panel], Gate],
    gone_panel: Panel,
    fault: dict[str, Any],
) -> None:
    sandbox.server(0).fault(**fault)
    first, second = Device(), Device()
    gate = make_gate(gone_panel)
    gate.run((RELAY, first.key))

    gate.put(list_files(render_list([(RELAY, second.key)])))
    gate.hang_up()

    assert (first.is_let_in(relay), second.is_let_in(relay)) == (False, True)

    # A list that nginx cannot read is not passed over either, nor the same one again.
    gate.put({"/gate/known.map": b"rubbish"})
    for _ in range(2):
        with pytest.raises(ListNotTaken) as refusal:
            gate.hang_up()
        assert "known.map" in refusal.value.detail
    assert second.is_let_in(relay)
    gate.put(list_files(render_list([(RELAY, first.key)])))
    gate.hang_up()
    assert first.is_let_in(relay)


@pytest.mark.parametrize("fail_open", [False, True])
def test_relay_knows_no_gate_when_it_is_stopped(
    fail_open: bool,
    sandbox: Sandbox,
    image: str,
    make_gate: Callable[[Panel], Gate],
    panel: Panel,
    engine: Engine,
) -> None:
    gate = make_gate(panel)
    gate.run()
    relay = make_relay(sandbox.hosts[0], image, RELAY, verify_url=gate_url(PANEL, RELAY), fail_open=fail_open)
    relay.run(engine)

    engine.stop(gate.name)
    assert Device().is_let_in(relay) is fail_open
    assert panel.questions == []

    engine.start(gate.name)
    panel.body = REFUSE
    assert not Device().is_let_in(relay)


def test_relay_knows_no_gate_when_they_share_no_network(
    relay: Relay, make_gate: Callable[[Panel], Gate], panel: Panel, engine: Engine
) -> None:
    engine.create_network("other", driver="bridge")
    gate = make_gate(panel)
    gate.run(NetworkMode="other")
    assert not Device().is_let_in(relay)

    engine.connect_container_to_network(gate.name, NETWORK)
    assert Device().is_let_in(relay)


def test_relay_knows_no_gate_when_it_runs_on_another_server(
    sandbox: Sandbox, relay: Relay, panel: Panel, tmp_path: Path
) -> None:
    connection, other = connect(sandbox.hosts[1])
    archive = build_gate_placeholder(tmp_path / "gate")
    ensure_image(other, archive)
    Gate(other, archive.tag, panel).run()
    connection.close()

    assert not Device().is_let_in(relay)


def test_nobody_is_let_in_when_the_url_names_a_port_that_no_gate_has(
    sandbox: Sandbox, engine: Engine, image: str, make_gate: Callable[[Panel], Gate], panel: Panel
) -> None:
    gate = make_gate(panel)
    gate.run()
    relay = make_relay(sandbox.hosts[0], image, RELAY, verify_url=f"http://{gate.name}:80/relay/{RELAY}")
    relay.run(engine)

    assert not Device().is_let_in(relay)


def test_gate_is_started_again_when_it_dies_after_a_new_list(
    relay: Relay, make_gate: Callable[[Panel], Gate], panel: Panel, engine: Engine
) -> None:
    gate = make_gate(panel)
    gate.run()
    gate.hang_up()

    engine.kill(gate.name, "TERM")  # to the Engine not the signal that stops it

    until(lambda: gate.state()["State"]["Running"] and gate.state()["RestartCount"] == 1)
    assert Device().is_let_in(relay)


def test_gate_is_back_when_the_server_was_down(
    sandbox: Sandbox, relay: Relay, make_gate: Callable[[Panel], Gate], gone_panel: Panel
) -> None:
    known = Device()
    gate = make_gate(gone_panel)
    gate.run((RELAY, known.key))
    gate.hang_up()

    sandbox.server(0).fault(down=True)
    sandbox.server(0).heal()

    connection, engine = connect(sandbox.hosts[0])
    assert engine.inspect_container(gate.name)["State"]["Running"]
    connection.close()
    assert known.is_let_in(relay)
    assert not Device().is_let_in(relay)


def test_gate_says_why_when_it_cannot_start(
    make_gate: Callable[[Panel], Gate], panel: Panel, engine: Engine
) -> None:
    gate = make_gate(panel)
    gate.create()
    gate.put({"/gate/known.map": b'"/relay/17|'})
    engine.start(gate.name)

    until(lambda: gate.state()["RestartCount"] >= 2)

    expected = b'unexpected end of file, expecting ";" or "}" in /gate/known.map:1'
    assert expected in engine.logs(gate.name)
    gate.put(list_files(b""))
    until(lambda: gate.state()["State"]["Status"] == "running")


def test_secret_stands_in_no_inspection_when_the_gate_runs(
    make_gate: Callable[[Panel], Gate], panel: Panel, engine: Engine
) -> None:
    gate = make_gate(panel)
    gate.run()

    assert SECRET not in str(gate.state())
    archive, stat = engine.get_archive(gate.name, "/gate/known.sha256")
    assert stat["mode"] == 0o600
    assert b"".join(archive)


def test_program_is_refused_when_the_sandbox_cannot_play_it(
    make_gate: Callable[[Panel], Gate], panel: Panel, engine: Engine
) -> None:
    gate = make_gate(panel)
    gate.create()
    body = {**gate.spec.create_body, "Entrypoint": ["/gate"], "Cmd": []}
    engine.create_container_from_config(body, "other")

    with pytest.raises(EngineError), engine_errors():
        engine.start("other")


def test_panel_is_asked_again_when_it_is_back(
    relay: Relay, make_gate: Callable[[Panel], Gate], gone_panel: Panel
) -> None:
    make_gate(gone_panel).run()
    device = Device()
    assert not device.is_let_in(relay)

    with gone_panel.running():
        assert device.is_let_in(relay)
    assert not device.is_let_in(relay)
