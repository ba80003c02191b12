"""Operators put a customer's relay onto a certain server, or give one up: as rows, make before break; by the API and its admin buttons."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection
from django.utils import timezone

from tests.api import Api
from tests.containers.rentals import DAY, plan, prove, way, ways
from tests.factories import RelayFactory, RentalFactory, ServerFactory, UserFactory

if TYPE_CHECKING:
    from containers.models import Relay
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff() -> Api:
    return Api(UserFactory(role="admin", language="en"))


@pytest.fixture
def free(rental: Rental, servers: list[Server]) -> Server:
    """The one server on which nothing of the customer's stands."""
    used = set(rental.relays.values_list("server_id", flat=True))
    [free] = [server for server in servers if server.pk not in used]
    return free


def allocate(staff: Api, rental: Rental, server: Server, **more: Any) -> Any:
    return staff.post("container/allocate", {"user_id": rental.user_id, "server_id": server.pk, **more})


def settle(rental: Rental) -> None:
    """All that runs by itself, twice."""
    for _ in range(2):
        plan(rental)
        prove(rental)


def test_a_relay_is_allocated_make_before_break_and_nothing_undoes_it(
    staff: Api, rental: Rental, free: Server
) -> None:
    before = ways(rental)
    answer = allocate(staff, rental, free, port=20007)
    assert answer.status_code == 202
    body = answer.json()
    made = rental.relays.get(pk=body["container_id"])
    assert body["follow"] == f"/api/v1/container/status/{made.pk}"
    assert (made.server, made.derp_port, made.slot, made.replaces_id) == (free, 20007, None, body["replaces"])
    assert (body["derp_port"], body["stun_port"]) == (20007, made.stun_port)
    plan(rental)
    assert ways(rental) == before  # until it is proven, everything is as it was
    settle(rental)
    made.refresh_from_db()
    assert (made.status, made.slot) == ("running", 3)
    assert [relay.slot for relay in rental.relays.wanted().order_by("slot")] == [1, 2, 3]
    assert [way(relay) for relay in rental.relays.wanted().order_by("slot")][:2] == before[:2]
    old = rental.relays.get(pk=body["replaces"])
    assert old.retiring_since is not None
    assert old.status == "running"
    from accounts.models import OperationLog

    entry = OperationLog.objects.get(action="relay.allocated")
    assert (entry.subject, entry.detail["server"]) == (rental.user, free.name)


def test_it_goes_into_an_empty_place(staff: Api, rental: Rental, free: Server) -> None:
    from containers.models import Relay

    Relay.objects.filter(rental=rental, slot=2).update(slot=None, status="released")
    body = allocate(staff, rental, free).json()
    assert body["replaces"] is None
    assert rental.relays.get(pk=body["container_id"]).slot == 2
    settle(rental)
    assert rental.relays.wanted().count() == 3
    assert rental.relays.get(slot=2).server == free


def test_one_that_never_carried_a_packet_is_replaced_at_once(
    staff: Api, rental: Rental, free: Server
) -> None:
    from containers.models import Relay

    bad = rental.relays.get(slot=1)
    Relay.objects.filter(pk=bad.pk).update(status="failed", proven_at=None, failure_code="disk_full")
    body = allocate(staff, rental, free).json()
    bad.refresh_from_db()
    assert bad.status == "removing"
    assert rental.relays.get(pk=body["container_id"]).slot == 1
    assert rental.relays.wanted().count() == 3


def _unpaid(rental: Rental, free: Server) -> None:
    rental.__class__.objects.filter(pk=rental.pk).update(runs_until=timezone.now() - DAY)


def _ill(rental: Rental, free: Server) -> None:
    type(free).objects.filter(pk=free.pk).update(status="maintenance")


def _resting(rental: Rental, free: Server) -> None:
    type(free).objects.filter(pk=free.pk).update(next_contact_at=timezone.now() + DAY)


def _bound(rental: Rental, free: Server) -> None:
    rental.spans.get().servers.set({relay.server for relay in rental.relays.wanted()})


def _full(rental: Rental, free: Server) -> None:
    type(free).objects.filter(pk=free.pk).update(capacity=0)


def _no_port(rental: Rental, free: Server) -> None:
    type(free).objects.filter(pk=free.pk).update(udp_port_first=20000, udp_port_last=20000)
    RelayFactory(server=free, stun_port=20000)


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (_unpaid, "no_rights"),
        (_ill, "server_not_usable"),
        (_resting, "server_not_usable"),
        (_bound, "server_not_bought"),
        (_full, "server_full"),
        (_no_port, "server_full"),
    ],
)
def test_what_is_refused_says_why_and_does_nothing(
    staff: Api, rental: Rental, free: Server, case: Any, code: str
) -> None:
    case(rental, free)
    before, count = ways(rental), rental.relays.count()
    answer = allocate(staff, rental, free)
    assert (answer.status_code, answer.json()["code"]) == (409, code), answer.json()
    assert len(answer.json()["message"]) > 20
    assert (ways(rental), rental.relays.count()) == (before, count)


def test_a_second_one_on_the_same_server_is_refused(staff: Api, rental: Rental, free: Server) -> None:
    stands = rental.relays.get(slot=1).server
    assert allocate(staff, rental, stands).json()["code"] == "stands_there"
    assert allocate(staff, rental, free).status_code == 202
    again = allocate(staff, rental, free)
    assert (again.status_code, again.json()["code"]) == (409, "stands_there")
    assert rental.relays.count() == 4


@pytest.mark.parametrize(
    ("port", "code"), [(19999, "port_outside"), (21000, "port_outside"), (20500, "port_taken")]
)
def test_a_port_that_cannot_be_had_is_refused_by_its_name(
    staff: Api, rental: Rental, free: Server, port: int, code: str
) -> None:
    RelayFactory(server=free, derp_port=20500)
    answer = allocate(staff, rental, free, port=port)
    body = answer.json()
    assert (answer.status_code, body["code"], body["field"]) == (409, code, "port")
    assert rental.relays.count() == 3


def test_wrong_fields_unknown_people_and_servers(staff: Api, rental: Rental, free: Server) -> None:
    answer = allocate(staff, rental, free, port=0)
    assert (answer.status_code, answer.json()["field"]) == (422, "port")
    answer = allocate(staff, rental, free, region="sh")
    assert (answer.status_code, answer.json()["field"]) == (422, "region")
    for body, field in (
        ({"user_id": 10**6, "server_id": free.pk}, "user_id"),
        ({"user_id": rental.user_id, "server_id": 10**6}, "server_id"),
    ):
        answer = staff.post("container/allocate", body)
        assert (answer.status_code, answer.json()["field"]) == (404, field)


def test_it_is_for_operators(rental: Rental, free: Server) -> None:
    from accounts.access.models import Scope

    relay = rental.relays.get(slot=1)
    for scopes, code in ((None, "scope_missing"), (list(Scope), "not_allowed")):
        customer = Api(rental.user, scopes=scopes)
        for answer in (allocate(customer, rental, free), customer.delete(f"container/release/{relay.pk}")):
            assert (answer.status_code, answer.json()["code"]) == (403, code)
    assert rental.relays.count() == 3


def test_the_same_key_makes_one_relay(staff: Api, rental: Rental, free: Server) -> None:
    body = {"user_id": rental.user_id, "server_id": free.pk}
    first = staff.post("container/allocate", body, Idempotency_Key="k")
    again = staff.post("container/allocate", body, Idempotency_Key="k")
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert rental.relays.count() == 4


def test_a_relay_is_given_up_and_another_comes_first(staff: Api, rental: Rental, free: Server) -> None:
    old = rental.relays.get(slot=2)
    answer = staff.delete(f"container/release/{old.pk}")
    body = answer.json()
    assert answer.status_code == 202
    made = rental.relays.get(pk=body["successor_id"])
    assert (made.server, made.replaces_id) == (free, old.pk)
    assert body["follow"].endswith(f"/{made.pk}")
    plan(rental)
    assert rental.relays.wanted().filter(status="running").count() == 3
    settle(rental)
    assert rental.relays.get(slot=2) == made
    old.refresh_from_db()
    assert old.retiring_since is not None
    for pk, code in ((old.pk, "relay_gone"), (made.pk, None)):
        answer = staff.delete(f"container/release/{pk}")
        assert answer.json().get("code") == code


def test_it_is_replaced_on_its_own_server_where_there_is_no_other(
    staff: Api, rental: Rental, free: Server
) -> None:
    type(free).objects.filter(pk=free.pk).update(capacity=0)
    old = rental.relays.get(slot=2)
    made = rental.relays.get(pk=staff.delete(f"container/release/{old.pk}").json()["successor_id"])
    assert (made.server_id, made.replaces_id) == (old.server_id, old.pk)
    assert made.derp_port != old.derp_port
    settle(rental)
    assert rental.relays.get(slot=2) == made


def test_it_stays_where_no_server_has_room(staff: Api, rental: Rental, free: Server) -> None:
    type(free).objects.update(capacity=0)
    before = ways(rental)
    answer = staff.delete(f"container/release/{rental.relays.get(slot=2).pk}")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_room")
    settle(rental)
    assert ways(rental) == before


def test_it_is_not_given_up_twice_and_a_successor_that_is_leaves_the_old_one(
    staff: Api, rental: Rental, free: Server
) -> None:
    old, before = rental.relays.get(slot=2), ways(rental)
    made = rental.relays.get(pk=staff.delete(f"container/release/{old.pk}").json()["successor_id"])
    again = staff.delete(f"container/release/{old.pk}")
    assert (again.status_code, again.json()["code"]) == (409, "has_successor")
    answer = staff.delete(f"container/release/{made.pk}")
    assert (answer.status_code, answer.json()["successor_id"]) == (202, None)
    settle(rental)
    assert ways(rental) == before


def test_throwaways_and_the_relays_of_rentals_that_ended_are_refused(
    staff: Api, rental: Rental, free: Server
) -> None:
    throwaway = RelayFactory(rental=None, slot=None, server=free)
    assert staff.delete(f"container/release/{throwaway.pk}").json()["code"] == "relay_gone"
    _unpaid(rental, free)
    assert staff.delete(f"container/release/{rental.relays.get(slot=1).pk}").json()["code"] == "no_rights"
    assert staff.delete("container/release/1000000").status_code == 404


def test_a_successor_that_does_not_come_up_goes_and_the_old_one_stays(
    staff: Api, rental: Rental, free: Server
) -> None:
    from containers.services.relays import record_failure
    from derpmgmt.lib.jobs import Problem

    before = ways(rental)
    made: Relay = rental.relays.get(pk=allocate(staff, rental, free).json()["container_id"])
    record_failure(relay=made, problem=Problem("disk_full", ""), now=timezone.now())
    settle(rental)
    made.refresh_from_db()
    assert made.status == "released"
    assert ways(rental) == before


def test_another_certificate_does_not_bring_it_back(staff: Api, rental: Rental, free: Server) -> None:
    from containers.services.rotation import rotate_relay

    made = rental.relays.get(pk=allocate(staff, rental, free).json()["container_id"])
    settle(rental)
    made.refresh_from_db()
    successor = rotate_relay(relay=made)
    assert successor is not None
    assert successor.server == free
    settle(rental)
    assert free.pk in {relay.server_id for relay in rental.relays.wanted()}


def test_two_at_once_want_the_last_place_of_a_server(staff: Api, rental: Rental, free: Server) -> None:
    type(free).objects.filter(pk=free.pk).update(capacity=1)
    other = RentalFactory()
    ServerFactory.create_batch(3, healthy=True)
    for server in type(free).objects.exclude(pk=free.pk):
        RelayFactory(
            rental=other, server=server, slot=None if other.relays.count() >= 3 else other.relays.count() + 1
        )
    assert allocate(staff, rental, free).status_code == 202
    assert allocate(staff, other, free).json()["code"] == "server_full"


@pytest.mark.django_db(transaction=True)
def test_two_requests_at_once_make_one_relay(staff: Api, rental: Rental, free: Server) -> None:
    begin, answers = threading.Barrier(2), []

    def ask() -> None:
        try:
            begin.wait()
            answers.append(allocate(staff, rental, free).status_code)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [202, 409]
    assert rental.relays.count() == 4
