"""What the servers of a sandbox keep, run and bring back."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from containers.derp import keys
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine
from tests.sandbox.parts import connect, load_image, make_relay
from tests.sandbox.talk import tar_of

pytestmark = pytest.mark.slow

PATIENCE = 20.0


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def test_relay_carries_packets_when_its_container_runs(sandbox: Sandbox, engine: Engine, image: str) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.run(engine)

    result = relay.probe()

    assert (result.ok, result.detail) == (True, "")


def test_nobody_answers_when_the_container_is_stopped(sandbox: Sandbox, engine: Engine, image: str) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.run(engine)

    engine.stop(relay.name)

    assert relay.probe().step == "connect"


def test_relay_is_back_with_its_key_when_the_sandbox_starts_again(tmp_path: Path, subnet: str) -> None:
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet) as first:
        hosts = first.hosts
        connection, engine = connect(hosts[0])
        image = load_image(engine, tmp_path)
        relay, stopped = make_relay(hosts[0], image, 1), make_relay(hosts[0], image, 2)
        relay.run(engine)
        stopped.run(engine)
        engine.stop(stopped.name)
        connection.close()

    assert relay.probe().step == "connect"
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet) as second:
        assert second.hosts == hosts
        assert relay.probe().ok
        connection, engine = connect(hosts[0])
        assert engine.inspect_container(stopped.name)["State"]["Status"] == "exited"
        engine.start(stopped.name)
        assert stopped.probe().ok
        connection.close()


def test_relay_comes_up_by_itself_when_its_missing_files_arrive(
    sandbox: Sandbox, engine: Engine, image: str
) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.create(engine)
    name = f"{relay.spec.address}.crt"
    engine.put_archive(relay.name, "/relay", tar_of({name: b"rubbish"}))
    engine.start(relay.name)
    until(lambda: engine.inspect_container(relay.name)["RestartCount"] >= 2)
    assert b"failed to find any PEM data" in engine.logs(relay.name)

    engine.put_archive(relay.name, "/relay", tar_of({name: relay.certificate.pem.encode()}))

    until(lambda: relay.probe().ok)
    assert engine.inspect_container(relay.name)["State"]["Status"] == "running"


def test_relay_serves_what_its_files_say_when_the_panel_thinks_otherwise(
    sandbox: Sandbox, engine: Engine, image: str
) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.create(engine)
    other = json.dumps({"PrivateKey": keys.format_private_key(keys.generate_private_key())})
    engine.put_archive(relay.name, "/relay", tar_of({"derper.json": other.encode()}))
    engine.start(relay.name)

    assert relay.probe().step == "handshake"


def test_files_of_volumes_are_their_owners_alone_when_on_disk(
    sandbox: Sandbox, engine: Engine, image: str, tmp_path: Path
) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.run(engine)

    volume = Path(engine.inspect_volume(relay.name)["Mountpoint"])

    assert {path.name for path in volume.iterdir()} == {path.rpartition("/")[2] for path in relay.spec.files}
    assert {stat.S_IMODE(path.stat().st_mode) for path in volume.iterdir()} == {0o600}
    assert stat.S_IMODE((tmp_path / "sandbox").stat().st_mode) == 0o700
    engine.remove_container(relay.name, force=True, v=True)
    engine.remove_volume(relay.name)
    assert not volume.exists()


def test_ports_are_free_when_the_container_is_removed(sandbox: Sandbox, engine: Engine, image: str) -> None:
    first = make_relay(sandbox.hosts[0], image, 1)
    first.run(engine)
    engine.remove_container(first.name, force=True)
    second = make_relay(
        sandbox.hosts[0], image, 2, derp_port=first.spec.derp_port, stun_port=first.spec.stun_port
    )

    second.run(engine)

    assert second.probe().ok


@pytest.fixture
def start(tmp_path: Path, subnet: str) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts the sandbox as a process of its own."""
    processes = []

    def start_one() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "derpmgmt.sandbox", "--state", str(tmp_path / "state")]
        process = subprocess.Popen(
            [*command, "--servers", "4", "--subnet", subnet],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start_one
    for process in processes:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def wait_ready(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], PATIENCE)[0]
    assert process.stdout.readline() == "ready\n"


def test_hosts_are_written_and_signal_ends_it_when_run_as_a_process(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = start()
    wait_ready(process)
    path = tmp_path / "state" / "hosts.json"
    first = json.loads(path.read_text())

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [host["name"] for host in first] == ["sandbox-1", "sandbox-2", "sandbox-3", "sandbox-4"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(PATIENCE) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert not path.exists()
    again = start()
    wait_ready(again)
    assert json.loads(path.read_text()) == first


def test_second_process_says_why_when_the_state_is_in_use(start: Callable[[], subprocess.Popen[str]]) -> None:
    wait_ready(start())

    second = start()

    assert second.wait(PATIENCE) == 1
    assert second.stderr is not None
    assert "Does another sandbox run with the same state?" in second.stderr.read()


def test_relay_is_back_when_the_process_was_killed(
    start: Callable[[], subprocess.Popen[str]], tmp_path: Path
) -> None:
    from derpmgmt.sandbox.fleet import SandboxHost

    process = start()
    wait_ready(process)
    host = SandboxHost(**json.loads((tmp_path / "state" / "hosts.json").read_text())[0])
    connection, engine = connect(host)
    relay = make_relay(host, load_image(engine, tmp_path))
    relay.run(engine)
    connection.close()

    os.kill(process.pid, signal.SIGKILL)
    process.wait(PATIENCE)
    wait_ready(start())

    assert relay.probe().ok


def test_process_imports_no_django_when_it_starts() -> None:
    code = "import sys, derpmgmt.sandbox.__main__; print(any(name.split('.')[0] == 'django' for name in sys.modules))"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "False\n"
