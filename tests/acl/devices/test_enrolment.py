"""Devices that knock without being approved while the window is open: places on trial, and who is approved."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from acl.devices.models import Device, DevicePolicy
from acl.devices.services import devices, enrolment, places, waiting_devices
from containers.models import Gate, Relay
from serials.rentals.models import Rental
from tests.acl.asking import ALLOWED, KEYS, REFUSED, A, B, C, approve, knock
from tests.acl.devices.enrolling import knock_at, limit, refused_at, seconds, settle, state_of
from tests.acl.devices.enrolling import relay as relay
from tests.acl.devices.enrolling import rental as rental

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_new_rental_approves_what_knocks_for_an_hour(rental: Rental, relay: Relay) -> None:
    assert knock(relay, A) == ALLOWED
    assert knock_at(timezone.now() + timedelta(minutes=59), relay, C) == ALLOWED
    assert knock_at(timezone.now() + timedelta(minutes=61), relay, B) == REFUSED


def test_a_device_that_stays_connected_has_a_place_after_a_while_and_is_approved_later(
    rental: Rental, relay: Relay
) -> None:
    start = timezone.now()
    assert knock_at(start, relay, A) == ALLOWED
    for moment, found in ((89, ("pending", False)), (91, ("pending", True)), (179, ("pending", True)), (182, ("approved", False))):  # fmt: skip
        settle(start + seconds(moment), {A})
        assert state_of(A) == found, moment
    device = Device.objects.get()
    assert (device.source, device.trial_until) == ("enrolled", None)


def test_a_device_that_connects_again_later_is_approved_at_once(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    for moment, status in ((0, "pending"), (2, "pending"), (60, "pending"), (121, "approved")):
        assert knock_at(start + seconds(moment), relay, A) == ALLOWED
        assert state_of(A)[0] == status, moment


def test_a_device_that_went_and_comes_again_is_known(rental: Rental, relay: Relay) -> None:
    """A phone that sleeps: it is no diagnosis' key, of which none ever comes again."""
    start = timezone.now()
    knock_at(start, relay, A)
    settle(start + seconds(30), set())
    device = Device.objects.get()
    assert (device.trial_until, device.left_at) == (None, start + seconds(30))
    assert knock_at(start + timedelta(minutes=40), relay, A) == ALLOWED
    assert state_of(A)[0] == "approved"


@pytest.mark.slow
@pytest.mark.parametrize("lives_for", [31, 50, 88, 121])
def test_keys_of_a_diagnosis_never_hold_a_place_for_good_and_refuse_nobody(
    rental: Rental, relay: Relay, lives_for: int
) -> None:
    """What `tailscale debug derp` does, each minute: five connections of a key within seconds, which go when it pleases tailscaled."""
    limit(rental, 4)
    start = timezone.now()
    keys = KEYS[10:20]
    real = A
    for minute, key in enumerate(keys):
        for moment in (0, 0.2, 0.5, 1, 2):
            assert knock_at(start + seconds(60 * minute + moment), relay, key) == ALLOWED
        if minute == 2:
            assert knock_at(start + seconds(60 * minute + 5), relay, real) == ALLOWED
        for moment in range(12, 60, 5):
            now = 60 * minute + moment
            there = {key for number, key in enumerate(keys[: minute + 1]) if now - 60 * number < lives_for}
            settle(start + seconds(now), there | ({real} if minute >= 2 else set()))
            assert places.places_left(rental, start + seconds(now)) >= 0
    settle(start + timedelta(minutes=13), {real})
    approved = Device.objects.filter(status=Device.Status.APPROVED)
    assert [device.node_key for device in approved] == [real]
    assert not Device.objects.filter(trial_until__isnull=False).exists()
    waiting_devices.forget_waiting(start + timedelta(hours=2))
    assert Device.objects.count() == 1


def test_a_trial_ends_though_no_relay_can_be_asked(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    knock_at(start, relay, A)
    settle(start + seconds(200), None)
    assert Device.objects.get().trial_until is not None
    settle(start + seconds(301), None)
    assert Device.objects.get().trial_until is None
    assert DevicePolicy.objects.get().cut_owed_at is not None  # it may be connected
    assert knock_at(start + seconds(305), relay, A) == ALLOWED


def test_settling_twice_is_settling_once(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    knock_at(start, relay, A)
    for moment in (91, 182):
        due = enrolment.due_trials(start + seconds(moment))
        with time_machine.travel(start + seconds(moment), tick=False):
            for _ in range(2):
                enrolment.settle_trials(devices=due, is_present=lambda _device: True)
    assert state_of(A)[0] == "approved"
    assert rental.user.suffered.filter(action="device.enrolled").count() == 1


def test_a_clock_that_is_set_does_not_make_a_device_of_a_throw_away_key(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    knock_at(start, relay, A)
    settle(start + timedelta(hours=3), {A})  # 20 s later, by the clock three hours
    assert state_of(A) == ("pending", True)
    settle(start + timedelta(hours=3, seconds=40), set())
    assert (Device.objects.get().trial_until, places.places_left(rental, start)) == (None, 3)
    knock_at(start + timedelta(hours=3), relay, B)  # refused: the window is over by then
    knock_at(start, relay, B)
    settle(start - timedelta(days=1), {B})  # set back: it begins anew
    settle(start - timedelta(days=1) + seconds(91), {B})
    assert state_of(B) == ("pending", True)
    settle(start - timedelta(days=1) + seconds(183), {B})
    assert state_of(B)[0] == "approved"


def test_no_device_is_let_in_on_trial_when_no_place_is_left(rental: Rental, relay: Relay) -> None:
    [first, *_] = approve(rental, *KEYS[50:53])
    assert knock(relay, A) == REFUSED
    devices.revoke_device(device=first, by=rental.user)
    assert knock(relay, A) == ALLOWED


def test_more_places_than_there_are_are_never_given_out(rental: Rental, relay: Relay) -> None:
    """All who knock at once are let in on trial; those that find no place then are cut, and wait for the customer's word."""
    limit(rental, 5)
    start = timezone.now()

    def one(number: int) -> bool:
        try:
            return knock(relay, KEYS[number], f"198.51.100.{number}")[1]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(one, range(12))) == 12
    for moment in (95, 100, 190, 195):
        settle(start + seconds(moment), set(KEYS[:12]))
        assert places.placed(rental, start + seconds(moment)).count() == 5
    assert Device.objects.filter(status=Device.Status.APPROVED).count() == 5
    assert Device.objects.filter(status=Device.Status.PENDING, trial_until=None, left_at=None).count() == 7
    assert DevicePolicy.objects.get().cut_owed_at is not None
    assert knock_at(start + seconds(200), relay, KEYS[90]) == REFUSED


def test_a_place_that_was_given_back_goes_to_another(rental: Rental, relay: Relay) -> None:
    limit(rental, 1)
    start = timezone.now()
    for key in (A, B):
        assert knock_at(start, relay, key, f"198.51.100.{key[:2]}") == ALLOWED
    settle(start + seconds(91), {A})
    assert (state_of(A), state_of(B)) == (("pending", True), ("pending", False))
    settle(start + seconds(120), set())
    assert knock_at(start + seconds(121), relay, B) == ALLOWED
    assert state_of(B)[0] == "approved"
    # The first one was known, too, and has no place any more.
    assert knock_at(start + seconds(125), relay, A) == REFUSED


def test_no_list_follows_what_never_stood_in_it(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    knock_at(start, relay, A)
    settle(start + timedelta(seconds=95), set())
    devices.close_window(rental=rental, by=None)
    refused_at(relay, B, timezone.now())
    assert devices.ignore_device(device=Device.objects.get(node_key=B), by=None)
    assert Gate.objects.get().list_changed_at is None
    [device] = approve(rental, KEYS[5])
    Gate.objects.update(list_changed_at=None)
    devices.revoke_device(device=device, by=None)
    assert Gate.objects.get().is_list_late


def test_a_revoked_device_stays_out_while_the_window_is_open(rental: Rental, relay: Relay) -> None:
    [device] = approve(rental, A)
    devices.revoke_device(device=device, by=rental.user)
    assert knock(relay, A) == REFUSED


def test_the_customer_opens_and_closes_the_window(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    assert knock(relay, A) == REFUSED
    until = devices.open_window(rental=rental, length=timedelta(minutes=10), by=rental.user)
    assert places.window_until(rental) == until
    assert knock(relay, A) == ALLOWED
    with time_machine.travel(until + timedelta(seconds=1), tick=False):
        assert knock(relay, B) == REFUSED


def test_a_trial_outlasts_the_window(rental: Rental, relay: Relay) -> None:
    devices.open_window(rental=rental, length=timedelta(seconds=20), by=rental.user)
    start = timezone.now()
    knock_at(start, relay, A)
    assert knock_at(start + timedelta(seconds=140), relay, A) == ALLOWED
    assert Device.objects.get().status == Device.Status.APPROVED
