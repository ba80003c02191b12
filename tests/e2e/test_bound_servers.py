"""Relays that go over to other servers: it takes four, so it is shown in the sandbox only (see conftest.py)."""

from datetime import timedelta

import pytest

from containers import jobs
from containers.derp.probe import probe_relay
from containers.models import Relay
from containers.services.relays import target_of
from serials.numbers.services import redeem_serial
from tests.factories import SerialNumberFactory

from .conftest import assert_in_order
from .test_life import assert_map_works, let_pass, take_map, the_map

pytestmark = pytest.mark.django_db(transaction=True)


def test_relays_go_over_to_the_servers_that_the_time_which_starts_now_is_bound_to(
    fleet, work, rental, customer
):
    work()
    relays = assert_in_order(fleet, rental)
    before = the_map(rental)
    bound = [server for server in fleet.servers if server.pk != relays[0].server_id]
    redeem_serial(
        code=SerialNumberFactory(days=5, servers=bound).code, user=customer, by=customer, start_now=True
    )
    jobs.plan_rental(rental.pk)
    assert the_map(rental) == before
    assert probe_relay(target_of(relays[0])).ok
    work()
    successor = Relay.objects.get(replaces=relays[0])
    assert set(Relay.objects.wanted()) == {successor, *relays[1:]}
    assert successor.server in bound
    assert the_map(rental)["Regions"].keys() == before["Regions"].keys()
    assert_map_works(rental, the_map(rental))
    assert Relay.objects.live().count() == 4

    let_pass(timedelta(hours=2))
    jobs.sweep_retiring()
    work()
    assert Relay.objects.live().count() == 4
    take_map(rental)
    let_pass(timedelta(hours=2))
    jobs.sweep_retiring()
    work()
    assert {relay.server for relay in assert_in_order(fleet, rental)} == set(bound)
    assert len(the_map(rental)["Regions"]) == 3
    assert_map_works(rental, the_map(rental))
