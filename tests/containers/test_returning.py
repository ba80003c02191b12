"""Relays that come back as they were, and successors that stand beside a relay until nobody needs it: as rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from tests.containers.rentals import DAY, end, plan, prove, set_end, ways
from tests.factories import RelayFactory, RentalFactory, RentalSpanFactory

if TYPE_CHECKING:
    from containers.models import Relay
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db


# Coming back


def test_the_same_relays_come_back_when_an_ended_rental_is_renewed(rental: Rental) -> None:
    before = ways(rental)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    assert ways(rental) == before
    assert {relay.status for relay in rental.relays.wanted()} == {"planned"}
    assert {relay.proven_at for relay in rental.relays.wanted()} == {None}
    plan(rental)
    prove(rental)
    assert ways(rental) == before
    assert rental.relays.count() == 3


def test_relays_that_are_still_being_removed_come_back_too(rental: Rental) -> None:
    from containers.services.relays import record_released

    before = ways(rental)
    set_end(rental, timezone.now() - DAY)
    plan(rental)
    removing = list(rental.relays.live())
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    # The removal that was under way ends only now.
    for relay in removing:
        record_released(relay=relay, now=timezone.now())
    assert ways(rental) == before


@pytest.mark.parametrize("case", ["server", "port", "certificate", "address", "full", "range"])
def test_another_relay_takes_the_place_when_the_old_one_cannot_come_back(
    rental: Rental, servers: list[Server], case: str
) -> None:
    from containers.models import Relay
    from fleet.models import Server

    before = ways(rental)
    end(rental)
    first = Relay.objects.get(pk=before[0][0])
    mine, server = Relay.objects.filter(pk=first.pk), Server.objects.filter(pk=first.server_id)
    match case:
        case "server":
            server.update(status=Server.Status.MAINTENANCE)
        case "port":
            RelayFactory(rental=RentalFactory(), server=first.server, derp_port=first.derp_port)
        case "certificate":
            mine.update(certificate_ends_at=timezone.now() + 29 * DAY)
        case "address":
            mine.update(certificate_address="198.51.100.200")
        case "full":
            RelayFactory(rental=RentalFactory(), server=first.server)
            server.update(capacity=1)
        case "range":
            server.update(tcp_port_first=first.derp_port + 1)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    after = ways(rental)
    assert after[1:] == before[1:]
    assert len(after) == 3
    assert after[0][0] != before[0][0]
    assert after[0][5] != before[0][5]


def test_a_relay_that_does_not_come_up_again_is_replaced(rental: Rental) -> None:
    from containers.models import Relay
    from containers.services.relays import record_failure
    from derpmgmt.lib.jobs import Problem

    before = ways(rental)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    first = Relay.objects.get(pk=before[0][0])
    record_failure(relay=first, problem=Problem("port_taken", ""), now=timezone.now())
    plan(rental)
    assert ways(rental)[1:] == before[1:]
    assert ways(rental)[0][0] != first.pk


def test_only_the_last_holder_of_a_place_comes_back(rental: Rental) -> None:
    from containers.models import Relay
    from fleet.models import Server

    end(rental)
    gone = Relay.objects.order_by("pk").first()
    assert gone is not None
    Server.objects.filter(pk=gone.server_id).update(status=Server.Status.MAINTENANCE)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    prove(rental)
    before = ways(rental)
    end(rental)
    Server.objects.update(status=Server.Status.HEALTHY)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    assert ways(rental) == before


# When a plan is due


def test_no_plan_is_due_before_something_changes(rental: Rental) -> None:
    from containers.services.planning import due_rentals

    plan(rental)
    rental.refresh_from_db()
    assert rental.plan_due_at == rental.runs_until
    assert due_rentals(timezone.now()) == []
    assert rental.runs_until is not None
    assert due_rentals(rental.runs_until) == [rental.pk]
    set_end(rental, timezone.now())
    plan(rental)
    rental.refresh_from_db()
    assert rental.plan_due_at is None


def test_a_plan_is_made_again_soon_when_a_place_stays_empty(servers: list[Server], announced: Any) -> None:
    from containers.services.planning import due_rentals
    from fleet.models import Server
    from serials.rentals.services import PLAN_AGAIN

    Server.objects.exclude(pk=servers[0].pk).update(status=Server.Status.MAINTENANCE)
    rental = RentalFactory()
    plan(rental)
    assert due_rentals(timezone.now()) == []
    assert due_rentals(timezone.now() + PLAN_AGAIN) == [rental.pk]


def test_a_plan_is_due_at_the_start_of_the_next_span(rental: Rental) -> None:

    span = rental.spans.get()
    starts_at = span.ends_at
    RentalSpanFactory(rental=rental, redemption=span.redemption, starts_at=starts_at, ends_at=starts_at + DAY)
    set_end(rental, starts_at + DAY)
    plan(rental)
    rental.refresh_from_db()
    assert rental.plan_due_at == starts_at


# Successors


def rotated(rental: Rental) -> tuple[Relay, Relay]:
    """The relay in place 1 and its successor, which is not proven yet."""
    from containers.services.rotation import rotate_relay

    old = rental.relays.get(slot=1)
    successor = rotate_relay(relay=old)
    assert successor is not None
    return old, successor


def test_a_successor_stands_beside_the_old_one_with_a_pin_of_its_own(rental: Rental) -> None:
    from containers.models import Relay

    old, successor = rotated(rental)
    assert successor.server_id == old.server_id
    assert successor.derp_port != old.derp_port
    assert successor.stun_port != old.stun_port
    assert successor.certificate_sha256 != old.certificate_sha256
    assert successor not in Relay.objects.in_map()
    assert [relay.slot for relay in rental.relays.in_map()] == [1, 2, 3]
    plan(rental)
    prove(rental)
    old.refresh_from_db()
    successor.refresh_from_db()
    assert (old.slot, old.status, successor.slot) == (None, "running", 1)
    assert old.retiring_since is not None
    assert set(rental.relays.in_map()) == set(rental.relays.wanted())
    plan(rental)
    assert rental.relays.live().count() == 4


def test_nothing_is_doubled_when_a_relay_is_rotated_twice(rental: Rental) -> None:
    from containers.services.rotation import rotate_relay

    old, _successor = rotated(rental)
    assert rotate_relay(relay=old) is None
    prove(rental)
    assert rotate_relay(relay=old) is None
    assert rental.relays.count() == 4


def test_a_successor_goes_elsewhere_when_its_server_is_full(rental: Rental) -> None:
    from fleet.models import Server

    Server.objects.filter(pk=rental.relays.get(slot=1).server_id).update(capacity=1)
    _old, successor = rotated(rental)
    assert successor.server_id not in set(rental.relays.wanted().values_list("server_id", flat=True))
    prove(rental)
    assert {relay.slot for relay in rental.relays.wanted()} == {1, 2, 3}


def test_the_old_one_stays_in_its_place_when_its_successor_does_not_come_up(rental: Rental) -> None:
    from containers.services.relays import record_failure
    from derpmgmt.lib.jobs import Problem

    before = ways(rental)
    _old, successor = rotated(rental)
    record_failure(relay=successor, problem=Problem("port_taken", ""), now=timezone.now())
    plan(rental)
    successor.refresh_from_db()
    assert successor.status == "removing"
    assert ways(rental) == before


def test_certificates_are_renewed_a_month_before_their_end(rental: Rental) -> None:
    from containers.models import Relay
    from containers.services.rotation import due_rotations

    now = timezone.now()
    assert due_rotations(now) == []
    first = rental.relays.get(slot=1)
    Relay.objects.filter(pk=first.pk).update(certificate_ends_at=now + 30 * DAY)
    assert due_rotations(now) == [first]
    rotated(rental)
    assert due_rotations(now) == []
    prove(rental)
    assert due_rotations(now) == []


def test_a_retiring_relay_goes_with_the_end_of_its_grace(rental: Rental, announced: Any) -> None:
    from containers import jobs
    from containers.models import Relay
    from containers.services.rotation import due_retirements

    old, _successor = rotated(rental)
    prove(rental)
    assert due_retirements(timezone.now()) == []
    Relay.objects.filter(pk=old.pk).update(retiring_since=timezone.now() - 7 * DAY)
    assert due_retirements(timezone.now()) == [old.pk]
    announced.clear()
    jobs.retire_relay(old.pk)
    jobs.retire_relay(old.pk)
    old.refresh_from_db()
    assert old.status == "removing"
    assert announced == [("relay_to_apply", old.pk), ("rental_relays_changed", rental.pk)]
    prove(rental)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    assert old.pk not in {relay.pk for relay in rental.relays.live()}


def test_all_go_and_the_right_ones_come_back_when_the_rental_ends_amid_a_rotation(rental: Rental) -> None:
    old, successor = rotated(rental)
    prove(rental)
    rotating = rental.relays.get(slot=2)
    from containers.services.rotation import rotate_relay

    rotate_relay(relay=rotating)
    before = ways(rental)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    assert ways(rental) == before
    assert {relay.pk for relay in rental.relays.live()} == {successor.pk, rotating.pk, before[2][0]}
    assert old.pk not in {relay.pk for relay in rental.relays.live()}


def test_looking_for_work_costs_the_same_however_many_rentals_there_are(rental: Rental) -> None:
    from containers.services.planning import due_rentals
    from containers.services.rotation import due_retirements, due_rotations

    plan(rental)
    with CaptureQueriesContext(connection) as queries:
        assert due_rentals(timezone.now()) == []
        assert due_rotations(timezone.now()) == []
        assert due_retirements(timezone.now()) == []
    assert len(queries) == 4
