"""The SSH client and the Docker client against real OpenSSH servers and real Docker Engines, whole and broken."""

import hashlib
import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker.errors
import pytest

from fleet import ssh
from fleet.engine import Engine, EngineError, engine_errors, open_engine
from fleet.facts import read_facts
from fleet.ssh import Connection, ConnectionPool, Endpoint, HostKey, read_host_key
from tests.lab import network
from tests.lab.hosts import Host, Lab, lab
from tests.lab.kinds import ROOTLESS

pytestmark = pytest.mark.lab
IMAGE = "lab/shell:1"


def endpoint(host: Host) -> Endpoint:
    return Endpoint(host.address, host.ssh_port, host.user, host.host_key, host.private_key)


@pytest.fixture
def host(running_lab: Lab) -> Host:
    return running_lab.hosts[0]


@pytest.fixture
def connection(host: Host) -> Iterator[Connection]:
    opened = Connection.open(endpoint(host))
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image made by hand of this machine's shell and the libraries it needs."""
    programs = ["/bin/dash", "/bin/sleep", "/bin/cat"]
    linked = subprocess.run(["ldd", *programs], check=True, capture_output=True, text=True).stdout
    files = {path: path for path in linked.split() if path.startswith("/") and not path.endswith(":")}
    files |= {program: program for program in programs} | {"/bin/sh": "/bin/dash"}

    def pack(contents: dict[str, bytes]) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, data in contents.items():
                entry = tarfile.TarInfo(name.lstrip("/"))
                entry.size, entry.mode = len(data), 0o755
                tar.addfile(entry, io.BytesIO(data))
        return packed.getvalue()

    layer = pack({name: Path(source).read_bytes() for name, source in files.items()})
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "100"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    image = pack(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )
    path = tmp_path_factory.mktemp("image") / "shell.tar"
    path.write_bytes(image)
    return path


@pytest.fixture
def engine(host: Host, connection: Connection, archive: Path) -> Iterator[Engine]:
    """The first host's Engine, with the image and, after the test, without containers."""
    opened = open_engine(connection, host.docker_socket)
    if not opened.images(IMAGE):
        with archive.open("rb") as data:
            list(opened.load_image(data))
    yield opened
    with Connection.open(endpoint(host)) as fresh:
        tidy = open_engine(fresh, host.docker_socket)
        for container in tidy.containers(all=True):
            tidy.remove_container(container["Id"], force=True, v=True)


def run_container(engine: Engine, command: list[str], *, port: int = 0, name: str | None = None) -> str:
    bound: Any = {f"{port}/tcp": ("127.0.0.1", port)} if port else None
    made = engine.create_container(
        IMAGE,
        command,
        name=name,
        ports=[port] if port else None,
        host_config=engine.create_host_config(port_bindings=bound),
    )
    engine.start(made["Id"])
    return str(made["Id"])


def test_host_key_is_read_when_asked(host: Host) -> None:
    assert read_host_key(host.address, host.ssh_port).line == host.host_key


def test_command_runs_on_the_host_when_signed_in(host: Host, connection: Connection) -> None:
    result = connection.run("cat; echo there; readlink /proc/self/ns/net >&2; exit 5")
    assert (result.status, result.stdout) == (5, b"there\n")
    assert result.stderr.strip() == f"net:[{Path('/run/netns', host.netns).stat().st_ino}]".encode()


def test_facts_are_the_hosts_when_read(host: Host, connection: Connection) -> None:
    before = read_facts(connection, host.docker_socket, host.data_root)
    connection.run("head -c 500000 /dev/zero")
    after = read_facts(connection, host.docker_socket, host.data_root)
    assert abs(before.clock_offset) < 2
    assert before.docker_usable
    assert before.boot_id == Path(host.folder, "boot_id").read_text().strip()
    assert before.interface == "eth0"
    assert after.sent_bytes - before.sent_bytes > 500000
    disk = os.statvfs(host.data_root)
    assert before.disk_total_bytes == disk.f_blocks * disk.f_frsize


def test_facts_say_no_docker_when_its_socket_is_absent(connection: Connection) -> None:
    facts = read_facts(connection, "/run/absent.sock")
    assert not facts.docker_socket


def test_image_loads_from_a_file_and_a_container_runs_when_the_host_had_none(
    engine: Engine, archive: Path
) -> None:
    engine.remove_image(IMAGE, force=True)
    with pytest.raises(EngineError) as caught, engine_errors():
        run_container(engine, ["/bin/sleep", "1"])
    assert caught.value.code == "image_missing"
    with archive.open("rb") as data:
        lines = list(engine.load_image(data))
    assert f"Loaded image: {IMAGE}" in str(lines)
    container = run_container(engine, ["/bin/sh", "-c", "echo out; echo err >&2; exit 4"])
    assert engine.wait(container)["StatusCode"] == 4
    assert engine.logs(container, stderr=False) == b"out\n"
    assert engine.logs(container, stdout=False) == b"err\n"
    assert b"".join(sorted(engine.logs(container, stream=True))) == b"err\nout\n"


def test_exec_and_attach_carry_streams_when_container_runs(engine: Engine) -> None:
    container = run_container(engine, ["/bin/sh", "-c", "sleep 0.3; echo ticked; sleep 100"])
    attached = engine.attach(container, stream=True)
    script = ["/bin/sh", "-c", "cat /etc/hostname; echo err >&2"]
    for _ in range(5):  # the answer must not be lost when it comes together with the headers
        both = engine.exec_start(engine.exec_create(container, script)["Id"], demux=True)
        assert both == (container[:12].encode() + b"\n", b"err\n")
    assert next(attached) == b"ticked\n"
    terminal = engine.exec_create(container, ["/bin/sh", "-c", "echo there"], tty=True)["Id"]
    assert engine.exec_start(terminal, tty=True) == b"there\r\n"
    assert engine.exec_inspect(terminal)["ExitCode"] == 0


def test_files_arrive_with_their_mode_when_put_into_a_created_container(engine: Engine) -> None:
    container = engine.create_container(IMAGE, ["/bin/cat", "/kept/secret"], volumes=["/kept"])["Id"]
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        entry = tarfile.TarInfo("secret")
        entry.size, entry.mode = 5, 0o600
        tar.addfile(entry, io.BytesIO(b"bytes"))
    assert engine.put_archive(container, "/kept", packed.getvalue())
    engine.start(container)
    engine.wait(container)
    assert engine.logs(container) == b"bytes"


def test_port_is_taken_when_another_container_has_it(engine: Engine) -> None:
    run_container(engine, ["/bin/sleep", "100"], port=4321)
    with pytest.raises(EngineError) as caught, engine_errors():
        run_container(engine, ["/bin/sleep", "100"], port=4321)
    assert caught.value.code == "port_taken"


def test_address_is_missing_when_the_host_does_not_have_it(engine: Engine) -> None:
    host_config = engine.create_host_config(port_bindings={"80/tcp": ("192.0.2.77", 4322)})
    made = engine.create_container(IMAGE, ["/bin/sleep", "9"], ports=[80], host_config=host_config)
    with pytest.raises(EngineError) as caught, engine_errors():
        engine.start(made["Id"])
    assert caught.value.code == "address_missing"


@pytest.mark.parametrize(
    ("code", "work"),
    [
        ("not_found", lambda engine: engine.inspect_container("absent")),
        ("not_found", lambda engine: engine.inspect_network("absent")),
        ("not_found", lambda engine: engine.inspect_volume("absent")),
        ("image_missing", lambda engine: engine.inspect_image("absent")),
        ("conflict", lambda engine: [engine.create_container(IMAGE, name="twin") for _ in range(2)]),
        ("runtime", lambda engine: run_container(engine, ["/absent"])),
    ],
)
def test_engines_words_are_understood_when_it_refuses(engine: Engine, code: str, work: object) -> None:
    assert callable(work)
    with pytest.raises(EngineError) as caught, engine_errors():
        work(engine)
    assert caught.value.code == code


def test_docker_command_is_used_when_ssh_forbids_forwarding(host: Host) -> None:
    host.allow_forwarding(False)
    try:
        with Connection.open(endpoint(host)) as connection:
            with pytest.raises(ssh.ForwardingRefused):
                connection.open_unix(host.docker_socket)
            engine = open_engine(connection, host.docker_socket)
            assert engine.info()["DockerRootDir"] == host.data_root
    finally:
        host.allow_forwarding(True)


def test_reason_is_told_when_docker_is_stopped_or_killed(host: Host) -> None:
    try:
        host.kill_docker()
        with Connection.open(endpoint(host)) as connection, pytest.raises(EngineError) as caught:
            open_engine(connection, host.docker_socket)
        assert caught.value.code == "daemon_down"
    finally:
        host.start_docker()
    try:
        host.stop_docker()
        with Connection.open(endpoint(host)) as connection, pytest.raises(EngineError) as caught:
            open_engine(connection, host.docker_socket)
        assert caught.value.code == "no_docker"
    finally:
        host.start_docker()


def test_kept_engine_works_again_when_docker_was_restarted(host: Host, engine: Engine) -> None:
    container = engine.create_container(IMAGE)["Id"]
    host.kill_docker()
    host.start_docker()
    with engine_errors():
        assert engine.inspect_container(container)["Id"] == container


def test_request_times_out_and_drops_the_connection_when_docker_hangs(host: Host, engine: Engine) -> None:
    engine.timeout = 1
    host.freeze_docker()
    try:
        with pytest.raises(ssh.TimedOut), engine_errors():
            engine.info()
    finally:
        host.thaw_docker()
    assert not engine.connection.is_alive


def test_open_times_out_when_ssh_hangs(host: Host) -> None:
    host.freeze_ssh()
    try:
        with pytest.raises(ssh.TimedOut):
            Connection.open(endpoint(host), 1)
    finally:
        host.thaw_ssh()


def test_pool_replaces_a_connection_when_its_session_hangs(host: Host) -> None:
    pool = ConnectionPool(timeout=5)
    first = pool.get(endpoint(host))
    host.freeze_ssh()
    try:
        with pytest.raises(ssh.TimedOut):
            first.run("true", timeout=0.5)
    finally:
        host.thaw_ssh()
    second = pool.get(endpoint(host))
    assert second is not first
    assert second.run("echo there").stdout == b"there\n"
    pool.close()


def test_open_is_unreachable_when_ssh_is_stopped(host: Host) -> None:
    host.stop_ssh()
    try:
        with pytest.raises(ssh.Unreachable) as caught:
            Connection.open(endpoint(host))
        assert caught.value.code == "refused"
    finally:
        host.start_ssh()


def test_running_work_ends_in_time_when_the_network_is_cut(host: Host) -> None:
    with Connection.open(endpoint(host)) as connection:
        host.cut_network()
        try:
            with pytest.raises(ssh.TimedOut):
                connection.run("true", timeout=1)
            with pytest.raises((ssh.TimedOut, ssh.Unreachable)):
                Connection.open(endpoint(host), 1)
        finally:
            host.mend_network()
    assert not connection.is_alive
    with Connection.open(endpoint(host)) as again:
        assert again.run("echo there").stdout == b"there\n"


def test_host_is_refused_when_its_key_changed(host: Host) -> None:
    new = host.change_host_key()
    try:
        with pytest.raises(ssh.HostKeyChanged) as caught:
            Connection.open(endpoint(host))
        assert caught.value.pinned == HostKey.from_line(host.host_key).fingerprint
        assert caught.value.presented == HostKey.from_line(new).fingerprint
    finally:
        host.restore_host_key()
    with Connection.open(endpoint(host)) as connection:
        assert connection.is_alive


def test_hosts_do_not_share_anything_when_there_are_three(running_lab: Lab, archive: Path) -> None:
    hosts = running_lab.hosts[:3]
    assert len({host.host_key for host in hosts}) == len({host.address for host in hosts}) == 3
    connections = [Connection.open(endpoint(host)) for host in hosts]
    engines = [
        open_engine(connection, host.docker_socket)
        for connection, host in zip(connections, hosts, strict=True)
    ]
    assert len({engine.info()["ID"] for engine in engines}) == 3
    facts = [
        read_facts(connection, host.docker_socket, host.data_root)
        for connection, host in zip(connections, hosts, strict=True)
    ]
    assert len({fact.boot_id for fact in facts}) == 3
    for engine in engines:
        with archive.open("rb") as data:
            list(engine.load_image(data))
        engine.create_container(IMAGE, name="same")
    for engine in engines:
        assert [item["Names"] for item in engine.containers(all=True)] == [["/same"]]
        engine.remove_container("same")
        engine.connection.close()


def test_lab_reuses_what_runs_and_replaces_what_died_when_brought_up_again(tmp_path: Path) -> None:
    with lab(1, tmp_path / "own") as own:
        host = own.hosts[0]
        with Connection.open(endpoint(host)) as connection:
            before = open_engine(connection, host.docker_socket).info()["ID"]
            own.up(1)
            assert connection.ping()
            host.kill_docker()
            own.up(1)
            assert open_engine(connection, host.docker_socket).info()["ID"] == before
        assert own.hosts == [host]


def test_each_good_host_is_of_its_kind(running_lab: Lab, archive: Path) -> None:
    plain, printing, unforwarded = running_lab.hosts[:3]
    assert [proxies_of(host) for host in (plain, printing, unforwarded)] == [False] * 3
    for host, is_proxied in ((plain, True), (printing, False), (unforwarded, True)):
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "100"], port=4333)
            assert proxies_of(host) is is_proxied
            engine.remove_container(container, force=True)
    # OpenSSH's own client: the panel's leaves out what a login shell prints.
    how = [
        "-i",
        printing.private_key_path,
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    said = subprocess.run(
        ["ssh", *how, f"{printing.user}@{printing.address}", "echo said"], check=True, capture_output=True
    )
    lines = said.stdout.decode().splitlines()
    assert lines[0] == f"Welcome to {printing.name}!"
    assert lines[-2:] == ["said", f"Good-bye from {printing.name}."]
    with Connection.open(endpoint(unforwarded)) as connection, pytest.raises(ssh.ForwardingRefused):
        connection.open_unix(unforwarded.docker_socket)


def proxies_of(host: Host) -> bool:
    """Whether Docker's proxy stands before a port of the host."""
    return any(
        b"docker-proxy" in Path(f"/proc/{pid}/cmdline").read_bytes()
        for pid in network.pids_in_namespace(host.netns)
    )


def test_rootless_host_runs_containers_of_its_user(rootless_host: Host, archive: Path) -> None:
    with Connection.open(endpoint(rootless_host)) as connection:
        assert connection.run("id -un").stdout == b"relays\n"
        engine = open_engine(connection, rootless_host.docker_socket)
        assert "name=rootless" in engine.info()["SecurityOptions"]
        with archive.open("rb") as data:
            list(engine.load_image(data))
        container = run_container(engine, ["/bin/sleep", "100"], port=4334)
        assert engine.inspect_container(container)["State"]["Status"] == "running"
        engine.remove_container(container, force=True)


def test_nothing_is_left_when_a_rootless_host_is_taken_down(tmp_path: Path, archive: Path) -> None:
    own = Lab(tmp_path / "own")
    try:
        host = own.up(1, [ROOTLESS])[0]
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "1000"])
            running = engine.inspect_container(container)["State"]["Pid"]
            assert network.is_running(running)
        (own.state / "lab.json").unlink()
        host.kill_docker()
    finally:
        own.down()
    assert not network.is_running(running)
    assert own.mark not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{own.mark}"))
    assert not own.state.exists()
    assert not own.runtime.exists()


def test_nothing_is_left_when_a_lab_with_running_containers_is_taken_down(
    tmp_path: Path, archive: Path
) -> None:
    own = Lab(tmp_path / "own")
    try:
        host = own.up(1)[0]
        with Connection.open(endpoint(host)) as connection:
            engine = open_engine(connection, host.docker_socket)
            with archive.open("rb") as data:
                list(engine.load_image(data))
            container = run_container(engine, ["/bin/sleep", "1000"])
            running = engine.inspect_container(container)["State"]["Pid"]
        (own.state / "lab.json").unlink()  # as a crash half-way leaves it
        host.kill_docker()
    finally:
        own.down()
    assert not network.is_running(running)
    assert not network.namespaces_of(own.mark)
    assert not network.interface_exists(own.bridge)
    assert not network.interface_exists(host.wire)
    assert own.mark not in Path("/proc/self/mountinfo").read_text()
    assert str(own.state) not in Path("/proc/self/mountinfo").read_text()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/{own.mark}"))
    assert not own.state.exists()
    assert not own.runtime.exists()


def test_kept_connection_serves_many_runs_when_containers_come_and_go(engine: Engine) -> None:
    times = []
    for _ in range(10):
        begin = time.perf_counter()
        container = run_container(engine, ["/bin/sleep", "100"])
        times.append(time.perf_counter() - begin)
        engine.remove_container(container, force=True)
    print(f"docker run over a kept connection: median {sorted(times)[5]:.3f} s of 10")
    assert engine.containers(all=True) == []
    with pytest.raises(docker.errors.NotFound):
        engine.inspect_container(container)
