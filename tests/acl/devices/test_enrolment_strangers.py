"""Strangers who knock while the window is open: how many places they take, and what their customer hears of it."""

from datetime import timedelta

import pytest
import time_machine
from django.utils import timezone

from accounts.models import Notice
from acl.devices import admission_writer
from acl.devices.models import Device
from acl.devices.services import devices, enrolment, places
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.asking import ALLOWED, KEYS, A
from tests.acl.devices.enrolling import knock_at, limit, seconds, settle, state_of
from tests.acl.devices.enrolling import relay as relay
from tests.acl.devices.enrolling import rental as rental

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.slow
def test_one_address_takes_few_places_however_often_it_knocks(rental: Rental, relay: Relay) -> None:
    limit(rental, 20)
    start = timezone.now()
    strangers = KEYS[10:30]
    for moment in (0, 125, 400, 1000):
        for key in strangers:
            knock_at(start + seconds(moment), relay, key, "203.0.113.66")
        for later in (95, 190):
            settle(start + seconds(moment + later), set(strangers))
    assert Device.objects.filter(status=Device.Status.APPROVED).count() == 5
    assert places.placed(rental, start + seconds(1200)).count() == 5
    # The customer's own device is let in and approved meanwhile.
    for moment in (1201, 1330):
        assert knock_at(start + seconds(moment), relay, A) == ALLOWED
    assert state_of(A)[0] == "approved"


@pytest.mark.slow
@pytest.mark.parametrize(("places", "taken"), [(1, 1), (2, 1), (3, 2), (7, 4), (9, 5), (20, 5)])
def test_one_address_takes_half_of_the_places_at_most(
    rental: Rental, relay: Relay, places: int, taken: int
) -> None:
    limit(rental, places)
    start = timezone.now()
    for moment in (0, 125):
        for number, key in enumerate(KEYS[10:20]):
            # Whoever has IPv6 has a whole network of addresses.
            knock_at(start + seconds(moment), relay, key, f"2001:db8:0:7::{number + 1}")
    assert Device.objects.filter(status=Device.Status.APPROVED).count() == taken


def test_whoever_changes_his_ipv6_network_is_the_same_stranger(rental: Rental, relay: Relay) -> None:
    """Providers give a server's owner a /48 or a /56, of which they have a new /64 for each key."""
    limit(rental, 20)
    start = timezone.now()
    for moment in (0, 125):
        for number, key in enumerate(KEYS[10:30]):
            knock_at(start + seconds(moment), relay, key, f"2001:db8:0:{number:x}::1")
    assert Device.objects.filter(status=Device.Status.APPROVED).count() == 5
    # The customer's own network is another.
    for moment in (201, 330):
        assert knock_at(start + seconds(moment), relay, A, "2001:db8:1:7::1") == ALLOWED
    assert state_of(A)[0] == "approved"


def test_an_address_has_approvals_again_after_an_hour(rental: Rental, relay: Relay) -> None:
    limit(rental, 20)
    devices.open_window(rental=rental, length=timedelta(hours=4), by=None)
    start = timezone.now()
    for hour in range(2):
        for moment in (0, 125):
            for key in KEYS[10 * hour : 10 * hour + 10]:
                knock_at(start + timedelta(hours=1.1 * hour, seconds=moment), relay, key)
    assert Device.objects.filter(status=Device.Status.APPROVED).count() == 10


@pytest.mark.slow
def test_only_so_many_are_on_trial_at_once(rental: Rental, relay: Relay) -> None:
    limit(rental, 20)
    start = timezone.now()
    answers = [knock_at(start, relay, key, "203.0.113.66")[1] for key in KEYS[:30]]
    assert sum(answers) == enrolment.TRIALS_PER_NETWORK
    answers = [knock_at(start, relay, f"{n:064x}", f"198.51.100.{n}")[1] for n in range(1, 60)]
    assert sum(answers) == enrolment.TRIALS_PER_RENTAL - enrolment.TRIALS_PER_NETWORK
    # Who went makes room.
    settle(start + seconds(12), set())
    assert knock_at(start + seconds(13), relay, KEYS[80]) == ALLOWED
    assert Device.objects.count() <= enrolment._MOST_REMEMBERED + 1


def test_a_customer_is_told_once_a_day_that_his_places_are_taken(rental: Rental, relay: Relay) -> None:
    limit(rental, 2)
    noon = timezone.now().replace(hour=4)
    for day in range(2):
        with time_machine.travel(noon + timedelta(days=day), tick=False):
            devices.open_window(rental=rental, length=timedelta(hours=1), by=None)
        for moment in (0, 125, 126, 300):
            for number, key in enumerate(KEYS[:4]):
                knock_at(noon + timedelta(days=day, seconds=moment), relay, key, f"198.51.100.{number}")
        with time_machine.travel(noon + timedelta(days=day, seconds=310), tick=False):
            admission_writer.flush()
    told = Notice.objects.filter(kind="places_full")
    assert [notice.context["limit"] for notice in told] == [2, 2]
    assert len({notice.key for notice in told}) == 2
