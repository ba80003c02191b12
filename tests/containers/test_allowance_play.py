"""What is written down of a customer's traffic against what it should be, played at random.

Traffic flows, months begin, relays move, operators say and add something, customers renew, and whoever judges dies at any of its writes.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from unittest.mock import patch

import pytest
from django.conf import settings as panel
from django.db import connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from accounts.models import Notice
from containers.allowance_words import CAPS
from containers.models import Relay
from containers.services.allowances import judge_rental, set_relay_limits, unrecorded
from containers.services.relays import create_relay, record_running
from containers.services.traffic import month_of
from containers.traffic_models import TrafficMonth
from serials.rentals import services
from serials.rentals.models import Rental, TrafficGrant
from tests.containers.dying import Died, die_at
from tests.factories import RelayFactory, RentalFactory, ServerFactory

pytestmark = pytest.mark.django_db
QUOTA, OWN = 1000, 300


class Play:
    """A customer, and beside the rows what should stand in them."""

    def __init__(self, at_quota: str, sold: str) -> None:
        self.sold, self.at_quota, self.now = sold, at_quota, timezone.now()
        self.rental = RentalFactory(days=2000)
        self.rental.spans.update(at_quota=at_quota, **{sold: QUOTA})
        for slot in (1, 2):
            RelayFactory(rental=self.rental, slot=slot)
        own = {"cap_both_bytes": OWN, "cap_at_quota": "stop"}
        set_relay_limits(relay=self.relay(2), caps=own, note="", by=None)
        self.flowed = {1: 0, 2: 0}
        self.said: int | None = None
        self.added = 0
        # Renewals since it was seen that all is used; None while it was not.
        self.renewals: int | None = None
        self.told: set[tuple[str, str]] = set()

    def relay(self, slot: int) -> Relay:
        return self.rental.relays.get(slot=slot)

    @property
    def way(self) -> str:
        """In which direction all flows: the one that was sold, if only one was."""
        return "down_bytes" if self.sold == "download_quota_bytes" else "up_bytes"

    @property
    def month(self) -> str:
        return str(month_of(self.rental, self.now))

    def flow(self, number: int) -> None:
        slot, size = 1 + number % 2, number
        month = month_of(self.rental, self.now)
        values = {"rental": self.rental, "read_at": self.now}
        row, _new = TrafficMonth.objects.get_or_create(
            relay=self.relay(slot), begins_on=month, defaults=values
        )
        TrafficMonth.objects.filter(pk=row.pk).update(**{self.way: getattr(row, self.way) + size})
        self.flowed[slot] += size

    def add(self, number: int) -> None:
        grant = services.add_traffic(rental=self.rental, size_bytes=1 + number, by=None)
        assert grant
        TrafficGrant.objects.filter(pk=grant.pk).update(at=self.now)
        self.added += 1 + number

    def renew(self, _number: int) -> None:
        end = Rental.objects.get(pk=self.rental.pk).ends_at
        services.renew_rental(rental=self.rental, until=end + timedelta(days=1), by=None)
        if self.renewals is not None:
            self.renewals += 1

    def say(self, number: int) -> None:
        self.said = [None, 0, 400, 2000][number % 4]
        services.set_limits(rental=self.rental, caps={CAPS[self.sold]: self.said}, note="", by=None)

    def move(self, _number: int) -> None:
        old, server = self.relay(2), ServerFactory()
        made = create_relay(self.rental, server, (20000, 20000), self.now, replaces=old)
        record_running(relay=made, image="image", now=self.now)
        assert self.relay(2) == made

    def pass_month(self, _number: int) -> None:
        self.now += timedelta(days=31)
        self.flowed, self.added = {1: 0, 2: 0}, 0

    def die(self, number: int) -> None:
        with suppress(Died), connection.execute_wrapper(die_at(number % 8)):
            self._judge()
            self._follow()

    def judge(self, _number: int = 0) -> None:
        self._judge()
        self._follow()
        self._compare()
        self._judge()
        self._compare()

    def _judge(self) -> None:
        for pk in unrecorded(self.now):
            judge_rental(rental_pk=pk, now=self.now)

    def _follow(self) -> None:
        """What is so once somebody has looked."""
        base = QUOTA if self.said is None else self.said
        used = sum(self.flowed.values())
        if base and used >= base + self.added and self.renewals:
            self.added += base * self.renewals
            self.renewals = 0
        self.state = "fine"
        if base and used >= base + self.added:
            self.state = "over"
        elif base and used * 100 >= (base + self.added) * 80:
            self.state = "near"
        self.renewals = (self.renewals or 0) if self.state == "over" else None
        if self.state != "fine":
            self.told.add((f"traffic_{self.state}", self.month))

    def _compare(self) -> None:
        rental = Rental.objects.get(pk=self.rental.pk)
        assert unrecorded(self.now) == []
        assert (rental.traffic_state, rental.added_bytes) == (self.state, self.added)
        is_stopped = self.state == "over" and self.at_quota == "stop"
        assert (rental.stopped_at is not None) == is_stopped
        is_slow = self.state == "over" and self.at_quota == "throttle"
        assert self.relay(1).rate == (panel.LIFELINE_RATE if is_slow else None)
        if not is_stopped:
            stopped = [relay.stopped_at is not None for relay in rental.relays.filter(place=2)]
            assert stopped == [self.flowed[2] >= OWN] * len(stopped)
        keys = [f"{kind}-{rental.pk}-{month}" for kind, month in self.told]
        of_customer = Notice.objects.filter(user=rental.user, kind__startswith="traffic_")
        of_customer = of_customer.exclude(key__contains="place")
        assert sorted(of_customer.values_list("key", flat=True)) == sorted(keys)


ACTS: dict[str, Callable[[Play, int], None]] = {
    "flow": Play.flow,
    "add": Play.add,
    "renew": Play.renew,
    "say": Play.say,
    "move": Play.move,
    "month": Play.pass_month,
    "die": Play.die,
    "judge": Play.judge,
}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    at_quota=st.sampled_from(["stop", "throttle", "nothing"]),
    sold=st.sampled_from(["quota_bytes", "upload_quota_bytes", "download_quota_bytes"]),
    acts=st.lists(st.tuples(st.sampled_from([*ACTS, "flow", "flow"]), st.integers(0, 900)), max_size=14),
)
def test_what_stands_in_the_rows_is_what_follows(
    at_quota: str, sold: str, acts: list[tuple[str, int]]
) -> None:
    with transaction.atomic(), patch("derpmgmt.lib.queue.announce"):
        play = Play(at_quota, sold)
        for name, number in acts:
            ACTS[name](play, number)
        play.judge()
        transaction.set_rollback(True)
