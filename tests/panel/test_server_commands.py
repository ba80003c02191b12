"""The operators' commands about servers: a failed addition is repaired, and every failure is told in words and as JSON."""

import json
import threading
import time
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import translation

from containers import jobs
from containers.models import Relay, ServerCheck
from containers.services import checks
from containers.services.checks import Finding
from derpmgmt import server_command
from derpmgmt.lib.commands import describe_error
from derpmgmt.sandbox.fleet import Sandbox, SandboxHost
from fleet.models import Region, Server, SshCredential
from fleet.services import record_failed_contact
from fleet.ssh import HostKey, TimedOut
from tests.factories import RegionFactory, RelayFactory, ServerCheckFactory, ServerFactory, WholeRentalFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


@pytest.fixture(autouse=True)
def english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that nobody asked for never ends: a test that waits for one fails sooner than people give up."""
    monkeypatch.setattr(server_command, "WAIT_SECONDS", 90)


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    import os
    import secrets

    subnet = f"127.{50 + os.getpid() % 50}.{secrets.randbelow(200) + 1}"
    with Sandbox(tmp_path / "sandbox", servers=2, subnet=subnet) as running:
        yield running


@pytest.fixture
def region() -> Region:
    return RegionFactory()


def run(*arguments: str) -> tuple[Any, str]:
    """What a command gives as JSON, and what it says without."""
    out, err = StringIO(), StringIO()
    call_command(*arguments, "--json", stdout=out, stderr=err)
    return json.loads(out.getvalue()), err.getvalue()


def refused(*arguments: str) -> dict[str, Any]:
    with pytest.raises(CommandError) as error:
        call_command(*arguments, stdout=StringIO(), stderr=StringIO())
    return describe_error(error.value) | {"returncode": error.value.returncode}


def add(host: SandboxHost, *more: str) -> list[str]:
    key = HostKey.from_line(host.host_key).fingerprint
    return ["server_add", host.address, "--region", "sh", "--ssh-port", str(host.ssh_port), "--key",
            host.private_key_path, "--host-key", key, *more]  # fmt: skip


class Worker:
    """Plays the worker of checks: each is ended as `outcome` says, one after the other. With `asks`, it also hears the bell
    of a host key that was confirmed."""

    def __init__(self, *outcomes: Finding | None, asks: bool = True) -> None:
        self._outcomes = list(outcomes)
        self._asks = asks
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join(60)

    def _run(self) -> None:
        deadline = time.monotonic() + 60
        while self._outcomes and time.monotonic() < deadline:
            for server in Server.objects.filter(status="new").exclude(host_key=""):
                if self._asks and not ServerCheck.objects.filter(server=server).exists():
                    jobs.request_check(server.pk)
            check = ServerCheck.objects.filter(status="queued").first()
            if check is not None and check.claim():
                finding = self._outcomes.pop(0)
                check.write("x", step="connect")
                check.write(step="docker")
                if finding is None:
                    Server.objects.filter(pk=check.server_id).update(status=Server.Status.HEALTHY)
                    check.finish("done")
                else:
                    checks.add_finding(check=check, finding=finding)
                    check.finish("failed", finding.problem)
            time.sleep(0.02)
        connection.close()


BROKEN = Finding("docker", False, "", {}, detail="permission denied", code="no_permission")


def test_failed_addition_goes_on_in_the_same_row_when_run_again(sandbox: Sandbox, region: Region) -> None:
    host = sandbox.hosts[0]
    with Worker(BROKEN):
        first = refused(*add(host, "--name", "one"))
    server = Server.objects.get()
    assert (server.status, server.name) == ("new", "one")
    assert first["code"] == "no_permission"
    assert "must be root or belong to the group docker" in first["message"]
    assert "permission denied" in first["message"]
    assert "server_check one" in first["message"]
    assert first["details"]["words"] == "permission denied"
    assert first["details"]["findings"][0]["step"] == "docker"

    listed, _said = run("server_list", "--status", "new")
    assert [(row["name"], row["words"]) for row in listed] == [("one", "permission denied")]
    assert "group docker" in listed[0]["reason"]

    with Worker(None):
        again, _said = run(*add(host, "--capacity", "9"))
    server.refresh_from_db()
    assert (again["id"], again["status"], server.capacity, server.name) == (server.pk, "healthy", 9, "one")
    assert Server.objects.count() == SshCredential.objects.count() == 1

    third = refused(*add(host))
    assert (third["code"], third["details"]) == ("server_exists", {"server": "one", "status": "healthy"})


def test_progress_names_steps_with_their_times_and_the_hosts_words(sandbox: Sandbox, region: Region) -> None:
    err = StringIO()
    with Worker(BROKEN), pytest.raises(CommandError):
        call_command(*add(sandbox.hosts[0]), stdout=StringIO(), stderr=err)
    said = err.getvalue()
    assert "Connect to the server: 0." in said
    assert "✗ The SSH user may not use the Docker Engine" in said
    assert "In its own words: permission denied" in said


def test_nothing_stays_when_a_server_is_refused(sandbox: Sandbox, region: Region) -> None:
    host = sandbox.hosts[0]
    answer = refused(*add(host, "--tcp-ports", "30000-20000"))
    assert answer["code"] == "invalid"
    assert "tcp_port_last" in answer["details"]
    assert not Server.objects.exists()
    assert not SshCredential.objects.exists()
    sandbox.server(0).fault(old_algorithms=True)
    answer = refused(*add(host))
    assert answer["code"] == "no_common_kex"
    assert answer["details"]["host"] == host.address
    assert answer["details"]["words"] in answer["message"]
    assert "diffie-hellman-group1-sha1" in answer["message"]


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (None, "key_unreadable", "无法读取"),
        (b"", "bad_key", "私钥"),
        (b"no key at all: hunter2", "bad_key", "私钥"),
        (b"ssh-ed25519 AAAA the public one", "bad_key", "私钥"),
        (b"\xff\xfe\x00", "bad_key", "私钥"),
    ],
)
def test_a_file_without_a_private_key_is_refused_before_anything_is_stored(
    sandbox: Sandbox, region: Region, tmp_path: Path, content: bytes | None, code: str, words: str
) -> None:
    path = tmp_path / "key"
    if content is not None:
        path.write_bytes(content)
    with translation.override("zh-hans"):
        answer = refused(*add(sandbox.hosts[0], "--key", str(path), "--no-wait"))
    assert answer["code"] == code
    assert words in answer["message"]
    assert "hunter2" not in str(answer)
    assert not Server.objects.exists()
    assert not SshCredential.objects.exists()
    server = ServerFactory(whole=True, region=region)
    assert refused("server_edit", server.name, "--key", str(path))["code"] == code


def test_credential_of_another_server_is_not_overwritten(sandbox: Sandbox, region: Region) -> None:
    first, second = sandbox.hosts
    run(*add(first, "--name", "one", "--no-wait"))
    Server.objects.update(name="old one")
    before = SshCredential.objects.get().pk
    run(*add(second, "--name", "one", "--no-wait", "--user", "admin"))
    assert SshCredential.objects.get(pk=before).username == "root"
    assert Server.objects.get(name="one").credential.username == "admin"


def test_server_is_checked_again_by_name_or_address(sandbox: Sandbox, region: Region) -> None:
    host = sandbox.hosts[0]
    run(*add(host, "--name", "one", "--no-wait"))
    with Worker(BROKEN, None, asks=False):
        assert refused("server_check", "one")["code"] == "no_permission"
        shown, _said = run("server_check", host.address)
    assert (shown["name"], shown["status"]) == ("one", "healthy")
    assert refused("server_check", "nobody")["code"] == "no_server"
    Server.objects.update(host_key="")
    assert refused("server_check", "one")["code"] == "host_key_unconfirmed"


def test_server_is_edited_by_the_options_given_alone(sandbox: Sandbox, region: Region) -> None:
    server = ServerFactory(whole=True, region=region)
    key = server.host_key
    other = RegionFactory(new=True)
    shown, _said = run(
        "server_edit", server.name, "--name", "new name", "--capacity", "7", "--region", other.code
    )
    server.refresh_from_db()
    assert (shown["name"], server.capacity, server.region, server.host_key) == ("new name", 7, other, key)
    run("server_edit", "new name", "--fail-open", "--bind-address", "10.0.0.9", "--tcp-ports", "21000-21999")
    server.refresh_from_db()
    assert (server.is_fail_open, server.bind_address, server.tcp_port_first) == (True, "10.0.0.9", 21000)
    run("server_edit", "new name", "--no-fail-open", "--bind-address", "")
    server.refresh_from_db()
    assert (server.is_fail_open, server.bind_address, server.capacity) == (False, None, 7)
    assert refused("server_edit", "new name") | {"message": ""} == {
        "code": "usage", "message": "", "details": {}, "returncode": 2,
    }  # fmt: skip
    assert refused("server_edit", "new name", "--capacity", "5000")["details"].keys() == {"capacity"}
    assert refused("server_edit", "new name", "--region", "xx")["code"] == "no_region"


def test_another_host_key_is_pinned_when_its_fingerprint_is_given(sandbox: Sandbox, region: Region) -> None:
    host = sandbox.hosts[0]
    run(*add(host, "--name", "one", "--no-wait"))
    sandbox.server(0).fault(other_host_key=True)
    answer = refused("server_edit", "one", "--host-key", HostKey.from_line(host.host_key).fingerprint)
    assert answer["code"] == "host_key_differs"
    run("server_edit", "one", "--host-key", answer["details"]["fingerprint"])
    pinned = HostKey.from_line(Server.objects.get().host_key).fingerprint
    assert pinned == answer["details"]["fingerprint"]


def test_server_is_removed_only_when_it_is_meant_and_holds_nothing(region: Region) -> None:
    server = ServerFactory(whole=True, region=region)
    answer = refused("server_remove", server.name)
    assert (answer["code"], answer["details"]) == ("not_confirmed", {"name": server.name})
    server.refresh_from_db()
    assert server.status == "healthy"
    relay = RelayFactory(rental=WholeRentalFactory(), slot=None, server=server, whole=True)
    assert refused("server_remove", server.name, "--yes")["code"] == "server_not_empty"
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.RELEASED)
    name = server.name
    shown, _said = run("server_remove", name, "--yes")
    assert (shown["name"], shown["status"]) == (name, "retired")
    assert refused("server_remove", name, "--yes")["code"] == "no_server"


def test_servers_are_listed_by_region_and_state_with_their_reason(region: Region) -> None:
    here, there = ServerFactory(whole=True, region=region), ServerFactory(whole=True)
    for _time in range(2):
        record_failed_contact(server_pk=there.pk, error=TimedOut())
    rows, _said = run("server_list")
    assert {row["name"]: row["reason"] for row in rows} == {
        here.name: "", there.name: "The server did not answer in time.",
    }  # fmt: skip
    assert [row["name"] for row in run("server_list", "--region", "sh")[0]] == [here.name]
    assert [row["name"] for row in run("server_list", "--status", "unhealthy", "new")[0]] == [there.name]
    assert refused("server_list", "--region", "nowhere")["code"] == "no_region"


def test_queries_of_the_list_do_not_grow_with_servers(region: Region, django_assert_num_queries: Any) -> None:
    for _number in range(5):
        ServerCheckFactory(server=ServerFactory(whole=True, region=region, status="new"), status="failed")
    with django_assert_num_queries(2):
        run("server_list")
