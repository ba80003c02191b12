"""A sandbox fails as hosts fail: what the panel's client sees of each fault, and that it is gone when healed."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from containers.deploy import ensure_image
from containers.image import build_placeholder
from derpmgmt.sandbox.fleet import Sandbox
from fleet.engine import Engine, engine_errors, open_engine
from fleet.engine_errors import EngineError
from fleet.facts import FACTS_SCRIPT, read_facts
from fleet.ssh import (
    AuthenticationFailed,
    CommandFailed,
    Connection,
    ForwardingRefused,
    HostKeyChanged,
    RemoteError,
    TimedOut,
    Unreachable,
    read_host_key,
)
from tests.sandbox.parts import connect, endpoint_of, load_image, make_relay
from tests.sandbox.talk import tar_of


def code_of(error: pytest.ExceptionInfo[RemoteError]) -> str:
    return error.value.code


def test_strangers_stay_out_when_their_key_is_another(tmp_path: Path, subnet: str) -> None:
    with (
        Sandbox(tmp_path / "one", servers=1, subnet=subnet) as ours,
        Sandbox(tmp_path / "two", servers=1, subnet=subnet) as theirs,
    ):
        stranger = Path(theirs.hosts[0].private_key_path).read_text()
        for changes in (
            {"private_key": stranger},
            {"private_key": "", "password": "guess"},
            {"user": "nobody"},
        ):
            with pytest.raises(AuthenticationFailed):
                Connection.open(endpoint_of(ours.hosts[0], **changes), 10.0)


def test_password_opens_when_one_is_set(tmp_path: Path, subnet: str) -> None:
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet, password="pass phrase") as sandbox:
        host = sandbox.hosts[0]
        assert "pass phrase" not in repr(host)
        with pytest.raises(AuthenticationFailed):
            Connection.open(endpoint_of(host, private_key="", password="other"), 10.0)
        Connection.open(endpoint_of(host, private_key="", password="pass phrase"), 10.0).close()


def test_changed_host_key_is_noticed_when_the_server_shows_another(sandbox: Sandbox) -> None:
    host = sandbox.hosts[0]
    assert read_host_key(host.address, host.ssh_port, 10.0).line == host.host_key

    sandbox.server(0).fault(other_host_key=True)

    other = read_host_key(host.address, host.ssh_port, 10.0).line
    assert other == read_host_key(host.address, host.ssh_port, 10.0).line != host.host_key
    with pytest.raises(HostKeyChanged):
        Connection.open(endpoint_of(host), 10.0)
    sandbox.server(0).heal()
    Connection.open(endpoint_of(host), 10.0).close()


def test_connection_and_relay_are_lost_and_back_when_the_server_was_down(
    sandbox: Sandbox, engine: Engine, image: str
) -> None:
    relay = make_relay(sandbox.hosts[0], image)
    relay.run(engine)

    sandbox.server(0).fault(down=True)

    with pytest.raises(Unreachable), engine_errors():
        engine.ping()
    with pytest.raises(Unreachable) as error:
        Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)
    assert code_of(error) == "refused"
    assert relay.probe().step == "connect"
    connect(sandbox.hosts[1])[0].close()
    sandbox.server(0).heal()
    assert relay.probe().ok
    connection, engine = connect(sandbox.hosts[0])
    assert engine.inspect_container(relay.name)["State"]["Running"]
    connection.close()


def test_old_and_new_connections_get_no_answer_when_the_server_hangs(sandbox: Sandbox) -> None:
    connection, engine = connect(sandbox.hosts[0], timeout=0.5)

    sandbox.server(0).fault(ssh_hung=True)

    with pytest.raises(TimedOut), engine_errors():
        engine.ping()
    with pytest.raises(TimedOut):
        Connection.open(endpoint_of(sandbox.hosts[0]), 0.5)
    connection.close()
    sandbox.server(0).heal()
    connect(sandbox.hosts[0])[0].close()


@pytest.mark.parametrize(("docker", "code"), [("absent", "no_docker"), ("down", "daemon_down")])
def test_reason_is_told_when_docker_does_not_answer(sandbox: Sandbox, docker: str, code: str) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)

    sandbox.server(0).fault(docker=docker)

    with pytest.raises(EngineError) as error:
        open_engine(connection, sandbox.hosts[0].docker_socket, 10.0)
    assert code_of(error) == code
    sandbox.server(0).heal()
    assert open_engine(connection, sandbox.hosts[0].docker_socket, 10.0).ping()
    connection.close()


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        ({"turns_away": True}, "turned_away", "Not allowed at this time"),
        ({"old_algorithms": True}, "no_common_kex", "diffie-hellman-group1-sha1"),
    ],
)
def test_servers_words_are_told_when_its_ssh_agrees_to_nothing(
    sandbox: Sandbox, fault: dict[str, object], code: str, words: str
) -> None:
    host = sandbox.hosts[0]
    sandbox.server(0).fault(**fault)

    for ask in (
        lambda: read_host_key(host.address, host.ssh_port, 2.0),
        lambda: Connection.open(endpoint_of(host), 2.0),
    ):
        with pytest.raises(Unreachable) as error:
            ask()
        assert code_of(error) == code
        assert words in error.value.detail
    sandbox.server(0).heal()
    Connection.open(endpoint_of(host), 10.0).close()


@pytest.mark.parametrize(
    ("shell", "code", "words"),
    [
        ("nologin", "no_login_shell", "This account is currently not available."),
        ("expired", "password_expired", "Your password has expired"),
    ],
)
def test_servers_words_are_told_when_it_runs_no_command(
    sandbox: Sandbox, shell: str, code: str, words: str
) -> None:
    host = sandbox.hosts[0]
    connection = Connection.open(endpoint_of(host), 10.0)
    sandbox.server(0).fault(login_shell=shell, streamlocal_refused=True)

    for ask in (
        lambda: open_engine(connection, host.docker_socket, 10.0),
        lambda: read_facts(connection),
        lambda: connection.open_session_command("cat", 10.0),
    ):
        with pytest.raises(CommandFailed) as error:
            ask()
        assert code_of(error) == code
        assert words in error.value.detail
        assert "(status 1)" in error.value.detail
    connection.close()


def test_all_works_when_the_login_shell_prints(sandbox: Sandbox) -> None:
    host = sandbox.hosts[0]
    sandbox.server(0).fault(login_shell="prints", streamlocal_refused=True)
    connection = Connection.open(endpoint_of(host), 10.0)

    assert connection.run("echo there; echo wrong >&2").stdout == b"there\n"
    assert connection.run("echo there; echo wrong >&2").stderr == b"wrong\n"
    assert read_facts(connection).docker_usable

    sandbox.server(0).fault(docker="absent")
    with pytest.raises(EngineError) as error:
        open_engine(connection, host.docker_socket, 10.0)
    assert code_of(error) == "no_docker"
    sandbox.server(0).fault(docker="")
    assert open_engine(connection, host.docker_socket, 10.0).version()["ApiVersion"]
    connection.close()


def test_both_are_wanted_when_the_server_takes_the_key_and_then_the_password(
    tmp_path: Path, subnet: str
) -> None:
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet, password="pass phrase") as sandbox:
        sandbox.server(0).fault(wants_both=True)
        host = sandbox.hosts[0]
        with pytest.raises(AuthenticationFailed) as error:
            Connection.open(endpoint_of(host), 10.0)
        assert code_of(error) == "key_and_password"
        with pytest.raises(AuthenticationFailed) as error:
            Connection.open(endpoint_of(host, password="other"), 10.0)
        assert code_of(error) == "password_refused"
        with pytest.raises(AuthenticationFailed) as error:
            Connection.open(endpoint_of(host, private_key="", password="pass phrase"), 10.0)
        assert code_of(error) == "password_not_taken"
        Connection.open(endpoint_of(host, password="pass phrase"), 10.0).close()


def test_request_times_out_when_the_daemon_hangs(sandbox: Sandbox) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)
    sandbox.server(0).fault(docker="hung")

    with pytest.raises(TimedOut):
        open_engine(connection, sandbox.hosts[0].docker_socket, 0.5)

    sandbox.server(0).heal()
    connect(sandbox.hosts[0])[0].close()


def test_nothing_can_be_written_when_the_disk_is_full(
    sandbox: Sandbox, engine: Engine, image: str, tmp_path: Path
) -> None:
    relay, other = make_relay(sandbox.hosts[0], image, 1), make_relay(sandbox.hosts[0], image, 2)
    relay.create(engine)
    archive = build_placeholder(tmp_path, "arm64")

    sandbox.server(0).fault(disk_full=True)

    for write in (
        lambda: ensure_image(engine, archive),
        lambda: engine.put_archive(relay.name, "/relay", tar_of({"more": b"x"})),
        lambda: engine.create_container_from_config(other.spec.create_body, other.name),
        lambda: engine.start(relay.name),
        lambda: engine.create_network("more"),
    ):
        with pytest.raises(EngineError) as error, engine_errors():
            write()
        assert code_of(error) == "disk_full"
    sandbox.server(0).heal()
    engine.start(relay.name)
    assert relay.probe().ok


def test_container_ends_at_once_when_its_image_cannot_run(
    sandbox: Sandbox, engine: Engine, image: str
) -> None:
    sandbox.server(0).fault(broken_images=["derpmgmt/"])
    relay = make_relay(sandbox.hosts[0], image)
    relay.create(engine)
    engine.start(relay.name)

    while not (seen := engine.inspect_container(relay.name))["RestartCount"]:
        time.sleep(0.02)

    assert seen["State"]["ExitCode"] in (0, 1)
    assert b"exec /derper: exec format error\n" in engine.logs(relay.name)


@pytest.mark.parametrize("request_name", ["POST /containers/create", "POST /containers/{id}/start"])
def test_work_was_done_when_the_server_dies_after_it(
    sandbox: Sandbox, engine: Engine, image: str, request_name: str
) -> None:
    sandbox.server(0).fault(dies_after=request_name)
    relay = make_relay(sandbox.hosts[0], image)

    with pytest.raises(RemoteError), engine_errors():
        relay.run(engine)

    while not sandbox.server(0).faults.down:
        time.sleep(0.02)
    sandbox.server(0).heal()
    connection, engine = connect(sandbox.hosts[0])
    status = engine.inspect_container(relay.name)["State"]["Status"]
    assert status == ("created" if request_name.endswith("create") else "running")
    connection.close()


def test_facts_show_it_when_clock_disk_or_docker_are_wrong(sandbox: Sandbox) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)
    well = read_facts(connection)

    sandbox.server(0).fault(clock_offset=-7200, disk_full=True, docker="absent")
    wrong = read_facts(connection)

    assert abs(well.clock_offset) < 60
    assert abs(wrong.clock_offset + 7200) < 60
    assert (well.docker_usable, wrong.docker_socket) == (True, False)
    assert well.disk.free_bytes > wrong.disk.free_bytes == 0
    assert well.boot_id == wrong.boot_id
    connection.close()


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the script wants Linux")
def test_facts_have_the_lines_of_the_script_when_it_runs_on_linux(sandbox: Sandbox) -> None:
    import subprocess

    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)
    told = connection.run(FACTS_SCRIPT, 10.0).stdout.decode()
    real = subprocess.run(
        ["sh", "-c", FACTS_SCRIPT, "sh", "/nowhere", ""], capture_output=True, text=True, check=True
    ).stdout
    connection.close()

    # Not every machine has a default route, or containers.
    loose = {"interface", "received", "sent", "container"}
    names, real_names = ([line.split()[0] for line in text.splitlines()] for text in (told, real))
    assert [name for name in names if name not in loose] == [name for name in real_names if name not in loose]


def test_eleventh_command_is_refused_when_ten_run(sandbox: Sandbox) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)
    running = [connection.open_session_command("docker system dial-stdio", 10.0) for _ in range(10)]

    with pytest.raises(CommandFailed) as error:
        connection.run("true", timeout=0.5)
    assert code_of(error) == "too_few_sessions"

    for stream in running:
        stream.close()
    connection.close()


def test_command_runs_as_on_a_host_when_it_reads_nothing_writes_and_fails(sandbox: Sandbox) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)

    result = connection.run("cat; echo there; echo wrong >&2; exit 7", 10.0)

    assert (result.status, result.stdout, result.stderr) == (7, b"there\n", b"wrong\n")
    connection.close()


def test_other_sockets_are_out_of_reach_when_asked_for(sandbox: Sandbox) -> None:
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)

    with pytest.raises(ForwardingRefused):
        connection.open_unix("/run/other.sock", 10.0)

    connection.close()


def test_fault_is_in_force_when_written_into_the_file(sandbox: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "sandbox" / "faults.json"

    path.write_text(json.dumps({"sandbox-2": {"down": True}}))

    while not sandbox.server(1).faults.down:
        time.sleep(0.02)
    while True:
        try:
            connect(sandbox.hosts[1])[0].close()
        except Unreachable:
            break
    connect(sandbox.hosts[0])[0].close()


def test_image_is_gone_on_one_server_only_when_deleted_there(
    sandbox: Sandbox, engine: Engine, image: str, tmp_path: Path
) -> None:
    connection, second = connect(sandbox.hosts[1])
    load_image(second, tmp_path / "second")

    engine.remove_image(image)

    with pytest.raises(EngineError) as error, engine_errors():
        make_relay(sandbox.hosts[0], image).create(engine)
    assert code_of(error) == "image_missing"
    make_relay(sandbox.hosts[1], image).create(second)
    connection.close()


@pytest.mark.parametrize("forwards", [True, False])
def test_all_works_when_ssh_runs_one_command_at_a_time(sandbox: Sandbox, forwards: bool) -> None:
    sandbox.server(0).fault(max_sessions=1, streamlocal_refused=not forwards)
    host = sandbox.hosts[0]
    connection = Connection.open(endpoint_of(host), 10.0)
    engine = open_engine(connection, host.docker_socket, 10.0)

    for _ in range(3):
        assert read_facts(connection).docker_usable
        assert engine.version()["ApiVersion"]

    with ThreadPoolExecutor(4) as threads:
        assert len(list(threads.map(lambda _number: read_facts(connection).cores, range(8)))) == 8
    connection.close()


def test_reason_is_told_when_ssh_runs_no_command_at_all(sandbox: Sandbox) -> None:
    sandbox.server(0).fault(max_sessions=0)
    connection = Connection.open(endpoint_of(sandbox.hosts[0]), 10.0)

    with pytest.raises(CommandFailed) as error:
        connection.run("true", timeout=1)

    assert code_of(error) == "session_refused"
    connection.close()
