"""Relays that stand on other servers than the time that runs is bound to go over to those: as rows, make before break."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

from tests.containers.rentals import DAY, end, plan, prove, set_end, ways
from tests.factories import RentalSpanFactory, ServerFactory

if TYPE_CHECKING:
    from collections.abc import Iterable

    from containers.models import Relay
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db


@pytest.fixture
def others(rental: Rental, servers: list[Server]) -> list[Server]:
    """Three further servers on which nothing of the customer's stands."""
    used = set(rental.relays.values_list("server_id", flat=True))
    free = [server for server in servers if server.pk not in used]
    return [*free, *ServerFactory.create_batch(3 - len(free), healthy=True)]


def bind(rental: Rental, servers: Iterable[Server]) -> None:
    """What runs now is bound to these servers alone."""
    rental.spans.get().servers.set(servers)


def places(rental: Rental) -> dict[int | None, int]:
    return {relay.slot: relay.server_id for relay in rental.relays.wanted()}


def moving(rental: Rental) -> list[Relay]:
    """The successors that are not proven yet."""
    return list(rental.relays.filter(status="planned", slot=None, replaces__isnull=False).order_by("pk"))


def test_relays_go_over_to_the_bound_servers_make_before_break(rental: Rental, others: list[Server]) -> None:
    from containers.services import rotation

    before, old = ways(rental), list(rental.relays.wanted())
    bind(rental, others)
    plan(rental)
    plan(rental)  # nothing is doubled
    rental.refresh_from_db()
    assert rental.plan_due_at == rental.runs_until
    successors = moving(rental)
    assert {relay.server_id for relay in successors} == {server.pk for server in others}
    assert {relay.replaces_id for relay in successors} == {relay.pk for relay in old}
    assert ways(rental) == before
    assert set(rental.relays.in_map()) == set(old)

    prove(rental)
    plan(rental)
    assert places(rental) == {
        slot: successor.server_id for slot, successor in zip((1, 2, 3), successors, strict=True)
    }
    assert set(rental.relays.in_map()) == set(successors)
    assert {relay.status for relay in rental.relays.retiring()} == {"running"}
    rental.refresh_from_db()
    assert rental.plan_due_at == rental.runs_until

    over = timezone.now() + 8 * DAY
    assert set(rotation.due_retirements(over)) == {relay.pk for relay in old}
    for relay in rental.relays.retiring():
        rotation.retire_relay(relay=relay)
    prove(rental)
    assert set(rental.relays.live()) == set(successors)


def test_only_those_move_that_stand_elsewhere(rental: Rental, others: list[Server]) -> None:
    stays, *old = rental.relays.wanted().order_by("slot")
    bind(rental, [stays.server, *others[:2]])
    plan(rental)
    assert {relay.replaces_id for relay in moving(rental)} == {relay.pk for relay in old}
    prove(rental)
    assert set(places(rental).values()) == {stays.server_id, others[0].pk, others[1].pk}
    assert rental.relays.get(slot=1) == stays


def test_they_move_when_the_time_begins_that_is_bound(rental: Rental, others: list[Server]) -> None:
    from containers.services.planning import due_rentals, plan_relays

    first = rental.spans.get()
    second = RentalSpanFactory(
        rental=rental, redemption=first.redemption, starts_at=first.ends_at, ends_at=first.ends_at + DAY
    )
    second.servers.set(others)
    set_end(rental, second.ends_at)
    plan(rental)
    assert moving(rental) == []
    assert due_rentals(first.ends_at) == [rental.pk]
    plan_relays(rental_pk=rental.pk, now=second.starts_at)
    assert len(moving(rental)) == 3


@pytest.mark.parametrize("case", ["maintenance", "full", "resting"])
def test_everything_stays_while_fewer_than_three_bound_servers_are_usable(
    rental: Rental, others: list[Server], case: str
) -> None:
    from containers.services.planning import due_rentals
    from fleet.models import Server
    from serials.rentals.services import PLAN_AGAIN

    before = ways(rental)
    last: dict[str, dict[str, Any]] = {
        "maintenance": {"status": Server.Status.MAINTENANCE},
        "full": {"capacity": 0},
        "resting": {"next_contact_at": timezone.now() + DAY},
    }
    Server.objects.filter(pk=others[2].pk).update(**last[case])
    bind(rental, others)
    plan(rental)
    assert ways(rental) == before
    assert rental.relays.live().count() == 3
    assert due_rentals(timezone.now() + PLAN_AGAIN) == [rental.pk]
    Server.objects.filter(pk=others[2].pk).update(
        status=Server.Status.HEALTHY, capacity=50, next_contact_at=None
    )
    plan(rental)
    assert len(moving(rental)) == 3


def test_everything_stays_while_the_server_of_one_that_need_not_move_is_unusable(
    rental: Rental, others: list[Server]
) -> None:
    from fleet.models import Server

    stays = rental.relays.get(slot=1).server
    Server.objects.filter(pk=stays.pk).update(status=Server.Status.UNHEALTHY)
    bind(rental, [stays, *others[:2]])
    plan(rental)
    assert moving(rental) == []
    Server.objects.filter(pk=stays.pk).update(status=Server.Status.HEALTHY)
    plan(rental)
    assert len(moving(rental)) == 2


def test_everything_stays_while_a_new_certificate_takes_the_last_server(
    rental: Rental, others: list[Server]
) -> None:
    from containers.services.rotation import rotate_relay
    from fleet.models import Server

    stays = rental.relays.get(slot=1)
    Server.objects.filter(pk=stays.server_id).update(capacity=1)
    bind(rental, [stays.server, *others[:2]])
    renewing = rotate_relay(relay=stays)
    assert renewing is not None
    assert renewing.server_id == others[0].pk
    plan(rental)
    assert moving(rental) == [renewing]


def test_the_old_one_stays_until_a_successor_that_failed_is_made_anew(
    rental: Rental, others: list[Server]
) -> None:
    from containers.models import Relay
    from containers.services.relays import record_failure
    from derpmgmt.lib.jobs import Problem

    before = ways(rental)
    bind(rental, others)
    plan(rental)
    failed = moving(rental)[0]
    record_failure(relay=failed, problem=Problem("disk_full", ""), now=timezone.now())
    plan(rental)
    failed.refresh_from_db()
    assert failed.status == "removing"
    assert len(moving(rental)) == 2
    prove(rental)  # the other two come up, the failed one is gone
    plan(rental)
    assert ways(rental)[0] == before[0]
    assert moving(rental) == []  # its server is avoided for a while, and there is no other
    Relay.objects.filter(pk=failed.pk).update(failed_at=timezone.now() - timedelta(minutes=11))
    plan(rental)
    assert [relay.server_id for relay in moving(rental)] == [failed.server_id]
    prove(rental)
    assert set(places(rental).values()) == {server.pk for server in others}


def test_successors_elsewhere_are_given_up_when_the_bound_servers_are_others_meanwhile(
    rental: Rental, servers: list[Server], others: list[Server]
) -> None:
    before = ways(rental)
    bind(rental, others)
    plan(rental)
    bind(rental, {relay.server for relay in rental.relays.wanted()})
    plan(rental)
    assert moving(rental) == []
    prove(rental)
    plan(rental)
    assert ways(rental) == before
    assert rental.relays.live().count() == 3


def test_they_can_go_back_to_where_the_old_ones_still_retire(rental: Rental, others: list[Server]) -> None:
    at_first = {relay.server for relay in rental.relays.wanted()}
    bind(rental, others)
    plan(rental)
    prove(rental)
    bind(rental, at_first)
    plan(rental)
    prove(rental)
    assert set(places(rental).values()) == {server.pk for server in at_first}
    assert rental.relays.retiring().count() == 6


def test_one_that_never_ran_is_made_on_a_bound_server_without_a_successor(
    rental: Rental, others: list[Server]
) -> None:
    from containers.models import Relay

    unproven = rental.relays.get(slot=2)
    Relay.objects.filter(pk=unproven.pk).update(status="planned", proven_at=None)
    bind(rental, others)
    plan(rental)
    unproven.refresh_from_db()
    assert (unproven.status, unproven.slot) == ("removing", None)
    assert {relay.replaces.slot for relay in moving(rental) if relay.replaces} == {1, 3}
    assert rental.relays.get(slot=2).server_id in {server.pk for server in others}
    prove(rental)
    assert set(places(rental).values()) == {server.pk for server in others}


def test_one_that_fails_after_it_ran_moves_too(rental: Rental, others: list[Server]) -> None:
    from containers.models import Relay

    Relay.objects.filter(rental=rental, slot=1).update(
        status="failed", failure_code="no_answer", failed_at=timezone.now()
    )
    bind(rental, others)
    plan(rental)
    prove(rental)
    assert set(places(rental).values()) == {server.pk for server in others}


def test_a_successor_that_only_renews_a_certificate_gives_way(rental: Rental, others: list[Server]) -> None:
    from containers.services.rotation import rotate_relay

    renewing = rotate_relay(relay=rental.relays.get(slot=1))
    assert renewing is not None
    bind(rental, others)
    plan(rental)
    renewing.refresh_from_db()
    assert renewing.status == "removing"
    prove(rental)
    assert set(places(rental).values()) == {server.pk for server in others}


def test_nothing_moves_when_the_servers_are_free_again_or_the_rental_has_ended(
    rental: Rental, others: list[Server]
) -> None:
    bind(rental, others)
    plan(rental)
    prove(rental)
    after = ways(rental)
    bind(rental, ())
    plan(rental)
    assert ways(rental) == after
    assert moving(rental) == []
    bind(rental, others)
    end(rental)
    set_end(rental, timezone.now() + DAY)
    plan(rental)
    assert ways(rental) == after
