"""A customer's whole life, with a clock that is moved: every sweep runs as the scheduler would ring for it."""

from collections import Counter
from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services import hash_address
from acl.maps.models import AclConfig, AclEvent
from containers.models import Relay
from derpmgmt import flow
from serials.numbers.services import redeem_serial
from serials.rentals.models import Redemption, Rental
from tests.factories import RedeemedRentalFactory, SerialNumberFactory

from .conftest import IS_LAB, Fleet, assert_in_order
from .test_life import assert_map_works, assert_silent, the_map

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


def told(user: User) -> Counter[str]:
    """What was really sent by mail, by kind."""
    sent = Notice.objects.filter(user=user, channel=Notice.By.EMAIL, state=Notice.State.SENT)
    return Counter(sent.values_list("kind", flat=True))


def test_a_whole_life_from_the_first_day_to_the_closed_account(
    fleet: Fleet, work, customer: User, mailoutbox
):
    begin = timezone.now()
    with time_machine.travel(begin, tick=True) as clock:

        def live(days: float, hours_a_step: int = 12) -> None:
            """Let time pass, with all that the clock rings for at each step; in the sandbox twice: a doubled scheduler changes nothing."""
            for _step in range(int(days * 24 / hours_a_step)):
                clock.shift(timedelta(hours=hours_a_step))
                for _time in range(1 if IS_LAB else 2):
                    for tick in flow.CRON:
                        tick.job(*tick.args)
                    work()

        rental = RedeemedRentalFactory(user=customer, days=3)
        work()
        relays = assert_in_order(fleet, rental)
        first_map = the_map(rental)

        live(2.75, hours_a_step=11)
        assert_in_order(fleet, rental)
        assert told(customer)["rental_ending"] == 2  # three days and one day before the end
        live(0.5)
        assert_silent(fleet, relays)
        assert told(customer) == {"rental_redeemed": 1, "rental_ending": 2, "rental_ended": 1}
        assert Rental.objects.get().status == "expired"

        redeem_serial(code=SerialNumberFactory(days=3).code, user=customer, by=customer)
        work()
        assert {relay.pk for relay in assert_in_order(fleet, rental)} == {relay.pk for relay in relays}
        assert_map_works(rental, first_map)

        live(3.5)
        assert_silent(fleet, relays)
        assert told(customer)["rental_ended"] == 2
        live(22, hours_a_step=48)  # nothing is to happen
        assert told(customer)["account_closing"] == 0
        live(10, hours_a_step=24)

        customer.refresh_from_db()
        assert customer.closed_at is not None
        assert told(customer)["account_closing"] == 2  # seven days and one day before
        assert told(customer)["account_closed"] == 1
        assert mailoutbox[-1].to == ["customer@example.com"]
        assert "customer@example.com" not in customer.email
        # The history is still there, and found by the former address.
        assert User.objects.get(former_email_hash=hash_address("customer@example.com")) == customer
        assert Redemption.objects.filter(rental=rental, kind="serial").count() == 2
        assert Relay.objects.filter(rental=rental, status="released").count() == 3
        assert AclEvent.objects.filter(rental=rental, kind="made").exists()
        assert not AclConfig.objects.filter(is_active=True).exists()
        before = sum(told(customer).values())
        live(3, hours_a_step=24)
        assert sum(told(customer).values()) == before
