"""What a visit asks of a server, and that it misses nothing for asking little."""

from collections.abc import Callable

import pytest
from django.conf import settings
from django.utils import timezone

from containers.deploy import make_so
from containers.jobs.visits import visit_server
from containers.models import Relay
from containers.services import images, relays
from fleet.models import Server
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order

pytestmark = pytest.mark.django_db(transaction=True)


def visit(server: Server) -> None:
    visit_server(Server.objects.select_related("credential").get(pk=server.pk))


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


def test_a_visit_asks_the_same_at_one_and_at_thirty_relays(
    fleet: Fleet, work: Callable[..., None], rental: Rental, asked: list[str], django_assert_max_num_queries
) -> None:
    work()
    server = assert_in_order(fleet, rental)[0].server
    assert server == fleet.servers[0]
    visit(server)
    asked.clear()
    with django_assert_max_num_queries(60) as few:
        visit(server)
    at_one = list(asked)
    add_relays(fleet, server, 29)
    for _time in range(5):  # the new ones are looked at whole once
        visit(server)
    asked.clear()
    with django_assert_max_num_queries(len(few)):
        visit(server)
    assert len(Relay.objects.filter(server=server, status="running")) == 30
    assert asked == at_one
    # The list, the volumes, one relay and the gate looked at whole, the hash of the gate's list.
    assert len(at_one) == 5


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
