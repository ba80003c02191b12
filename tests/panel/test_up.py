"""`manage.py up`, with real processes."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from derpmgmt.lib.valkey import is_answering
from derpmgmt.web import PROCESSES
from tests.panel.running import ROOT, Folder, Running, free_port, wait_for

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """A panel that has been started once and ended: keys, database and static files are there."""
    folder = Folder(tmp_path_factory.mktemp("prepared") / "var")
    with folder.running() as panel:
        panel.end(signal.SIGTERM)
    return folder


@pytest.fixture(scope="module")
def panel(prepared: Folder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A panel that runs, for tests that only look."""
    with prepared.copy_to(tmp_path_factory.mktemp("panel") / "var").running() as panel:
        yield panel


@pytest.fixture
def folder(prepared: Folder, tmp_path: Path) -> Folder:
    """A folder to start a panel in."""
    return prepared.copy_to(tmp_path / "var")


def test_up_serves_and_records_itself_when_it_is_ready(panel: Running) -> None:
    assert panel.get("/") == 200
    file = panel.folder.path / "running.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    record = panel.folder.record
    assert record["pid"] == panel.process.pid
    assert record["port"] == panel.folder.port
    assert record["demo"] is False


def test_commands_reach_the_panel_when_no_variable_is_set(panel: Running) -> None:
    seen = panel.folder.python(
        "import django_rq; from django.conf import settings;"
        "print(settings.PUBLIC_URL, django_rq.get_connection('default').ping())"
    )
    assert seen == f"http://127.0.0.1:{panel.folder.port} True"


def test_the_doctor_finds_a_panel_that_runs_well_and_says_what_it_lacks(panel: Running) -> None:
    done = panel.folder.manage("doctor", "--json")
    levels = {each["code"]: each["level"] for each in json.loads(done.stdout)}
    assert [levels[name] for name in ("database", "redis", "queues", "disk")] == ["good"] * 4
    # There are no servers yet.
    assert levels["too_few_servers"] == "critical"
    assert done.returncode == 2


def test_a_second_panel_is_refused_when_one_runs(panel: Running) -> None:
    second = panel.folder.manage("up", DERPMGMT_PORT=str(free_port()))
    assert second.returncode == 1
    assert str(panel.process.pid) in second.stderr
    assert str(panel.folder.path) in second.stderr
    assert "Traceback" not in second.stderr
    assert panel.folder.record["pid"] == panel.process.pid
    assert panel.get("/") == 200


def listening(panel: Running) -> set[int]:
    """The processes of the family that have the web server's socket, by their numbers; the panel's own is one of them."""
    (row,) = [
        line.split()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if line.split()[1].endswith(f":{panel.folder.port:04X}") and line.split()[3] == "0A"
    ]
    found = set()
    for pid in panel.family():
        with suppress(OSError):
            names = {str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}
            found |= {pid} if f"socket:[{row[9]}]" in names else set()
    return found


def test_processes_come_back_when_they_were_killed_and_all_end_when_it_is_terminated(folder: Folder) -> None:
    with folder.running() as panel:
        web = listening(panel) - {panel.process.pid}
        assert len(web) >= 2
        (valkey,) = panel.children("valkey-server")
        for pid in web:
            os.kill(pid, signal.SIGKILL)
        os.kill(valkey, signal.SIGKILL)

        wait_for(lambda: panel.get("/") == 200 and not web & panel.family(), "the web server answers again")
        wait_for(lambda: panel.children("valkey-server") - {valkey}, "another Valkey runs")

        assert panel.end(signal.SIGTERM) == 0
        assert not (folder.path / "running.json").exists()
        assert panel.get("/") == 0


RING = "import django_rq; [django_rq.get_queue(name).enqueue('accounts.jobs.send_notice', 0) for name in {names}]"
WAITING = "import django_rq; print(sum(django_rq.get_queue(name).count for name in {names}))"


def test_ps_shows_what_each_process_is(panel: Running) -> None:
    names = ["panel", "reaper", "valkey", "valkey-server", "workers", "worker slow"]
    names += [f"web {number}" for number in range(1, PROCESSES + 1)]
    assert len(panel.family()) == len(names)
    assert all(len(panel.named(name)) == 1 for name in names)


def test_queues_are_served_again_when_their_processes_were_killed(folder: Folder) -> None:
    names = ["default", "apply-0", "slow"]
    with folder.running() as panel:
        before = panel.named("workers") | panel.named("worker slow")
        assert len(before) == 2
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: panel.named("workers") - before, "the threads' process runs again")
        wait_for(lambda: panel.named("worker slow") - before, "the forking worker runs again")
        folder.python(RING.format(names=names))
        wait_for(lambda: folder.python(WAITING.format(names=names)) == "0", "the queues are served")


def test_workers_outlive_a_valkey_that_was_killed(folder: Folder) -> None:
    names = ["default", "apply-0", "slow"]
    with folder.running() as panel:
        workers = panel.named("workers")
        valkey = panel.named("valkey-server")
        for pid in valkey:
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: panel.named("valkey-server") - valkey, "another Valkey runs")
        wait_for(lambda: is_answering(folder.path), "it answers")
        folder.python(RING.format(names=names))
        wait_for(lambda: folder.python(WAITING.format(names=names)) == "0", "the queues are served")
        assert panel.named("workers") == workers


def test_each_queue_has_a_process_when_that_is_wanted(prepared: Folder, tmp_path: Path) -> None:
    shutil.copytree(prepared.path, tmp_path / "var")
    folder = Folder(tmp_path / "var", DERPMGMT_PROCESS_PER_QUEUE="yes", DERPMGMT_SHARDS="1")
    names = ["default", "notices", "admission", "proofs", "apply-0", "visit-0", "gate-0"]
    with folder.running() as panel:
        assert not panel.named("workers")
        # 15 letters of it are kept.
        assert all(len(panel.named(f"worker {name}"[:15])) == 1 for name in [*names, "slow"])
        folder.python(RING.format(names=names))
        wait_for(lambda: folder.python(WAITING.format(names=names)) == "0", "the queues are served")


def test_pages_answer_beside_clients_that_send_slowly(panel: Running) -> None:
    with ExitStack() as stack:
        address = ("127.0.0.1", panel.folder.port)
        clients = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(100)]
        for client in clients[:50]:
            client.sendall(b"GET / HTTP/1.1\r\nHost: ")
        for client in clients[50:]:
            client.sendall(
                b"POST /accounts/login/ HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\n"
            )
        assert [panel.get("/") for _ in range(5)] == [200] * 5


def test_data_is_found_and_nothing_is_left_when_the_parent_was_killed(folder: Folder) -> None:
    with folder.running() as panel:
        folder.python(
            "from accounts.services import create_user; create_user(email='mei@example.com', username='mei')"
        )
        before = panel.family()
        folder.python("import django_rq, time; django_rq.get_queue('slow').enqueue(time.sleep, 600)")
        wait_for(lambda: len(panel.family()) > len(before), "a job runs in a process of its own")

        panel.end(signal.SIGKILL)
        assert (folder.path / "running.json").exists()

    # A record that a killed panel left behind counts for nothing.
    assert (
        folder.python("from django.conf import settings; print(settings.PUBLIC_URL)")
        == "http://127.0.0.1:8000"
    )
    with folder.running():
        people = folder.python("from accounts.models import User; print(User.objects.get().email)")
        assert people == "mei@example.com"


def test_the_panel_ends_when_make_is_killed(folder: Folder, tmp_path: Path) -> None:
    # make stands between the person and the panel; here Python does.
    make = "import subprocess, sys; subprocess.run([sys.executable, 'manage.py', 'up', '--with-parent'])"
    environment = folder.environment(DERPMGMT_PORT=str(folder.port))
    process = subprocess.Popen(
        [sys.executable, "-c", make], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    panel = Running(folder, process)
    try:
        wait_for((folder.path / "running.json").exists, "the panel is ready")
    finally:
        panel.end(signal.SIGKILL)
    assert not (folder.path / "running.json").exists()


def test_a_copy_is_refused_at_once_beside_its_original(panel: Running, tmp_path: Path) -> None:
    """As `cp -r` makes it; with the sockets' folder elsewhere too, which must stay its original's."""
    shutil.copytree(
        panel.folder.path, tmp_path / "var", ignore=lambda _folder, names: {"valkey.sock"} & set(names)
    )
    copy = Folder(tmp_path / "var")
    began = time.monotonic()
    done = copy.manage("up", DERPMGMT_PORT=str(copy.port))
    assert done.returncode == 1
    assert time.monotonic() - began < 30
    assert str(copy.path) in done.stderr
    assert str(panel.folder.path) in done.stderr
    assert str(panel.process.pid) in done.stderr
    assert "Traceback" not in done.stderr
    assert panel.get("/") == 200


def test_nothing_is_started_when_the_port_is_taken(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "var")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        done = folder.manage("up", DERPMGMT_PORT=port)
    assert done.returncode == 1
    assert port in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder.path / "valkey").exists()


def test_the_panel_ends_when_its_keys_are_gone(folder: Folder) -> None:
    shutil.rmtree(folder.path / "keys")
    done = folder.manage("up")
    assert done.returncode == 1
    assert str(folder.path / "keys") in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder.path / "keys").exists()


def test_no_keys_are_made_when_an_external_database_is_in_use(folder: Folder, tmp_path: Path) -> None:
    elsewhere = Folder(tmp_path / "elsewhere", DERPMGMT_DATABASE_URL=f"sqlite:///{folder.path}/panel.sqlite3")
    done = elsewhere.manage("up", DERPMGMT_PORT=str(elsewhere.port))
    assert done.returncode == 1
    assert str(elsewhere.path / "keys") in done.stderr
    assert not any((elsewhere.path / "keys").iterdir())


def test_the_panel_ends_when_its_keys_are_another_panels(folder: Folder, tmp_path: Path) -> None:
    folder.python(
        "from fleet.models import SshCredential; SshCredential.objects.create(name='a', password='secret')"
    )
    (folder.path / "keys" / "fields").write_text(Fernet.generate_key().decode())
    done = folder.manage("up", DERPMGMT_PORT=str(folder.port))
    assert done.returncode == 1
    assert str(folder.path / "keys") in done.stderr
    assert "Traceback" not in done.stderr


def test_the_socket_lies_elsewhere_when_the_path_is_too_long(prepared: Folder, tmp_path: Path) -> None:
    folder = prepared.copy_to(tmp_path / ("long" * 30) / "var")
    with folder.running() as panel:
        assert panel.get("/") == 200
        assert folder.python("import django_rq; print(django_rq.get_connection('default').ping())") == "True"
        path = Path(folder.record["redis_url"].removeprefix("unix://")).parent
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        assert not path.is_relative_to(folder.path)
    shutil.rmtree(path)
