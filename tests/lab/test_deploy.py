"""Deploying on a real Docker Engine over a real SSH server, with the real derper."""

import itertools
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from containers.deploy import read_differences, read_ours, remove_orphans
from containers.image import build_image, build_placeholder, compile_derper
from fleet.engine import open_engine
from fleet.ssh import Connection, Endpoint
from tests.containers.deploying import OTHER_PANEL, PANEL, STEPS, DeployBehaviour, Host
from tests.lab.host import Host as LabHost
from tests.lab.hosts import lab

pytestmark = pytest.mark.lab


@pytest.fixture(scope="module")
def lab_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabHost]:
    with lab(1, tmp_path_factory.mktemp("lab")) as running:
        yield running.hosts[0]


@pytest.fixture(scope="module")
def deployed_to(lab_host: LabHost, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("image")
    archive = build_image(compile_derper(folder), folder)
    endpoint = Endpoint(
        lab_host.address, lab_host.ssh_port, lab_host.user, lab_host.host_key, lab_host.private_key
    )
    connection = Connection.open(endpoint)
    yield Host(
        open_engine(connection, lab_host.docker_socket), lab_host.address, itertools.count(30000), archive
    )
    connection.close()


@pytest.fixture
def host(deployed_to: Host) -> Iterator[Host]:
    deployed_to.steps.clear()
    yield deployed_to
    for panel_id in (PANEL, OTHER_PANEL):
        remove_orphans(deployed_to.engine, panel_id, lambda _standing: ())


class TestDeployInTheLab(DeployBehaviour):
    """What every fleet promises."""


def test_hardening_is_what_the_engine_holds_when_inspected(host: Host) -> None:
    spec = host.spec()
    host.make(spec)
    inspected = host.engine.inspect_container(spec.container_name)
    config = inspected["HostConfig"]
    assert inspected["Config"]["User"] == "65532:65532"
    assert config["ReadonlyRootfs"] is True
    assert config["CapDrop"] == ["ALL"]
    assert not config["CapAdd"]
    assert config["Privileged"] is False
    assert config["SecurityOpt"] == ["no-new-privileges"]
    assert config["Memory"] == 128 * 1024 * 1024
    assert config["PidsLimit"] == 256
    assert config["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert config["RestartPolicy"]["Name"] == "unless-stopped"
    assert list(inspected["NetworkSettings"]["Networks"]) == ["derpmgmt"]
    for secret in (spec.private_key, spec.mesh_key, spec.certificate_key_pem):
        assert secret not in str(inspected)


def test_hardening_is_what_the_kernel_holds_when_running(host: Host) -> None:
    spec = host.spec()
    host.make(spec)
    process = Path("/proc", str(host.engine.inspect_container(spec.container_name)["State"]["Pid"]))
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert status["NoNewPrivs"] == "1"
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    [root] = [mount for mount in mounts if mount[4] == "/"]
    assert "ro" in root[5].split(",")
    command = (process / "cmdline").read_bytes().decode()
    assert spec.private_key not in command
    assert spec.mesh_key not in command


def test_files_are_for_the_relay_alone_when_put(host: Host) -> None:
    spec = host.spec()
    host.make(spec)
    folder = Path(host.engine.inspect_volume(spec.container_name)["Mountpoint"])
    assert (folder.stat().st_uid, stat.S_IMODE(folder.stat().st_mode)) == (0, 0o755)
    found = {path.name: path for path in folder.iterdir()}
    assert {f"/relay/{name}": path.read_bytes() for name, path in found.items()} == spec.files
    for path in found.values():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (path.stat().st_uid, path.stat().st_gid) == (65532, 65532)


def test_relay_makes_up_no_key_when_its_files_are_missing(host: Host) -> None:
    spec = host.spec()

    def stop_before_files(step: str) -> None:
        if step == "files":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        host.make(spec, stop_before_files)
    host.engine.start(spec.container_name)
    folder = Path(host.engine.inspect_volume(spec.container_name)["Mountpoint"])
    # It is started again with growing pauses, in which the state keeps the exit code. A wait may come between two exits.
    deadline = time.monotonic() + 10
    while not host.engine.inspect_container(spec.container_name)["State"]["ExitCode"]:
        assert time.monotonic() < deadline, "it has not ended with an error"
        time.sleep(0.02)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("change", ["memory", "restart", "network", "pause"])
def test_relay_is_replaced_when_somebody_changed_it(host: Host, change: str) -> None:
    spec = host.spec()
    host.make(spec)
    before, name = host.only(), spec.container_name
    if change == "memory":
        host.engine.update_container(name, mem_limit=2**30, memswap_limit=2**30)
        assert read_differences(host.engine, spec) == ["HostConfig.Memory", "HostConfig.MemorySwap"]
    elif change == "restart":
        host.engine.update_container(name, restart_policy={"Name": "no"})
        assert read_differences(host.engine, spec) == ["HostConfig.RestartPolicy"]
    elif change == "network":
        host.engine.disconnect_container_from_network(name, "derpmgmt")
        assert host.only().is_wired is False
    else:
        host.engine.pause(name)
    assert host.make(spec) is True
    assert host.steps == STEPS
    assert host.only().container_id != before.container_id
    assert host.only().is_wired is True
    assert host.make(spec) is False


def test_image_is_replaced_when_another_bears_its_tag(host: Host, tmp_path: Path) -> None:
    other = build_placeholder(tmp_path)
    host.make(host.spec())
    with other.path.open("rb") as file:
        list(host.engine.load_image(file))
    host.engine.tag(other.tag, *host.archive.tag.split(":"), force=True)
    assert host.make(host.spec(2)) is True
    assert {found.state for found in read_ours(host.engine, PANEL)} == {"running"}


def test_image_has_one_id_when_the_binary_is_compiled_again(host: Host, tmp_path: Path) -> None:
    again = build_image(compile_derper(tmp_path), tmp_path)
    assert again.path.read_bytes() == host.archive.path.read_bytes()
