"""The books of traffic against a known number of bytes, on real hosts: nothing is lost where the panel itself ends a relay."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest
from django.conf import settings
from django.db.models import Sum

from containers.derp.client import DerpClient
from containers.jobs import visit_servers
from containers.models import Relay, TrafficDay, TrafficMonth
from containers.services.relay_requests import request_repair
from serials.rentals.models import Rental
from serials.rentals.services import pause_rental

from .conftest import Fleet, assert_in_order, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)

# What a packet has around it on its way to a relay: DERP's frame (5) and the receiver's key (32), TLS 1.3's record (22), TCP with time
# stamps (32), IP (20) and Ethernet (14). Packets may share a segment, and each way carries the receipts of the other: 66 bytes for one
# segment or more. Connections cost their beginning: TLS with a certificate, and DERP's introduction.
AROUND_PACKET, RECEIPT, CONNECTIONS = 125, 66, 60_000


class Books(NamedTuple):
    up: int
    down: int


def visit_all() -> None:
    for shard in range(settings.SHARDS):
        visit_servers(shard)


def books(relay: Relay) -> Books:
    sums = TrafficDay.objects.filter(relay=relay).aggregate(
        up=Sum("up_bytes", default=0), down=Sum("down_bytes", default=0)
    )
    months = TrafficMonth.objects.filter(relay=relay).aggregate(up=Sum("up_bytes"), down=Sum("down_bytes"))
    assert (months["up"] or 0, months["down"] or 0) == (sums["up"], sums["down"])
    return Books(sums["up"], sums["down"])


def client(relay: Relay) -> DerpClient:
    return DerpClient.connect(
        relay.server.address,
        relay.derp_port,
        cert_sha256=relay.certificate_sha256,
        mesh_key=relay.mesh_key,
    )


def pump(relay: Relay, number: int, size: int) -> int:
    """So many packets of a size through a relay, from one device to another; returns the bytes in them once all have arrived."""
    with client(relay) as sender, client(relay) as receiver:
        for at in range(number):
            sender.send_packet(receiver.public_key, bytes([at % 256]) * size, timeout=10)
            if at % 20 == 19:
                for _packet in range(20):
                    receiver.receive_packet(timeout=10)
    return number * size


@contextmanager
def counted(relay: Relay, number: int, size: int, *, what: str) -> Iterator[None]:
    """So many packets go through the relay, then something happens; after that the books have all of them, and no more than belongs to them."""
    before = books(relay)
    payload = pump(relay, number, size)
    yield
    after = books(relay)
    up, down = after.up - before.up, after.down - before.down
    print(
        f"{what}: {number} × {size} = {payload} bytes; up {up} ({up / payload:.3f}), down {down} ({down / payload:.3f})"
    )
    most = number * (size + AROUND_PACKET + RECEIPT) + CONNECTIONS
    assert payload <= up <= most
    assert payload <= down <= most


def change_by_hand(fleet: Fleet, relay: Relay) -> None:
    with fleet.reach(relay.server) as reached:
        name = f"derp-{settings.PANEL_ID}-{relay.pk}"
        reached.engine.update_container(name, restart_policy={"Name": "no"})


@pytest.fixture
def relay(fleet: Fleet, work, rental: Rental) -> Relay:
    work()
    relays = assert_in_order(fleet, rental)
    visit_all()
    return relays[0]


@pytest.mark.parametrize(("number", "size"), [(400, 1200), (400, 100)])
def test_what_flowed_before_a_container_is_made_anew_is_counted(fleet, work, rental, relay, number, size):
    change_by_hand(fleet, relay)
    with counted(relay, number, size, what="made anew"):
        request_repair(relay_pk=relay.pk)
        work()
        assert_in_order(fleet, rental)


def test_what_flowed_before_a_relay_is_removed_is_counted(fleet, work, rental, relay):
    with counted(relay, 400, 1200, what="removed"):
        pause_rental(rental=rental, by=None)
        work()
        assert Relay.objects.get(pk=relay.pk).status == Relay.Status.RELEASED
    gone = books(relay)
    visit_all()
    assert books(relay) == gone


def test_visits_count_what_flows_while_it_runs_and_after_it_was_killed(fleet, work, rental, relay):
    with counted(relay, 400, 1200, what="visit"):
        visit_all()
    visit_all()
    before = books(relay)
    lost = pump(relay, 100, 1200)
    with fleet.reach(relay.server) as reached:
        reached.engine.kill(f"derp-{settings.PANEL_ID}-{relay.pk}", signal="SIGKILL")
    visit_all()
    work()
    rest_no_more()
    work(sweep=True)
    assert_in_order(fleet, rental)
    visit_all()
    # What no visit had seen is lost, and nothing beside the new container's own beginning came for it.
    assert books(relay).up - before.up < lost
    with counted(relay, 400, 1200, what="after the kill"):
        visit_all()


def test_an_engine_that_starts_anew_costs_no_more_than_what_no_visit_saw(fleet, work, rental, relay):
    begin = books(relay)
    seen = pump(relay, 200, 1200)
    visit_all()
    before = books(relay)
    unseen = pump(relay, 100, 1200)
    fleet.host_of(relay.server).break_it("docker_down")
    fleet.host_of(relay.server).heal()
    for _round in range(3):
        rest_no_more()
        visit_all()
        work(sweep=True)
    assert_in_order(fleet, rental)
    visit_all()
    after = books(relay)
    assert before.up - begin.up >= seen
    # Containers end with their Engine, unless it keeps them (`live-restore`).
    assert after.up - before.up <= unseen + 100 * (AROUND_PACKET + RECEIPT) + 2 * CONNECTIONS
    with counted(relay, 400, 1200, what="after the Engine's start"):
        visit_all()
