"""Several servers that stop answering together: no rash words to customers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import time_machine
from django.utils import translation

from tests.containers.test_outages import (
    MINUTE,
    answer,
    card_of,
    fail_contact,
    told,
)
from tests.containers.test_outages import test_relay as record_test

if TYPE_CHECKING:
    from accounts.models import Notice, User
    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
BEGIN = datetime.fromisoformat("2026-11-30T08:00:00+00:00")
SECONDS = timedelta(seconds=1)


@pytest.fixture(autouse=True)
def _english() -> Iterator[None]:
    with translation.override("en"):
        yield


@pytest.fixture
def clock() -> Iterator[Any]:
    with time_machine.travel(BEGIN, tick=False) as clock:
        yield clock


def sweep() -> None:
    from containers.jobs import sweep_outages

    sweep_outages()


def fail(*servers: Server, times: int = 2) -> None:
    for server in servers:
        for _time in range(times):
            fail_contact(server)


def notices(user: User) -> list[Notice]:
    return list(user.notices.exclude(state="dropped").order_by("pk"))


def test_customers_hear_nothing_while_the_panel_reaches_nothing(
    rental: Rental, servers: list[Server], clock: Any
) -> None:
    rows = list(rental.relays.wanted().select_related("server", "rental__user").order_by("slot"))
    for relay in rows:
        record_test(relay, passes=True)
    clock.shift(MINUTE)
    fail(*servers)
    for relay in rows:
        record_test(relay, passes=False)
    card = card_of(rows[0])
    assert card.colour == "orange"
    assert "its own network may be cut" in str(card.sentence)
    for _time in range(4):
        clock.shift(10 * MINUTE)
        sweep()
    assert told(rental.user) == {}
    # It sees again: who is heard now are the relays, and each gets its time.
    for server in servers:
        answer(server)
    sweep()
    clock.shift(SECONDS)
    record_test(rows[0], passes=True)
    record_test(rows[1], passes=True)
    record_test(rows[2], passes=False)
    sweep()
    assert told(rental.user) == {}
    clock.shift(10 * MINUTE)
    sweep()
    [notice] = notices(rental.user)
    assert (notice.kind, notice.context["others"]) == ("relay_silent", 2)


def test_a_relay_that_carries_shows_that_the_network_is_not_cut(
    rental: Rental, servers: list[Server], clock: Any
) -> None:
    rows = list(rental.relays.wanted().select_related("server", "rental__user").order_by("slot"))
    fail(*servers)
    clock.shift(SECONDS)
    record_test(rows[0], passes=True)
    record_test(rows[1], passes=False)
    assert card_of(rows[1]).colour == "red"
    clock.shift(10 * MINUTE)
    sweep()
    assert told(rental.user) == {"relay_silent": 1}
