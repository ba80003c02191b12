"""The SSH client and the Docker client against real OpenSSH servers and real Docker Engines, whole and broken."""

import io
import os
import tarfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import docker.errors
import pytest

from fleet import ssh
from fleet.engine import Engine, engine_errors, open_engine
from fleet.engine_errors import EngineError
from fleet.facts import read_facts
from fleet.ssh import Connection, ConnectionPool, HostKey, read_host_key
from tests.lab.host import Host
from tests.lab.hosts import Lab
from tests.lab.shell_image import IMAGE, endpoint, run_container

pytestmark = pytest.mark.lab


@pytest.fixture
def host(running_lab: Lab) -> Host:
    return running_lab.hosts[0]


@pytest.fixture
def connection(host: Host) -> Iterator[Connection]:
    opened = Connection.open(endpoint(host))
    yield opened
    opened.close()


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
    assert before.disk.total_bytes == disk.f_blocks * disk.f_frsize


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


@pytest.mark.parametrize("forwards", [True, False])
def test_engine_and_scripts_work_when_ssh_runs_one_command_at_a_time(
    host: Host, engine: Engine, forwards: bool
) -> None:
    host.allow_forwarding(forwards, "MaxSessions 1")
    try:
        with Connection.open(endpoint(host)) as connection:
            single = open_engine(connection, host.docker_socket)
            for _ in range(3):
                assert read_facts(connection, host.docker_socket, host.data_root).docker_usable
                container = run_container(single, ["/bin/sh", "-c", "echo out"])
                assert single.wait(container)["StatusCode"] == 0
                assert single.logs(container) == b"out\n"
            with ThreadPoolExecutor(3) as threads:
                told = threads.map(
                    lambda _: open_engine(connection, host.docker_socket).info()["DockerRootDir"], range(6)
                )
                assert set(told) == {host.data_root}
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
