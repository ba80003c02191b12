"""A server's gate: made before its first relay, gone with the last, put right by visits, its list never far behind."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db import connections
from django.utils import timezone

from containers import deploy, jobs
from containers.deploy import put_files, read_file
from containers.derp import keys
from containers.derp.client import DerpClient, NotAdmitted
from containers.gate import GATE_DIR, LIST_HASH_PATH, gate_name, list_files, list_hash
from containers.gate_image import find_nginx
from containers.jobs import gates as gate_jobs
from containers.models import Deployment, Gate, Relay, ServerCheck
from containers.services import gates, images, relay_requests
from containers.services.checks import request_check
from derpmgmt.lib import bells, queue
from derpmgmt.lib.jobs import LOST_AFTER
from fleet.models import Server
from serials.numbers.services import redeem_serial
from serials.rentals.models import Rental
from tests.factories import SerialNumberFactory, UserFactory

from .conftest import IS_LAB, Fleet, assert_in_order, end_now, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds in which nginx reads a list that came; it takes a moment, and more where the machine is under load.
READS_WITHIN = 30

STEPS = ["network", "image", "clean", "volume", "create", "files", "start", "check"]
NAME = gate_name(settings.PANEL_ID)


class Known:
    """Who may come in while the panel is away: server pk → entries. Nobody listens at the panel's address in these tests."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str]] = []
        self.everywhere = ""  # a node key that every relay knows

    def __call__(self, server_pk: int) -> list[tuple[int, str]]:
        here = set(Relay.objects.live().filter(server_id=server_pk).values_list("pk", flat=True))
        if self.everywhere:
            return [(relay_pk, self.everywhere) for relay_pk in here]
        return [entry for entry in self.entries if entry[0] in here]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Known:
    answers = Known()
    monkeypatch.setitem(queue._answers, "gate_list", [answers])
    return answers


@pytest.fixture
def made(fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental) -> list[Relay]:
    """Three relays behind three gates."""
    work()
    return assert_in_order(fleet, rental)


@pytest.fixture
def no_gate_image() -> Iterator[Any]:
    """A panel from before the gates; gives what `image_build` does then."""
    links = sorted(settings.IMAGE_DIR.glob(f"{images.GATE_LINK}*"))
    aside = [link.rename(settings.IMAGE_DIR / f"aside-{link.name}") for link in links]

    def build() -> None:
        images.install_gate_image(nginx=find_nginx() if IS_LAB else None)
        gates.wake_imageless()

    yield build
    for link, kept in zip(links, aside, strict=True):
        link.unlink(missing_ok=True)
        kept.rename(link)


def visit_all() -> None:
    for shard in range(settings.SHARDS):
        jobs.visit_servers(shard)


def inspect(fleet: Fleet, server: Server, name: str = NAME) -> dict[str, Any]:
    with fleet.reach(server) as reached:
        return dict(reached.engine.inspect_container(name))


def has(fleet: Fleet, server: Server) -> str:
    """The hash of the list that stands on a server's host."""
    with fleet.reach(server) as reached:
        return read_file(reached.engine, NAME, LIST_HASH_PATH).decode()


def stands(fleet: Fleet, server: Server) -> bool:
    with fleet.reach(server) as reached:
        return deploy.has_gate(reached.engine, settings.PANEL_ID)


def knock(relay: Relay, private_key: str) -> bool:
    """Whether a device with that key is let in."""
    try:
        with DerpClient.connect(
            relay.server.address,
            relay.derp_port,
            cert_sha256=relay.certificate_sha256,
            private_key=private_key,
            timeout=8,
        ) as client:
            return client.ping(timeout=5) > 0
    except NotAdmitted:
        return False


def assert_gates_in_order(fleet: Fleet) -> None:
    """Every gate runs as it should, with the newest list, on servers with relays; none stands elsewhere."""
    for server in fleet.servers:
        wanted = gates.is_wanted(server.pk)
        assert stands(fleet, server) == wanted
        if wanted:
            gate = Gate.objects.get(server=server)
            assert (gate.status, gate.is_list_late) == ("running", False)
            assert inspect(fleet, server)["State"]["Running"] is True
            assert has(fleet, server) == gate.list_hash == list_hash(gates.read_list(server.pk))
            with fleet.reach(server) as reached:
                assert deploy.read_differences(reached.engine, gates.spec_of(gate, gate.image)) == []


def change_list(known: Known, rental: Rental, entries: list[tuple[int, str]]) -> None:
    known.entries = entries
    gates.note_list_changed(rental_pk=rental.pk, now=timezone.now())


def test_gate_stands_and_is_asked_when_a_relay_is_new(fleet: Fleet, made: list[Relay]) -> None:
    assert_gates_in_order(fleet)
    for relay in made:
        command = inspect(fleet, relay.server, f"derp-{settings.PANEL_ID}-{relay.pk}")["Config"]["Cmd"]
        assert f"-verify-client-url=http://{NAME}:8080/relay/{relay.pk}" in command
        assert "-verify-client-url-fail-open=false" in command
        assert Gate.objects.get(server=relay.server).secret not in str(inspect(fleet, relay.server))


def test_known_device_gets_in_by_the_list_when_the_panel_is_away(
    fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    device, stranger = keys.generate_private_key(), keys.generate_private_key()
    assert not any(knock(relay, device) for relay in made)
    change_list(known, rental, [(relay.pk, keys.public_key_of(device)) for relay in made])
    work()
    assert_gates_in_order(fleet)
    deadline = time.monotonic() + READS_WITHIN
    while not all(knock(relay, device) for relay in made):
        assert time.monotonic() < deadline
    assert not any(knock(relay, stranger) for relay in made)
    change_list(known, rental, [])
    work()
    deadline = time.monotonic() + READS_WITHIN
    while any(knock(relay, device) for relay in made):
        assert time.monotonic() < deadline


def test_list_names_a_relay_that_came_later(
    fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental
) -> None:
    known.everywhere = "1f" * 32
    work()
    assert_gates_in_order(fleet)
    other = UserFactory()
    redeem_serial(code=SerialNumberFactory().code, user=other, by=other)
    work()
    assert Relay.objects.live().filter(status="running").count() == 6
    assert_gates_in_order(fleet)


def test_gate_goes_with_the_last_relay(
    fleet: Fleet, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    end_now(rental)
    jobs.plan_rental(rental.pk)
    work()
    assert not Relay.objects.live().exists()
    assert not any(stands(fleet, server) for server in fleet.servers)
    assert {(gate.status, gate.running_since) for gate in Gate.objects.all()} == {("planned", None)}
    work(sweep=True)
    visit_all()
    work()
    assert not any(stands(fleet, server) for server in fleet.servers)


def test_gate_without_relays_goes_when_a_visit_finds_it(
    fleet: Fleet, work: Callable[..., None], made: list[Relay]
) -> None:
    Relay.objects.filter(pk=made[0].pk).update(status="released", slot=None)
    visit_all()
    work()
    assert not stands(fleet, made[0].server)
    assert all(stands(fleet, relay.server) for relay in made[1:])


@pytest.mark.parametrize("harm", ["remove", "stop", "volume", "change", "list"])
def test_gate_is_put_right_when_somebody_harmed_it(
    fleet: Fleet, work: Callable[..., None], rental: Rental, made: list[Relay], harm: str
) -> None:
    with fleet.reach(made[0].server) as reached:
        engine = reached.engine
        if harm == "stop":
            engine.stop(NAME, timeout=1)
        elif harm == "change":
            engine.update_container(NAME, restart_policy={"Name": "no"})
        elif harm == "list":
            put_files(engine, NAME, GATE_DIR, list_files(b""" "/relay/1|x" 1;\n"""))
        else:
            engine.remove_container(NAME, force=True)
            if harm == "volume":
                engine.remove_volume(NAME)
    others = [inspect(fleet, relay.server)["Id"] for relay in made[1:]]
    visit_all()
    work()
    assert_gates_in_order(fleet)
    assert assert_in_order(fleet, rental) == made
    assert [inspect(fleet, relay.server)["Id"] for relay in made[1:]] == others


def test_gate_is_made_anew_when_the_panel_has_another_address(
    fleet: Fleet, work: Callable[..., None], made: list[Relay], settings: Any
) -> None:
    settings.RELAY_URL = "http://203.0.113.1:8000"
    before = inspect(fleet, made[0].server)["Id"]
    visit_all()
    work()
    assert_gates_in_order(fleet)
    assert inspect(fleet, made[0].server)["Id"] != before


def test_late_list_is_shown_and_delivered_when_the_server_is_back(
    fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    relay = made[0]
    host = fleet.host_of(relay.server)
    host.break_it("refuses")
    change_list(known, rental, [(relay.pk, "1f" * 32)])
    work()
    gate = Gate.objects.get(server=relay.server)
    assert gate.is_list_late
    since = gate.list_changed_at
    change_list(known, rental, [(relay.pk, "2e" * 32)])
    work(sweep=True)
    gate.refresh_from_db()
    assert gate.is_list_late
    assert gate.list_changed_at == since  # the first change that it does not have
    assert not any(row.is_list_late for row in Gate.objects.exclude(pk=gate.pk))
    host.heal()
    rest_no_more()
    work(sweep=True)
    assert_gates_in_order(fleet)


def test_list_reaches_nginx_when_the_push_was_killed_before_the_signal(
    fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    device = keys.generate_private_key()
    known.entries = [(made[0].pk, keys.public_key_of(device))]  # and its bell was lost
    with fleet.reach(made[0].server) as reached:
        content = gates.read_list(made[0].server_id)
        put_files(reached.engine, NAME, GATE_DIR, list_files(content))
    assert not knock(made[0], device)
    visit_all()
    work()
    assert_gates_in_order(fleet)
    deadline = time.monotonic() + READS_WITHIN
    while not knock(made[0], device):
        assert time.monotonic() < deadline


def test_older_list_does_not_stay_when_two_were_pushed_at_once(
    fleet: Fleet,
    known: Known,
    work: Callable[..., None],
    rental: Rental,
    made: list[Relay],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server_pk = made[0].server_id
    read, old = gates.read_list, b""

    def read_then_be_overtaken(pk: int) -> bytes:
        monkeypatch.setattr(gates, "read_list", read)
        stale = read(pk)
        change_list(known, rental, [(made[0].pk, "1f" * 32)])
        gate_jobs.push_list(pk)
        assert stale == old
        return stale

    change_list(known, rental, [])
    monkeypatch.setattr(gates, "read_list", read_then_be_overtaken)
    gate_jobs.push_list(server_pk)
    monkeypatch.setattr(gates, "read_list", read)
    work()
    assert_gates_in_order(fleet)
    assert has(fleet, made[0].server) != list_hash(old)


def run_and_die(job: Callable[[int], None], pk: int, step: str) -> None:
    """Run `job(pk)` in a process of its own that is killed as a step of making the gate is about to begin."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        make_gate = gate_jobs._make_gate

        def make_or_die(engine: Any, gate: Gate, on_step: Any = None) -> None:
            def die(name: str) -> None:
                if name == step:
                    os.kill(os.getpid(), signal.SIGKILL)

            make_gate(engine, gate, die)

        gate_jobs._make_gate = make_or_die
        try:
            job(pk)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the job ended before the step {step}"
    bells.client().flushdb()  # the bell is lost with it: the sweep has to find the work


def let_time_pass() -> None:
    old = LOST_AFTER + timedelta(seconds=1)
    for record in Deployment.objects.filter(status="running"):
        Deployment.objects.filter(pk=record.pk).update(heartbeat_at=record.heartbeat_at - old)
    Server.objects.exclude(busy_until=None).update(busy_until=timezone.now() - old)


@pytest.mark.parametrize("step", STEPS)
def test_gate_and_relays_stand_when_its_making_is_killed(
    fleet: Fleet, known: Known, work: Callable[..., None], rental: Rental, step: str
) -> None:
    jobs.plan_rental(rental.pk)
    relay = Relay.objects.order_by("pk").first()
    assert relay
    run_and_die(jobs.apply_relay, relay.pk, step)
    let_time_pass()
    work(sweep=True)
    assert_in_order(fleet, rental)
    assert_gates_in_order(fleet)


def test_gate_stands_wherever_its_repair_is_killed(
    fleet: Fleet, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    for step in ("clean", "create", "files", "check"):
        with fleet.reach(made[0].server) as reached:
            reached.engine.remove_container(NAME, force=True)
        gates.request_repair(gate=Gate.objects.get(server=made[0].server))
        run_and_die(gate_jobs.apply_gate, made[0].server_id, step)
        let_time_pass()
        work(sweep=True)
        assert assert_in_order(fleet, rental) == made, step
        assert_gates_in_order(fleet)


def test_relays_run_on_as_they_are_until_a_panel_from_before_has_an_image(
    fleet: Fleet,
    known: Known,
    work: Callable[..., None],
    rental: Rental,
    monkeypatch: pytest.MonkeyPatch,
    no_gate_image: Callable[[], None],
) -> None:
    with monkeypatch.context() as before:
        before.setattr(gate_jobs, "ensure_gate", lambda *_arguments: None)
        work()
    old = assert_in_order(fleet, rental)
    names = {relay.pk: f"derp-{settings.PANEL_ID}-{relay.pk}" for relay in old}
    containers = {relay.pk: inspect(fleet, relay.server, names[relay.pk])["Id"] for relay in old}

    work(sweep=True)
    visit_all()
    work(sweep=True)
    assert {(gate.status, gate.failure_code) for gate in Gate.objects.all()} == {("failed", "no_gate_image")}
    assert "image_build" in str(gates.failure_text(Gate.objects.first()))
    assert {relay.pk: inspect(fleet, relay.server, names[relay.pk])["Id"] for relay in old} == containers
    assert knock(old[0], keys.generate_private_key())

    # One that is repaired meanwhile comes back as it was; a new one waits, and no other server is tried.
    with fleet.reach(old[0].server) as reached:
        reached.engine.remove_container(names[old[0].pk], force=True)
    Relay.objects.filter(pk=old[1].pk).update(proven_at=None)
    relay_requests.request_repair(relay_pk=old[1].pk)
    visit_all()
    work()
    assert knock(old[0], keys.generate_private_key())
    waiting = Relay.objects.get(pk=old[1].pk)
    assert (waiting.status, waiting.failure_code) == ("failed", "no_gate_image")
    assert Deployment.objects.filter(relay=waiting).latest("pk").error_code == "no_gate_image"

    no_gate_image()
    work(sweep=True)
    visit_all()
    work(sweep=True)
    assert assert_in_order(fleet, rental) == old
    assert_gates_in_order(fleet)
    assert not any(knock(relay, keys.generate_private_key()) for relay in old)


def test_relay_is_told_when_the_operator_lets_everybody_in(
    fleet: Fleet, work: Callable[..., None], rental: Rental, made: list[Relay]
) -> None:
    relay = made[0]
    Server.objects.filter(pk=relay.server_id).update(is_fail_open=True)
    visit_all()
    work()
    assert assert_in_order(fleet, rental) == made
    command = inspect(fleet, relay.server, f"derp-{settings.PANEL_ID}-{relay.pk}")["Config"]["Cmd"]
    assert "-verify-client-url-fail-open=true" in command


def test_nothing_is_left_when_a_server_was_checked(
    fleet: Fleet, known: Known, work: Callable[..., None]
) -> None:
    server = fleet.servers[0]
    Server.objects.filter(pk=server.pk).update(status=Server.Status.NEW)
    request_check(server_pk=server.pk)
    work()
    assert ServerCheck.objects.get().status == "done", ServerCheck.objects.get().log
    assert not stands(fleet, server)
    assert not fleet.containers(server)


def test_check_says_why_when_there_is_no_image_of_the_gate(
    fleet: Fleet, known: Known, work: Callable[..., None], no_gate_image: Callable[[], None]
) -> None:
    server = fleet.servers[0]
    Server.objects.filter(pk=server.pk).update(status=Server.Status.NEW)
    request_check(server_pk=server.pk)
    work()
    check = ServerCheck.objects.get()
    assert check.status == "failed"
    assert "image_build --only gate" in check.reason
