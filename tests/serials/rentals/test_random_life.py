"""The rules of the schedule hold whatever happens to a rental."""

from __future__ import annotations

from datetime import timedelta

import time_machine
from django.utils import timezone
from hypothesis import given, settings
from hypothesis import strategies as st

from accounts.models import User
from serials.rentals import schedule
from serials.rentals import services as rentals
from tests.factories import RedeemedRentalFactory, UserFactory
from tests.serials.rentals.test_life import fresh


@settings(max_examples=15)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(["renew", "pause", "resume", "sweep", "wait"]), st.integers(1, 400)),
        max_size=12,
    )
)
def test_no_second_is_lost_or_given_twice_whatever_happens(
    customer: User, acts: list[tuple[str, int]]
) -> None:
    user = UserFactory(email=f"p{User.objects.count()}@example.com")
    start = timezone.now().replace(microsecond=0)
    now = start
    with time_machine.travel(now, tick=False) as clock:
        rental = RedeemedRentalFactory(user=user, days=3)
        for act, hours in acts:
            try:
                if act == "renew":
                    rentals.renew_rental(rental=rental, until=now + timedelta(hours=hours), by=None)
                elif act == "pause":
                    rentals.pause_rental(rental=rental, by=None)
                elif act == "resume":
                    rentals.resume_rental(rental=rental, by=None)
                elif act == "sweep":
                    rentals.sweep_rentals(now=now)
                else:
                    now += timedelta(hours=hours)
                    clock.move_to(now)
            except rentals.RentalRefused:
                pass
            row = fresh(rental)
            spans = rentals.read_schedule(row)
            granted = sum(row.redemptions.values_list("granted_seconds", flat=True))
            assert schedule.total(spans).total_seconds() == granted
            assert row.ends_at == spans[-1].ends_at == row.runs_until
            assert (row.status == "paused") == (row.paused_at is not None)
            if row.status == "expired":
                assert not row.is_entitled(now)
            used, left = schedule.split(spans, row.paused_at or now)
            assert schedule.total(used) + schedule.total(left) == schedule.total(spans)
