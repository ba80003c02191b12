"""Somebody is banned: their relays close their ports at once, and come back as they were when they are let in again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from tests.containers.rentals import plan, prove, ways

if TYPE_CHECKING:
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db


def release(rental: Rental) -> None:
    """The workers have removed what was to be removed."""
    from containers.services.relays import record_released

    for relay in rental.relays.filter(status="removing"):
        record_released(relay=relay, now=timezone.now())


def test_relays_go_with_a_ban_and_the_same_come_back_with_its_end(rental: Rental) -> None:
    from accounts.services import ban_user, unban_user

    before = ways(rental)
    ban_user(user=rental.user, by=None)
    for _time in range(2):
        plan(rental)
        assert {relay.status for relay in rental.relays.all()} == {"removing"}
    release(rental)
    plan(rental)
    assert not rental.relays.live().exists()
    unban_user(user=rental.user, by=None)
    plan(rental)
    prove(rental)
    assert ways(rental) == before
    assert rental.relays.count() == 3


def test_a_ban_and_its_end_are_found_when_their_bells_were_lost(rental: Rental) -> None:
    from accounts.services import ban_user, unban_user
    from containers.services.planning import BARRED_AGAIN, due_rentals

    plan(rental)
    assert due_rentals(timezone.now()) == []
    ban_user(user=rental.user, by=None)
    assert due_rentals(timezone.now()) == [rental.pk]
    plan(rental)
    release(rental)
    plan(rental)
    assert due_rentals(timezone.now()) == []
    unban_user(user=rental.user, by=None)
    assert due_rentals(timezone.now() + BARRED_AGAIN + timedelta(seconds=1)) == [rental.pk]


def test_the_time_goes_on_and_nobody_is_missed_among_those_with_too_few_relays(rental: Rental) -> None:
    from django.utils import translation

    from accounts.services import ban_user, unban_user
    from derpmgmt.lib.matters import read_matters

    def titles() -> str:
        with translation.override("en"):
            return str([matter.title for matter in read_matters()])

    ends_at = rental.ends_at
    ban_user(user=rental.user, by=None)
    plan(rental)
    release(rental)
    rental.refresh_from_db()
    assert rental.ends_at == ends_at
    assert "fewer than three" not in titles()
    unban_user(user=rental.user, by=None)
    assert "1 customer has fewer than three relays" in titles()
