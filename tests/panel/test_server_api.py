"""Servers by the JSON API: added with a host key that is confirmed, checked, listed, put into maintenance, removed."""

import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.access.models import KeptAnswer, Scope
from accounts.models import OperationLog, User
from containers import jobs, server_api
from containers.models import Gate, ServerCheck
from containers.server_api import CheckState, GateShown
from derpmgmt.lib.jobs import JobRecord
from derpmgmt.sandbox.fleet import Sandbox, SandboxHost
from fleet import api as fleet_api
from fleet.api import ServerState
from fleet.models import Region, Server, SshCredential
from fleet.ssh import HostKey
from tests.api import Api
from tests.factories import (
    GateFactory,
    ProviderAccountFactory,
    RegionFactory,
    RelayFactory,
    ServerCheckFactory,
    ServerFactory,
    SshCredentialFactory,
    UserFactory,
)
from tests.factories.servers import HOST_KEY

pytestmark = [pytest.mark.django_db, pytest.mark.slow]

BROKEN_KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0IHdvcmRz\n-----END OPENSSH PRIVATE KEY-----\n"
KEY = HostKey.from_line(HOST_KEY)


@pytest.fixture
def admin(db: None) -> User:
    return UserFactory(email="admin@example.com", role=User.Role.ADMIN)


@pytest.fixture
def region(db: None) -> Region:
    return RegionFactory()


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    subnet = f"127.{50 + os.getpid() % 50}.{secrets.randbelow(200) + 1}"
    with Sandbox(tmp_path / "sandbox", servers=1, subnet=subnet) as running:
        yield running


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """A machine shows `KEY` wherever one connects to; where that was. Nobody connects while a transaction is open."""
    asked: list[tuple[str, int]] = []

    def read(host: str, port: int) -> HostKey:
        asked.append((host, port))
        return KEY

    monkeypatch.setattr(fleet_api, "read_host_key", read)
    return asked


def failure(answer: Any) -> tuple[int, str, str]:
    said = answer.json()
    assert said["success"] is False
    assert said["message"]
    return answer.status_code, said["code"], said["field"]


def adding(host: SandboxHost, **more: Any) -> dict[str, Any]:
    key = Path(host.private_key_path).read_text()
    return {
        "ip": host.address,
        "ssh_port": host.ssh_port,
        "region": "sh",
        "private_key": key,
        "name": "one",
        **more,
    }


def test_the_description_knows_every_state() -> None:
    assert list(get_args(ServerState)) == Server.Status.values
    assert list(get_args(CheckState)) == ["none", *JobRecord.Status.values]
    assert list(get_args(GateShown.model_fields["status"].annotation)) == Gate.Status.values


# Adding


@pytest.mark.django_db(transaction=True)
def test_a_server_is_added_confirmed_and_waits_for_its_check(
    sandbox: Sandbox, region: Region, admin: User
) -> None:
    host, api = sandbox.hosts[0], Api(admin)
    answer = api.post("server/add", adding(host, capacity=9), Idempotency_Key="one")

    assert answer.status_code == 200, answer.content
    said = answer.json()
    server = Server.objects.get()
    key = HostKey.from_line(host.host_key)
    assert (said["server_id"], said["fingerprint"], said["host_key"]) == (
        server.pk,
        key.fingerprint,
        key.line,
    )
    assert (said["state"], said["is_confirmed"]) == ("to_confirm", False)
    assert (server.status, server.host_key, server.capacity, server.name) == ("new", "", 9, "one")
    assert server.credential.private_key == Path(host.private_key_path).read_text()
    assert server.credential.username == "root"
    again = api.post("server/add", adding(host, capacity=9), Idempotency_Key="one")
    assert again.json() == said
    assert Server.objects.count() == SshCredential.objects.count() == 1

    other = api.post(f"server/{server.pk}/confirm_host_key", {"fingerprint": KEY.fingerprint})
    assert failure(other)[:2] == (409, "host_key_differs")
    assert other.json()["details"]["seen"] == key.fingerprint
    assert api.get(f"server/{server.pk}/host_key").json()["is_confirmed"] is False
    server.refresh_from_db()
    assert server.host_key == ""

    confirmed = api.post(f"server/{server.pk}/confirm_host_key", {"fingerprint": key.fingerprint})
    assert confirmed.status_code == 202, confirmed.content
    server.refresh_from_db()
    assert server.host_key == key.line
    assert api.get(f"server/{server.pk}/host_key").json()["is_confirmed"] is True
    follow = confirmed.json()["follow"].removeprefix("/api/v1/")
    assert api.get(follow).status_code == 202
    with Checker(server, "done"):
        done = api.get(f"{follow}&wait=25")
    assert (done.status_code, done.json()["status"], done.json()["is_over"]) == (200, "done", True)
    actions = OperationLog.objects.filter(actor=admin).values_list("action", flat=True)
    assert {"credential.created", "server.created", "server.host_key_confirmed"} <= set(actions)


class Checker:
    """Plays the worker: takes up the server's check, asked for by the bell of its key, and ends it."""

    def __init__(self, server: Server, status: str) -> None:
        self._server, self._status = server, status
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._thread.join(60)

    def _run(self) -> None:
        try:
            time.sleep(0.4)
            if not ServerCheck.objects.open().filter(server=self._server).exists():
                jobs.request_check(self._server.pk)
            check = ServerCheck.objects.filter(server=self._server, status="queued").get()
            assert check.claim()
            check.finish(self._status)
        finally:
            connection.close()


def test_the_key_is_read_outside_of_the_transaction_and_not_again(
    region: Region, admin: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    depths = []

    def read(host: str, port: int) -> HostKey:
        depths.append(len(connection.savepoint_ids))
        return KEY

    monkeypatch.setattr(fleet_api, "read_host_key", read)
    outside = len(connection.savepoint_ids)
    body = {"ip": "203.0.113.9", "region": "sh", "password": "pass-word"}
    for _ in range(2):
        assert Api(admin).post("server/add", body, Idempotency_Key="k").status_code == 200
    assert depths == [outside]


def test_secrets_come_out_nowhere(
    region: Region, admin: User, shown: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    body = {"ip": "203.0.113.9", "region": "sh", "password": "pass-word-7", "ssh_user": "ops"}
    api = Api(admin)
    answers = [api.post("server/add", body, Idempotency_Key="k")]
    server = Server.objects.get()
    assert (server.credential.username, server.credential.password) == ("ops", "pass-word-7")
    assert (server.name, shown) == ("203.0.113.9", [("203.0.113.9", 22)])
    answers += [
        api.post("server/add", {**body, "colour": "pass-word-7"}),
        api.post("server/add", {**body, "password": ["pass-word-7"]}),
        api.post("server/add", {**body, "private_key": BROKEN_KEY}),
        api.get(f"server/status/{server.pk}"),
    ]
    assert [answer.status_code for answer in answers] == [200, 422, 422, 422, 200]
    assert answers[3].json()["field"] == "private_key"
    texts = [answer.content.decode() for answer in answers]
    texts += [
        caplog.text,
        str(list(OperationLog.objects.values_list())),
        str(list(KeptAnswer.objects.values())),
    ]
    for text in texts:
        assert "pass-word-7" not in text
        assert "c2VjcmV0" not in text
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM accounts_keptanswer")
        assert "pass-word-7" not in str(cursor.fetchall())


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"region": "nowhere"}, "region"),
        ({"ip": "224.0.0.1"}, "ip"),
        ({"ip": "somewhere"}, "ip"),
        ({"ip": "::1"}, "ip"),
        ({"ssh_host": "http://x"}, "ssh_host"),
        ({"ssh_port": 70000}, "ssh_port"),
        ({"password": ""}, "private_key"),
        ({"credential": "none of these"}, "credential"),
        ({"tcp_port_first": 300, "tcp_port_last": 200}, "tcp_port_last"),
        ({"capacity": -1}, "capacity"),
        ({"name": "taken"}, "name"),
        ({"provider_account_id": 10**9}, "provider_account_id"),
        ({"docker_socket": "no/path"}, "docker_socket"),
    ],
)
def test_a_wrong_field_is_named_and_nothing_is_left(
    region: Region, admin: User, shown: list[Any], wrong: dict[str, Any], field: str
) -> None:
    ServerFactory(name="taken")
    before = SshCredential.objects.count()
    body = {"ip": "203.0.113.200", "region": "sh", "password": "x", **wrong}
    assert failure(Api(admin).post("server/add", body)) == (422, "invalid", field)
    assert (Server.objects.count(), SshCredential.objects.count()) == (1, before)
    if field in {"region", "ip", "ssh_host", "private_key", "credential"}:
        assert shown == []  # nobody connects for that


def test_an_address_that_is_taken_is_refused(region: Region, admin: User, shown: list[Any]) -> None:
    taken = ServerFactory()
    answer = Api(admin).post("server/add", {"ip": taken.address, "region": "sh", "password": "x"})
    assert failure(answer)[:2] == (422, "invalid")
    assert "at this address" in answer.json()["message"]


def test_a_stored_credential_and_an_account_are_taken(region: Region, admin: User, shown: list[Any]) -> None:
    credential, account = SshCredentialFactory(name="fleet key"), ProviderAccountFactory()
    asked = {
        "ip": "203.0.113.9",
        "region": "sh",
        "credential": "fleet key",
        "provider_account_id": account.pk,
    }
    assert Api(admin).post("server/add", asked).status_code == 200
    server = Server.objects.get()
    assert (server.credential, server.provider_account) == (credential, account)


def test_a_server_that_does_not_answer_is_not_added(region: Region, admin: User) -> None:
    gone = ServerFactory(whole=True)  # nothing listens there
    body = {"ip": "127.0.0.1", "ssh_port": gone.ssh_port, "region": "sh", "password": "x"}
    answer = Api(admin).post("server/add", body, Idempotency_Key="k")
    assert failure(answer)[:2] == (502, "refused")
    assert (Server.objects.count(), KeptAnswer.objects.count()) == (1, 0)
    for path, verb in ((f"server/{gone.pk}/host_key", "get"), (f"server/{gone.pk}/confirm_host_key", "post")):
        ask: Callable[..., Any] = getattr(Api(admin), verb)
        unreached = ask(path, {"fingerprint": "SHA256:x"} if verb == "post" else None)
        assert failure(unreached)[:2] == (502, "refused")


# Checks


# Reading


def test_the_list_has_what_operators_look_for(admin: User) -> None:
    full = ServerFactory(healthy=True, name="sh-1", capacity=7)
    RelayFactory.create_batch(2, server=full)
    RelayFactory(server=full, slot=None, status="released")
    gz = ServerFactory(
        region__code="gz", name="gz-1", status=Server.Status.UNHEALTHY, status_code="silent",
        status_values={"host": "h", "port": "22"}, silent_since=timezone.now(),
    )  # fmt: skip
    gone = ServerFactory(name="gone", status=Server.Status.RETIRED)

    def names(**query: Any) -> list[str]:
        return [row["name"] for row in Api(admin).get("server/list", query).json()["servers"]]

    rows = {row["name"]: row for row in Api(admin).get("server/list").json()["servers"]}
    assert (rows["sh-1"]["relays"], rows["sh-1"]["capacity"], rows["sh-1"]["region"]) == (2, 7, "sh")
    assert rows["gz-1"]["reason"] == "h does not answer on port 22."
    assert rows["gz-1"]["silent_since"]
    assert names() == ["gz-1", "sh-1"]
    assert names(region="gz") == ["gz-1"]
    assert names(status="retired") == [gone.name]
    assert names(status="healthy") == ["sh-1"]
    assert names(q="SH") == ["sh-1"]
    assert names(q=gz.address) == ["gz-1"]


def test_since_when_a_server_is_unhealthy_is_told_wherever_its_state_is(admin: User) -> None:
    silent, faulty = timezone.now() - timedelta(minutes=5), timezone.now() - timedelta(hours=2)
    unhealthy = Server.Status.UNHEALTHY
    both = ServerFactory(status=unhealthy, silent_since=silent, fault="gate_list", fault_since=faulty)
    fault = ServerFactory(status=unhealthy, fault="gate_list", fault_since=faulty)
    kept = ServerFactory(status=Server.Status.MAINTENANCE, silent_since=silent)
    well = ServerFactory(healthy=True)
    api = Api(admin)
    listed = {row["server_id"]: row["unhealthy_since"] for row in api.get("server/list").json()["servers"]}
    for server, since in ((both, faulty), (fault, faulty), (kept, None), (well, None)):
        status = api.get(f"server/status/{server.pk}").json()["server_status"]["unhealthy_since"]
        health = api.get(f"monitoring/health/{server.pk}").json()["unhealthy_since"]
        assert listed[server.pk] == status == health
        assert (status and datetime.fromisoformat(status).replace(microsecond=0)) == (
            since and since.replace(microsecond=0)
        )


def test_the_list_costs_one_query_whatever_there_is(admin: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "_COUNTED_SECONDS", 60.0)
    servers = ServerFactory.create_batch(7, healthy=True)
    RelayFactory(server=servers[0])
    api, seen, cursor = Api(admin), [], ""
    api.get("server/list")  # how many relays each has is known from now on
    for _page in range(3):
        api.get("user/me")  # the token is known from now on
        with CaptureQueriesContext(connection) as queries:
            said = api.get("server/list", {"page_size": 3, "cursor": cursor}).json()
        assert len(queries) == 1, [query["sql"] for query in queries]
        seen += [row["server_id"] for row in said["servers"]]
        cursor = said["next_cursor"]
    assert cursor is None
    assert seen == [server.pk for server in reversed(servers)]


def test_a_servers_status_has_its_gate_and_its_check(admin: User) -> None:
    server = ServerFactory(healthy=True, name="sh-1", docker_version="29.1", memory_bytes=2**31)
    bare = Api(admin).get(f"server/status/{server.pk}").json()["server_status"]
    assert (bare["gate"], bare["check"], bare["relays"]) == (None, None, 0)
    RelayFactory(server=server)
    gate = GateFactory(server=server, running=True)
    ServerCheckFactory(server=server, done=True)
    newest = ServerCheckFactory(server=server, status="failed", error_code="unreachable")
    answer = Api(admin).get(f"server/status/{server.pk}")
    said = answer.json()["server_status"]
    assert (said["name"], said["region"], said["region_name"], said["relays"]) == (
        "sh-1",
        "sh",
        "Shanghai",
        1,
    )
    assert said["fingerprint"] == HostKey.from_line(server.host_key).fingerprint
    assert (said["tcp_ports"], said["docker_version"], said["memory_bytes"]) == (
        [20000, 20999],
        "29.1",
        2**31,
    )
    assert (said["gate"]["status"], said["gate"]["is_needed"]) == ("running", True)
    assert (said["check"]["check_id"], said["check"]["status"]) == (newest.pk, "failed")
    assert gate.secret not in answer.content.decode()
    assert failure(Api(admin).get("server/status/999999"))[:2] == (404, "not_found")


def test_regions_are_listed(admin: User) -> None:
    RegionFactory()
    RegionFactory(code="gz")
    said = Api(admin, language="zh-hans").get("server/regions").json()["regions"]
    assert [row["code"] for row in said] == sorted(Region.objects.values_list("code", flat=True))
    assert {"gz": "广州", "sh": "上海"}.items() <= {row["code"]: row["name"] for row in said}.items()


# Acts


def test_maintenance_begins_and_ends(admin: User) -> None:
    server, api = ServerFactory(healthy=True, name="sh-1"), Api(admin)
    began = api.post(f"server/{server.pk}/maintenance", {"reason": "new disk"})
    assert (began.status_code, began.json()["status"]) == (200, "maintenance")
    assert began.json()["message"] == "sh-1 is in maintenance: nothing new is placed on it."
    assert failure(api.post(f"server/{server.pk}/maintenance", {}))[:2] == (409, "wrong_state")
    assert api.get(f"server/status/{server.pk}").json()["server_status"]["reason"] == "new disk"
    ended = api.post(f"server/{server.pk}/resume")
    assert ended.json()["status"] == "healthy"
    assert failure(api.post(f"server/{server.pk}/resume"))[:2] == (409, "wrong_state")
    assert set(OperationLog.objects.filter(actor=admin).values_list("action", flat=True)) == {
        "server.maintenance_started", "server.maintenance_ended",
    }  # fmt: skip


def test_a_server_is_removed_when_it_is_empty(admin: User) -> None:
    server, api = ServerFactory(healthy=True, name="sh-1"), Api(admin)
    relay = RelayFactory(server=server)
    assert failure(api.post(f"server/{server.pk}/retire"))[:2] == (409, "server_not_empty")
    relay.delete()
    for message in ("sh-1 is removed from the fleet.", "This server is removed already."):
        said = api.post(f"server/{server.pk}/retire").json()
        assert (said["status"], said["message"]) == ("retired", message)


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_nobody_but_staff_reads_or_does_anything(role: str, region: Region, shown: list[Any]) -> None:
    server, api = ServerFactory(healthy=True), Api(UserFactory(role=role), scopes=list(Scope))
    reads = [
        "list",
        "regions",
        f"status/{server.pk}",
        f"{server.pk}/host_key",
        f"health_check?server_id={server.pk}",
    ]
    for path in reads:
        assert failure(api.get(f"server/{path}"))[:2] == (403, "not_allowed"), path
    body = {"ip": "203.0.113.9", "region": "sh", "password": "x"}
    acts = {"add": body, f"{server.pk}/check": {}, f"{server.pk}/confirm_host_key": {"fingerprint": "x"},
            f"{server.pk}/maintenance": {}, f"{server.pk}/resume": {}, f"{server.pk}/retire": {}}  # fmt: skip
    for path, asked in acts.items():
        assert failure(api.post(f"server/{path}", asked))[:2] == (403, "not_allowed"), path
    assert shown == []
    server.refresh_from_db()
    assert server.status == "healthy"
    assert not ServerCheck.objects.exists()
