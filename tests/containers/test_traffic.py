"""The books of traffic: hours, days and months, whose months begin when, and what is never counted."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.db.models import Sum
from django.test.utils import CaptureQueriesContext

from containers.matters import matters
from containers.models import (
    Relay,
    TrafficCounter,
    TrafficDay,
    TrafficError,
    TrafficHour,
    TrafficMonth,
    TrafficServerMonth,
)
from containers.services import traffic
from fleet.models import Server
from serials.rentals.models import Rental
from tests.containers.metered import World
from tests.factories import RelayFactory, RentalFactory, ServerFactory

AT = datetime(2026, 11, 30, 12, 0, 10, tzinfo=UTC)  # 20:00 in Shanghai

pytestmark = pytest.mark.django_db


def total(model: Any, **wanted: Any) -> tuple[int, int]:
    sums = model.objects.filter(**wanted).aggregate(
        up=Sum("up_bytes", default=0), down=Sum("down_bytes", default=0)
    )
    return sums["up"], sums["down"]


@pytest.fixture
def world() -> World:
    rental = RentalFactory()
    Rental.objects.filter(pk=rental.pk).update(created_at=datetime(2026, 8, 31, 3, tzinfo=UTC))
    server = ServerFactory(healthy=True)
    return World([RelayFactory(rental=rental, server=server), RelayFactory(server=server)], AT)


def test_what_flowed_stands_in_all_books(world: World):
    world.flow(0, 1000, 200)
    world.flow(1, 50, 7)
    world.visit()
    world.pass_time(15)
    world.at += timedelta(hours=5)  # the next day in Shanghai
    world.flow(0, 3000, 900)
    world.visit()
    first = world.boxes[0].relay
    hour = int(AT.timestamp()) // 3600
    assert total(TrafficHour, relay=first, hour=hour) == (1000, 200)
    assert total(TrafficHour, relay=first, hour=hour + 5) == (3000, 900)
    assert total(TrafficDay, relay=first, day=date(2026, 11, 30)) == (1000, 200)
    assert total(TrafficDay, relay=first, day=date(2026, 12, 1)) == (3000, 900)
    # The rental began on the 31st, so in November its month begins on the 30th.
    month = TrafficMonth.objects.get(relay=first)
    assert (month.begins_on, month.up_bytes, month.down_bytes) == (date(2026, 11, 30), 4000, 1100)
    assert (month.up_rate, month.down_rate) == (200, 60)
    assert month.rental_id == first.rental_id
    months = {row.begins_on: (row.up_bytes, row.down_bytes) for row in TrafficServerMonth.objects.all()}
    assert months == {date(2026, 11, 1): (1050, 207), date(2026, 12, 1): (3000, 900)}


def test_a_visit_that_comes_twice_or_late_changes_nothing(world: World):
    world.flow(0, 1000, 200)
    early = world.look()
    world.pass_time(15)
    world.flow(0, 1, 1)
    late = world.look()
    for look in (late, early, late, early):
        world.record(look)
    assert (
        total(TrafficHour)
        == total(TrafficDay)
        == total(TrafficMonth)
        == total(TrafficServerMonth)
        == (1001, 201)
    )


def test_relays_of_nobody_and_of_other_servers_are_not_counted(world: World):
    Relay.objects.filter(pk=world.boxes[0].relay.pk).update(rental=None, slot=None)
    Relay.objects.filter(pk=world.boxes[1].relay.pk).update(server=ServerFactory())
    world.flow(0, 10, 10)
    world.flow(1, 10, 10)
    world.visit()
    assert not TrafficCounter.objects.exists()
    assert not TrafficServerMonth.objects.exists()


def test_a_relay_stays_known_after_it_was_released(world: World):
    world.flow(0, 10, 20)
    world.visit()
    Relay.objects.filter(pk=world.boxes[0].relay.pk).update(status=Relay.Status.RELEASED, slot=None)
    world.flow(0, 5, 5)
    world.visit()
    assert total(TrafficMonth, relay=world.boxes[0].relay) == (15, 25)


def test_what_flowed_before_traffic_was_counted_is_left_out(world: World):
    Relay.objects.filter(pk=world.boxes[0].relay.pk).update(metered_since=None)
    world.flow(0, 10**12, 10**12)
    world.uptime += 10**6
    world.visit()
    world.pass_time(15)
    world.flow(0, 30, 40)
    world.visit()
    assert total(TrafficDay) == (30, 40)
    world.begin_anew(0)
    world.flow(0, 1, 1)
    world.visit()
    assert total(TrafficDay) == (31, 41)


def test_a_months_new_day_counts_what_flowed_since(world: World):
    world.flow(0, 100, 0)
    world.at -= timedelta(days=20)
    world.visit()
    world.flow(0, 20, 0)
    world.at = AT - timedelta(days=5)
    world.visit()
    Server.objects.filter(pk=world.server_pk).update(traffic_reset_day=15)
    world.flow(0, 3, 0)
    world.at = AT
    world.visit()
    world.flow(0, 4, 0)
    world.visit()
    months = dict(TrafficServerMonth.objects.values_list("begins_on", "up_bytes"))
    assert months == {date(2026, 11, 1): 120, date(2026, 11, 15): 27}


def test_a_wrong_reading_is_kept_out_and_said(world: World):
    world.flow(0, 10, 20)
    world.visit()
    right = world.boxes[0].received
    for wrong in (2**63 + 5, 2**61, -4):
        world.boxes[0].received = wrong
        world.pass_time(15)
        world.visit()
    world.boxes[0].received = right + 5
    world.visit()
    assert total(TrafficDay) == (15, 20)
    said = TrafficError.objects.get()
    assert (said.relay_id, said.number, said.doubt, said.received_bytes) == (
        world.boxes[0].relay.pk, 3, "no_number", "-4",
    )  # fmt: skip
    (matter,) = [one for one in matters(AT + timedelta(hours=23)) if one.key.startswith("traffic_error")]
    assert str(world.boxes[0].relay.server) in matter.title
    assert "-4" in matter.text
    assert not [one for one in matters(AT + timedelta(hours=25)) if one.key.startswith("traffic_error")]


def test_epochs_are_forgotten_only_after_another_one_began(world: World):
    world.flow(0, 10, 20)
    world.visit()
    world.at += timedelta(days=9)
    world.pass_time(9 * 86400)
    world.flow(0, 1, 1)
    world.visit()  # The server was away for nine days.
    assert total(TrafficDay) == (11, 21)
    world.begin_anew(0)
    world.visit()
    assert TrafficCounter.objects.filter(relay=world.boxes[0].relay).count() == 2
    world.at += timedelta(days=3)
    world.pass_time(3 * 86400)
    world.begin_anew(0)
    world.visit()
    assert TrafficCounter.objects.filter(relay=world.boxes[0].relay).count() == 1


def test_hours_go_after_ninety_days_and_days_stay(world: World):
    world.flow(0, 10, 20)
    world.visit()
    assert traffic.prune_traffic(AT + timedelta(days=90)) == 0
    assert traffic.prune_traffic(AT + timedelta(days=90, hours=1)) == 1
    assert total(TrafficDay) == (10, 20)


def test_a_visit_costs_as_many_queries_however_many_relays_there_are(world: World):
    def queries() -> int:
        world.pass_time(15)
        for number in range(len(world.boxes)):
            world.flow(number, 10, 10)
        with CaptureQueriesContext(
            connection,
        ) as found:
            world.visit()
        return len(found)

    world.visit()
    few = queries()
    server = Server.objects.get(pk=world.server_pk)
    more = World([box.relay for box in world.boxes] + [RelayFactory(server=server) for _ in range(8)], AT)
    more.boxes[:2] = world.boxes
    world = more
    world.visit()
    assert queries() == few <= 9
