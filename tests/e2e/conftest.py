"""The fleet that the end-to-end tests run against: the sandbox, or with DERPMGMT_TEST_FLEET=lab the lab's real hosts.

The same tests run against both; a difference between the two is a bug in the sandbox.
"""

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import django
import pytest
from django.conf import settings
from django.utils import timezone

# This file is read before pytest-django sets Django up when the folder is named on the command line.
django.setup()

# ruff: noqa: E402
from accounts.models import User
from containers import deploy, looks
from containers.gate_image import find_nginx
from containers.models import Relay
from containers.services import images
from fleet.contact import Contact, contact, pool
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import RedeemedRentalFactory, ServerFactory, SshCredentialFactory, UserFactory

IS_LAB = os.environ.get("DERPMGMT_TEST_FLEET") == "lab"
REGIONS = ("sh", "gz", "bj", "sh")
# The lab has three hosts; the sandbox has one kind of Engine.
collect_ignore = ["test_bound_servers.py", "test_allocating.py"] if IS_LAB else ["test_engine_kinds.py"]


class SandboxedHost:
    """A host of the sandbox with what can go wrong on it."""

    panel_address = "127.0.0.1"

    def __init__(self, sandbox: Any, index: int) -> None:
        self._sandbox, self._index = sandbox, index
        self._stack = ExitStack()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sandbox.hosts[self._index], name)

    def break_it(self, kind: str) -> None:
        faults: dict[str, dict[str, Any]] = {
            "refuses": {"down": True},
            "ssh_hung": {"ssh_hung": True},
            "other_host_key": {"other_host_key": True},
            "docker_down": {"docker": "down"},
            "docker_hung": {"docker": "hung"},
            "docker_absent": {"docker": "absent"},
            "disk_full": {"disk_full": True},
            "rewrites_sources": {"rewrites_sources": "172.18.0.1"},
            "rootless": {"rewrites_sources": "172.18.0.1", "rootless": True},
        }
        self._sandbox.server(self._index).fault(**faults.get(kind) or {"dies_after": kind})

    def fault(self, **switches: Any) -> None:
        """Switches of `Faults`."""
        self._sandbox.server(self._index).fault(**switches)

    def heal(self) -> None:
        self._sandbox.server(self._index).heal()
        self._stack.close()

    def change_engine(self) -> None:
        """The Engine is installed anew; what it ran is not looked at."""
        self._sandbox.fleet.hosts[self._index].engine.renew_id()

    def take_port(self, port: int) -> None:
        """A stranger's program listens there."""
        self._stack.enter_context(listener(self.address, port))


# Of the packets on a lossy link, each way.
LOSS = 0.05


class LabHost:
    """A host of the lab with what can go wrong on it; `panel_address` is this machine as the host sees it."""

    def __init__(self, host: Any, panel_address: str) -> None:
        self._host, self.panel_address = host, panel_address
        self._mends: list[Callable[[], object]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._host, name)

    def break_it(self, kind: str) -> None:
        host = self._host
        pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
            "refuses": (host.stop_ssh, host.start_ssh),
            "ssh_hung": (host.freeze_ssh, host.thaw_ssh),
            "other_host_key": (host.change_host_key, host.restore_host_key),
            "docker_down": (host.stop_docker, host.start_docker),
            "docker_hung": (host.freeze_docker, host.thaw_docker),
            "vanishes": (host.cut_network, host.mend_network),
            "lossy": (partial(host.lose_packets, LOSS), partial(host.lose_no_packets, LOSS)),
        }
        pairs[kind][0]()
        self._mends.append(pairs[kind][1])

    def heal(self) -> None:
        while self._mends:
            self._mends.pop()()

    def add_address(self, address: str) -> None:
        """The machine gets a second address, as when a provider gives it another public one."""
        inside = ["nsenter", f"--net=/run/netns/{self._host.netns}", "ip"]
        shown = subprocess.run(
            [*inside, "-o", "-4", "addr"], check=True, capture_output=True, text=True
        ).stdout
        device = next(line.split()[1] for line in shown.splitlines() if f" {self._host.address}/" in line)
        subprocess.run([*inside, "addr", "add", f"{address}/24", "dev", device], check=True)
        self._mends.append(
            lambda: subprocess.run([*inside, "addr", "del", f"{address}/24", "dev", device], check=True)
        )

    def take_port(self, port: int) -> None:
        """A stranger's program listens there."""
        listening = subprocess.Popen(
            [
                "nsenter",
                f"--net=/run/netns/{self._host.netns}",
                sys.executable,
                "-c",
                LISTENER,
                self._host.address,
                str(port),
            ],
            stdout=subprocess.PIPE,
        )
        assert listening.stdout
        listening.stdout.readline()

        def end() -> None:
            listening.kill()
            listening.wait()

        self._mends.append(end)


LISTENER = """
import socket, sys, time
listening = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
time.sleep(600)
"""


def listener(address: str, port: int) -> socket.socket:
    return socket.create_server((address, port))


@dataclass
class Fleet:
    """Hosts, the servers that stand for them, and what tests do to them."""

    hosts: list[Any]
    servers: list[Server]

    def host_of(self, server: Server) -> Any:
        """The host behind a server's row."""
        return self.hosts[[row.pk for row in self.servers].index(server.pk)]

    def containers(self, server: Server) -> list[deploy.Found]:
        """What of ours really stands on a server."""
        with self.reach(server) as reached:
            return deploy.read_ours(reached.engine, settings.PANEL_ID)

    def volumes(self, server: Server) -> set[int]:
        with self.reach(server) as reached:
            return deploy.read_volumes(reached.engine, settings.PANEL_ID)

    def reach(self, server: Server) -> Any:
        """An engine and a connection to the server, as the panel has them."""
        return contact(Server.objects.select_related("credential").get(pk=server.pk))


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The test process' name, also where pytest-xdist is not used."""
    return os.environ.get("PYTEST_XDIST_WORKER", "master")


@pytest.fixture(scope="session")
def _lab() -> Iterator[Any]:
    """The lab that this run has for itself, with its three good hosts."""
    from tests.lab.engines import good_kinds
    from tests.lab.hosts import lab

    state = Path(os.environ.get("DERPMGMT_TEST_LAB", "var/lab-test"))
    with lab(state=state, kinds=good_kinds()) as running:
        yield running


@pytest.fixture(scope="session")
def host_of_kind(_lab: Any) -> Callable[[Any], LabHost]:
    """Adds a host of a kind (`tests.lab.kinds.Kind`) to the lab. No server of `fleet` stands for it."""
    return lambda kind: LabHost(_lab.add(kind), _lab.gateway)


@pytest.fixture(scope="session")
def rootless_host(host_of_kind: Callable[[Any], LabHost]) -> LabHost:
    """A fourth host of the lab, whose Docker belongs to an unprivileged user."""
    from tests.lab.engines import ROOTLESS, under_test

    return host_of_kind(under_test().on(ROOTLESS))


@pytest.fixture(scope="session")
def hosts(
    tmp_path_factory: pytest.TempPathFactory, worker_id: str, request: pytest.FixtureRequest
) -> Iterator[list[Any]]:
    with ExitStack() as stack:
        if IS_LAB:
            running = request.getfixturevalue("_lab")
            yield [LabHost(host, running.gateway) for host in running.hosts]
        else:
            from derpmgmt.sandbox.fleet import Sandbox

            # Addresses of its own for each test process, and none of a demo's.
            subnet = f"127.{100 + int(worker_id.removeprefix('gw') or 0) if worker_id != 'master' else 99}.{os.getpid() % 250}"
            sandbox = Sandbox(tmp_path_factory.mktemp("sandbox"), servers=4, subnet=subnet)
            stack.enter_context(sandbox)
            yield [SandboxedHost(sandbox, index) for index in range(4)]


@pytest.fixture(scope="session")
def _image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    settings.IMAGE_DIR = folder
    derper = Path(os.environ["DERPMGMT_TEST_DERPER"]) if IS_LAB else None
    images.install_image(derper=derper)
    images.install_gate_image(nginx=find_nginx() if IS_LAB else None)
    return folder


@pytest.fixture
def fleet(transactional_db: None, hosts: list[Any], _image: Path) -> Iterator[Fleet]:
    """Three servers in the lab, four in the sandbox, all in use and empty."""
    servers = []
    for host, code in zip(hosts, REGIONS, strict=False):
        credential = SshCredentialFactory(
            name=f"key of {host.name}",
            username=host.user,
            private_key=Path(host.private_key_path).read_text(),
        )
        servers.append(
            ServerFactory(
                name=host.name,
                region__code=code,
                address=host.address,
                ssh_port=host.ssh_port,
                credential=credential,
                host_key=host.host_key,
                docker_socket=host.docker_socket,
                status=Server.Status.HEALTHY,
            )
        )
    made = Fleet(list(hosts), servers)
    yield made
    for host in hosts:
        host.heal()
    pool().close()
    Server.objects.update(next_contact_at=None)
    for server in servers:
        with made.reach(server) as reached:
            deploy.remove_orphans(reached.engine, settings.PANEL_ID, lambda _standing: ())
            deploy.remove_gate(reached.engine, settings.PANEL_ID)
    pool().close()


@pytest.fixture(autouse=True)
def _visits_look_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each visit looks at all that one in some does."""
    monkeypatch.setattr(looks, "REST_EVERY", 1)


@pytest.fixture
def work(fleet: Fleet) -> Callable[..., None]:
    """Let the workers do what has been rung for, until every queue is empty; with `sweep=True` the sweep rings first."""
    import django_rq
    from rq import SimpleWorker

    from containers.jobs import sweep as run_sweep
    from serials.rentals.jobs import sweep_rentals

    class Worker(SimpleWorker):
        should_run_maintenance_tasks = False  # what RQ tidies up by the hour

    def run(*, sweep: bool = False) -> None:
        if sweep:
            sweep_rentals()
            run_sweep()
        connection = django_rq.get_connection("default")
        every = [django_rq.get_queue(name, connection=connection) for name in settings.QUEUES]
        for _round in range(50):
            queues = [queue for queue in every if len(queue)]
            if not queues:
                return
            worker = Worker(queues, connection=connection, name=uuid.uuid4().hex)
            worker.work(burst=True, logging_level="ERROR")
        raise AssertionError("the queues do not come to rest")

    return run


@pytest.fixture
def customer(transactional_db: None) -> User:
    return UserFactory(email="customer@example.com")


@pytest.fixture
def rental(customer: User) -> Rental:
    """A customer who has just redeemed thirty days; nothing has been done about it yet."""
    return RedeemedRentalFactory(user=customer)


def standing(fleet: Fleet) -> dict[str, list[tuple[int, str]]]:
    """Server name → (relay id, state) of every container of ours, read from the hosts."""
    return {
        server.name: [(found.relay_id, found.state) for found in fleet.containers(server)]
        for server in fleet.servers
    }


def assert_in_order(fleet: Fleet, rental: Rental, relays: int = 3) -> list[Relay]:
    """Exactly `relays` relays of the rental run on as many servers, and nothing else stands anywhere."""
    wanted = list(Relay.objects.wanted().filter(rental=rental).select_related("server"))
    assert [relay.status for relay in wanted] == ["running"] * relays
    assert len({relay.server_id for relay in wanted}) == relays
    assert Relay.objects.live().count() == relays
    for server in fleet.servers:
        expected = {relay.pk for relay in wanted if relay.server_id == server.pk}
        found = fleet.containers(server)
        assert {item.relay_id for item in found} == expected
        assert [item.state for item in found] == ["running"] * len(expected)
        assert fleet.volumes(server) == expected
    return wanted


def end_now(rental: Rental) -> None:
    """The rental's end is here, as by the passing of time."""
    Rental.objects.filter(pk=rental.pk).update(
        ends_at=rental.created_at, runs_until=rental.created_at, plan_due_at=rental.created_at
    )


def rest_no_more() -> None:
    """Forget back-offs, as the passing of time would."""
    Server.objects.update(next_contact_at=None, busy_until=None, busy_by="")
    Relay.objects.update(try_after=None)
    Rental.objects.filter(plan_due_at__isnull=False).update(plan_due_at=timezone.now())


__all__ = ["Contact", "Fleet", "assert_in_order", "end_now", "rest_no_more", "standing", "timezone"]
