"""Operators put a relay onto a certain server and give another one up, by the API: it takes four servers, so it is shown in the sandbox
only (see conftest.py)."""

from datetime import timedelta

import pytest

from acl.maps.jobs import sweep_maps
from containers import jobs
from containers.derp.probe import probe_relay
from containers.models import Relay
from containers.services.relays import target_of
from tests.api import Api
from tests.factories import UserFactory

from .conftest import assert_in_order
from .test_life import assert_map_works, let_pass, take_map, the_map

pytestmark = pytest.mark.django_db(transaction=True)


def carrying(rental):
    """The customer's three relays, each of which carries a packet now."""
    relays = list(Relay.objects.wanted().filter(rental=rental).order_by("slot"))
    assert [relay.slot for relay in relays] == [1, 2, 3]
    assert [probe_relay(target_of(relay)).ok for relay in relays] == [True] * 3
    return relays


def test_three_proven_relays_stay_and_the_map_follows(fleet, work, rental, customer):
    work()
    relays = assert_in_order(fleet, rental)
    before = the_map(rental)
    staff, own = Api(UserFactory(role="admin")), Api(customer)
    [free] = [server for server in fleet.servers if server.pk not in {relay.server_id for relay in relays}]

    answer = staff.post("container/allocate", {"user_id": customer.pk, "server_id": free.pk, "port": 20042})
    assert answer.status_code == 202, answer.json()
    made = answer.json()
    path = made["follow"].removeprefix("/api/v1/")
    assert own.get(path).json()["container"]["status"] == "planned"
    assert carrying(rental) == relays
    assert the_map(rental) == before

    work()
    state = own.get(path).json()
    assert state["container"]["is_carrying"] is True
    assert state["container"]["derp_port"] == 20042
    assert state["deployment"]["status"] == "done"
    assert {step["name"] for step in state["deployment"]["steps"]} >= {"connect", "create", "probe"}
    assert [proof["is_ok"] for proof in state["proofs"]] == [True] * len(state["proofs"]) != []
    after = carrying(rental)
    moved = Relay.objects.get(pk=made["container_id"])
    assert moved in after
    assert moved.server == free
    assert set(after) - {moved} == set(relays) - {Relay.objects.get(pk=made["replaces"])}
    # The old one runs on for those who have the old map.
    assert probe_relay(target_of(Relay.objects.get(pk=made["replaces"]))).ok
    body = own.post("acl/generate").json()
    assert body["acl"]["Regions"].keys() == before["Regions"].keys()
    ports = {node["DERPPort"] for region in body["acl"]["Regions"].values() for node in region["Nodes"]}
    assert ports == {relay.derp_port for relay in after}
    assert_map_works(rental, body["acl"])

    # Nothing of what runs by itself brings it back.
    let_pass(timedelta(minutes=2))
    work(sweep=True)
    assert carrying(rental) == after

    gone = next(relay for relay in after if relay != moved)
    answer = staff.delete(f"container/release/{gone.pk}")
    assert answer.status_code == 202, answer.json()
    assert carrying(rental) == after
    work()
    successor = Relay.objects.get(pk=answer.json()["successor_id"])
    last = carrying(rental)
    assert set(last) == {*after, successor} - {gone}
    assert successor.server_id != gone.server_id
    sweep_maps()
    assert_map_works(rental, the_map(rental))

    take_map(rental)
    let_pass(timedelta(hours=2))
    jobs.sweep_retiring()
    work()
    assert assert_in_order(fleet, rental) == last
    assert the_map(rental)["Regions"].keys() == before["Regions"].keys()
