"""What a visit asks of a server, and that it misses nothing for asking little."""

import time
from collections.abc import Callable
from datetime import timedelta

import pytest
from django.conf import settings
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from containers import looks
from containers.deploy import make_so
from containers.derp.probe import probe_relay
from containers.gate import gate_name
from containers.jobs.visits import visit_server, visit_servers
from containers.models import Gate, Relay, RelaySample
from containers.services import images, relays, samples
from containers.services.samples import Round
from fleet.contact import pool
from fleet.models import LoadSample, Server
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order

pytestmark = pytest.mark.django_db(transaction=True)


def visit(server: Server) -> None:
    visit_server(Server.objects.select_related("credential").get(pk=server.pk), Round())


def add_relays(fleet: Fleet, server: Server, number: int) -> list[Relay]:
    """More relays that run on a server; nobody's, so that only visits look after them."""
    archive = images.current_image()
    made = []
    with fleet.reach(server) as reached:
        for place in range(number):
            port = 20500 + place
            relay = relays.new_relay(server=server, derp_port=port, stun_port=port, now=timezone.now())
            relay.status, relay.image = Relay.Status.RUNNING, archive.tag
            relay.save()
            whole = Relay.objects.select_related("server__gate").get(pk=relay.pk)
            make_so(reached.engine, relays.spec_of(whole, archive.tag), archive, lambda _step: None)
            made.append(relay)
    return made


@pytest.fixture
def asked(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The requests that the first server's Engine and its shell get."""
    if IS_LAB:
        pytest.skip("a sandbox counts what it is asked")
    seen: list[str] = []
    host = fleet.hosts[0]._sandbox.fleet.hosts[0]
    answer = host.engine.answer

    async def note(request):  # type: ignore[no-untyped-def]
        seen.append(f"{request.method} {request.path.partition('/containers/derp')[0]}")
        return await answer(request)

    monkeypatch.setattr(host.engine, "answer", note)
    return seen


def test_visits_ask_the_same_at_one_and_at_thirty_relays(
    fleet: Fleet, work: Callable[..., None], rental: Rental, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    assert server == fleet.servers[0]
    monkeypatch.setattr(looks, "REST_EVERY", 4)
    pool().close()

    def four_visits() -> tuple[list[list[str]], int]:
        """What was asked of the Engine, the least first, and the queries of all four."""
        each = []
        with CaptureQueriesContext(connection) as queries:
            for _time in range(4):
                asked.clear()
                visit(server)
                each.append(list(asked))
        return sorted(each, key=len), len(queries)

    four_visits()
    at_one, queries_at_one = four_visits()
    add_relays(fleet, server, 29)
    for _round in range(2):  # the new ones are looked at whole once
        four_visits()
    at_thirty, queries_at_thirty = four_visits()
    assert len(Relay.objects.filter(server=server, status="running")) == 30
    assert at_thirty == at_one
    assert queries_at_thirty <= queries_at_one + 4  # one of a new minute's samples at most in each
    # The list and one relay looked at whole; in one of four visits the volumes, the gate and the hash of its list too.
    assert [len(each) for each in at_one] == [2, 2, 2, 5]


def test_a_gate_that_was_changed_by_hand_is_found_within_four_visits(
    fleet: Fleet, work: Callable[..., None], rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    monkeypatch.setattr(looks, "REST_EVERY", 4)
    visit(server)
    with fleet.reach(server) as reached:
        name = gate_name(settings.PANEL_ID)
        reached.engine.update_container(name, restart_policy={"Name": "no"})
    for _time in range(4):
        visit(server)
    assert Gate.objects.get(server=server).status == Gate.Status.PLANNED
    work(sweep=True)
    with fleet.reach(server) as reached:
        reached.engine.stop(name, timeout=1)
    visit(server)  # that the list tells, so it is found at once
    assert Gate.objects.get(server=server).status == Gate.Status.PLANNED


def test_limits_that_are_changed_by_hand_are_found_when_it_is_the_relays_turn(
    fleet: Fleet, work: Callable[..., None], rental: Rental
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    added = add_relays(fleet, server, 4)
    visit(server)
    changed = added[2]
    with fleet.reach(server) as reached:
        name = f"derp-{settings.PANEL_ID}-{changed.pk}"
        reached.engine.update_container(name, restart_policy={"Name": "no"})
    visits = 0
    while Relay.objects.get(pk=changed.pk).status == Relay.Status.RUNNING:
        visits += 1
        assert visits <= 5, "each of five relays has its turn in five visits"
        visit(server)
    others = Relay.objects.filter(server=server).exclude(pk=changed.pk)
    assert set(others.values_list("status", flat=True)) == {"running"}


def test_a_container_that_somebody_made_anew_with_other_limits_is_found_at_once(
    fleet: Fleet, work: Callable[..., None], rental: Rental
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    added = add_relays(fleet, server, 4)
    visit(server)
    visit(server)
    changed = Relay.objects.select_related("server__gate").get(pk=added[1].pk)
    spec = relays.spec_of(changed, changed.image)
    with fleet.reach(server) as reached:
        engine = reached.engine
        engine.remove_container(spec.container_name, force=True)
        host_config = {
            **spec.create_body["HostConfig"],
            "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
        }
        body = {**spec.create_body, "HostConfig": host_config}
        engine.create_container_from_config(body, spec.container_name)
        engine.start(spec.container_name)
    visit(server)
    assert Relay.objects.get(pk=changed.pk).status == Relay.Status.PLANNED


def visit_round(server: Server) -> None:
    """A round over the server's shard alone."""
    Server.objects.exclude(pk=server.pk).update(next_contact_at=timezone.now() + timedelta(hours=1))
    Server.objects.filter(pk=server.pk).update(next_contact_at=None)
    visit_servers(server.pk % settings.SHARDS)


def test_rounds_leave_samples_of_servers_and_relays_with_what_flowed_between_them(
    fleet: Fleet, work: Callable[..., None], rental: Rental, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "RELAY_SECONDS", 1)
    work()
    relay = assert_in_order(fleet, rental)[0]
    server = relay.server
    LoadSample.objects.all().delete()
    RelaySample.objects.all().delete()
    visit_round(server)
    time.sleep(1.1)
    assert probe_relay(relays.target_of(relay)).ok
    visit_round(server)

    first, second = LoadSample.objects.filter(server=server).order_by("at")
    assert first.answer_ms > 0
    assert first.engine_ms > 0
    assert 0 < first.memory < 1
    assert first.disk is not None
    assert abs(first.clock_ms) < 5000
    assert first.containers >= 2
    assert second.connect_ms is None
    assert 0 <= second.cpu <= 1
    assert second.receive_rate > 300
    assert second.send_rate > 300
    before, after = RelaySample.objects.filter(relay=relay).order_by("at")
    assert before.memory > 1_000_000
    assert before.connections == 0
    assert after.cpu is not None
    assert after.up_rate > 300
    assert after.down_rate > 300
    assert set(RelaySample.objects.values_list("relay", flat=True)) == {relay.pk}

    server.refresh_from_db()
    assert server.cpu_share == pytest.approx(second.cpu, rel=1e-3)
    assert server.receive_rate == pytest.approx(second.receive_rate, rel=1e-3)
    assert server.docker_version
    assert None not in (server.memory_share, server.disk_share, server.answer_ms, server.clock_offset)


def test_a_sample_tells_that_the_engine_did_not_answer(
    fleet: Fleet, work: Callable[..., None], rental: Rental
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    visit_round(server)
    LoadSample.objects.all().delete()
    fleet.host_of(server).break_it("docker_down")
    visit_round(server)
    sample = LoadSample.objects.get(server=server)
    assert sample.engine_ms is None
    assert sample.load is not None
    fleet.host_of(server).heal()


def test_relays_are_unknown_and_not_nought_where_the_host_hides_its_processes(
    fleet: Fleet, work: Callable[..., None], rental: Rental
) -> None:
    if IS_LAB:
        pytest.skip("the sandbox hides them at a word")
    work()
    relay = assert_in_order(fleet, rental)[0]
    RelaySample.objects.all().delete()
    fleet.host_of(relay.server).fault(hides_processes=True)
    visit_round(relay.server)
    assert not RelaySample.objects.exists()
    assert Relay.objects.get(pk=relay.pk).status == Relay.Status.RUNNING
