"""A whole panel as an operator runs it: its own processes, MariaDB, Redis, real hosts, and nothing but the commands."""

import hashlib
import json
import os
import random
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import docker
import pytest
import yaml

from fleet.ssh import HostKey
from tests.lab.host import Host
from tests.lab.hosts import Lab
from tests.lab.services import mariadb, redis
from tests.panel.running import Folder, Running, wait_for

pytestmark = pytest.mark.lab
WORKERS = """
import django_rq, json
from rq import Worker
found = {worker.pid: worker.queue_names() for worker in Worker.all(connection=django_rq.get_connection("default"))}
print(json.dumps([pid for pid, names in found.items() if names[0].startswith("apply")]))
"""


class Operator:
    """What an operator types, answered in JSON."""

    def __init__(self, folder: Folder, panel: Running) -> None:
        self.folder = folder
        self.panel = panel

    def __call__(self, *arguments: str) -> Any:
        done = self.folder.manage(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, *arguments: str) -> str:
        """The reason why a command could not be done."""
        done = self.folder.manage(*arguments)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        return done.stderr.strip()


@pytest.fixture(scope="module")
def operator(running_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    path = tmp_path_factory.mktemp("panel") / "var"
    with mariadb() as database_url, redis() as redis_url:
        folder = Folder(
            path,
            DERPMGMT_DATABASE_URL=database_url,
            DERPMGMT_REDIS_URL=redis_url,
            DERPMGMT_FULL_LOAD="1000",  # what else this machine does must not keep relays away from its hosts
        )
        with folder.running() as panel:
            made = Operator(folder, panel)
            made("image_build", "--derper", os.environ["DERPMGMT_TEST_DERPER"])
            for host, region in zip(running_lab.hosts[:3], ("sh", "gz", "bj"), strict=True):
                server = made(*add(host, region), "--host-key", HostKey.from_line(host.host_key).fingerprint)
                assert server["status"] == "healthy"
            yield made
    for host in running_lab.hosts[:3]:  # the lab is everybody's
        client = docker.APIClient(base_url=f"unix://{host.docker_socket}")
        for row in client.containers(all=True):
            client.remove_container(row["Id"], force=True, v=True)
        client.close()


def add(host: Host, region: str) -> list[str]:
    where = ["--name", host.name, "--region", region, "--ssh-port", str(host.ssh_port)]
    how = ["--user", host.user, "--key", host.private_key_path, "--docker-socket", host.docker_socket]
    return ["server_add", host.address, *where, *how]


def containers_of(host: Host) -> list[str]:
    client = docker.APIClient(base_url=f"unix://{host.docker_socket}")
    try:
        return sorted(name for row in client.containers(all=True) for name in row["Names"])
    finally:
        client.close()


def test_the_main_job_is_done_by_commands_alone(operator: Operator, running_lab: Lab) -> None:
    operator("user_create", "first@example.com")
    (serial,) = operator("serials_create", "--days", "30", "--count", "1")
    operator("serial_redeem", "first@example.com", serial["code"])

    relays = operator("relay_list", "first@example.com")
    assert [relay["status"] for relay in relays] == ["running"] * 3
    assert {relay["address"] for relay in relays} == {host.address for host in running_lab.hosts[:3]}
    probes = operator("relay_probe", "first@example.com")
    assert all(probe["is_ok"] and probe["packet_ms"] > 0 and probe["stun_ms"] > 0 for probe in probes)

    exported = operator.folder.manage("acl_export", "first@example.com", "--format", "json")
    regions = json.loads(exported.stdout)["Regions"]
    assert len(regions) == 3
    for region in regions.values():
        (node,) = region["Nodes"]
        served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((node["IPv4"], node["DERPPort"])))
        assert node["CertName"] == f"sha256-raw:{hashlib.sha256(served).hexdigest()}"
    as_yaml = yaml.safe_load(
        operator.folder.manage("acl_export", "first@example.com", "--format", "yaml").stdout
    )
    assert {str(number) for number in as_yaml["regions"]} == set(regions)
    assert (
        '"derpMap"' in operator.folder.manage("acl_export", "first@example.com", "--format", "hujson").stdout
    )

    servers = operator("server_list")
    assert [(server["status"], server["relays"]) for server in servers] == [("healthy", 1)] * 3


def test_commands_say_why_when_they_cannot(operator: Operator, running_lab: Lab) -> None:
    host = running_lab.hosts[0]
    (used,) = operator("serials_create", "--days", "1", "--count", "1", "--unpaid")
    operator("user_create", "second@example.com")
    refusals = [
        operator.refused("serial_redeem", "second@example.com", used["code"]),
        operator.refused("serial_redeem", "nobody@example.com", used["code"]),
        operator.refused("serial_redeem", "second@example.com", "0000-0000-0000-0000-0000"),
        operator.refused("relay_probe", "second@example.com"),
        operator.refused("acl_export", "second@example.com", "--format", "json"),
        operator.refused("user_create", "second@example.com"),
        operator.refused(*add(host, "sh"), "--host-key", "SHA256:" + "A" * 43),
        operator.refused(*add(host, "nowhere"), "--host-key", HostKey.from_line(host.host_key).fingerprint),
        operator.refused("image_build", "--derper", "/bin/true"),
        operator.refused(
            "server_add", "127.0.0.1", "--region", "sh", "--ssh-port", "9", "--key", host.private_key_path
        ),
    ]
    assert len(set(refusals)) == len(refusals)
    assert all(len(refusal) > 8 for refusal in refusals)


@pytest.mark.parametrize("seed", range(4))
def test_three_relays_within_a_minute_when_the_workers_are_killed(
    operator: Operator, running_lab: Lab, seed: int
) -> None:
    chance = random.Random(seed)
    email = f"killed{seed}@example.com"
    operator("user_create", email)
    (serial,) = operator("serials_create", "--days", "30", "--count", "1")
    workers = json.loads(operator.folder.python(WORKERS))
    with subprocess.Popen(
        [sys.executable, "manage.py", "serial_redeem", email, serial["code"]],
        env=operator.folder.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as redeeming:
        assert redeeming.stderr
        redeeming.stderr.readline()  # the first word of progress: from here on the workers are at it
        began = time.monotonic()
        time.sleep(chance.uniform(0.0, 0.5))
        for pid in workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        redeeming.kill()

    def is_whole() -> bool:
        return [relay["status"] for relay in operator("relay_list", email)] == ["running"] * 3

    wait_for(is_whole, "three relays after the workers were killed", 60 - (time.monotonic() - began))
    expected = {str(relay["id"]) for relay in operator("relay_list")}
    standing = [
        name.rsplit("-", 1)[1]
        for host in running_lab.hosts[:3]
        for name in containers_of(host)
        if not name.startswith("/derp-gate-")
    ]
    assert sorted(standing) == sorted(expected)
