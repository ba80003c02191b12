"""Devices that knock without being approved: the window, places on trial, those who wait, and what their customer is told."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from accounts.models import Notice
from acl.devices import admission_writer
from acl.devices.models import Device, DevicePolicy
from acl.devices.services import devices, enrolment, places, waiting_devices
from containers.models import Gate, Relay
from containers.services import gates
from serials.rentals.models import Rental, RentalSpan
from tests.acl.asking import ALLOWED, KEYS, REFUSED, A, B, C, approve, knock
from tests.factories import DeviceFactory, DevicePolicyFactory, RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rental() -> Rental:
    """A rental that was activated just now: its window is open for an hour."""
    rental = RentalFactory(days=60)
    limit(rental, 3)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


def limit(rental: Rental, places: int) -> None:
    RentalSpan.objects.filter(rental=rental).update(device_limit=places)


def settle(now: datetime, present: set[str] | None) -> None:
    """The sweep's part, with the relays' word taken from `present` (None: no relay can be asked)."""
    with time_machine.travel(now, tick=False):
        enrolment.settle_trials(
            devices=enrolment.due_trials(now),
            is_present=lambda device: None if present is None else device.node_key in present,
        )


def knock_at(moment: datetime, relay: Relay, key: str, ip: str = "203.0.113.9") -> tuple[int, bool]:
    with time_machine.travel(moment, tick=False):
        return knock(relay, key, ip)


def seconds(number: float) -> timedelta:
    return timedelta(seconds=number)


def state_of(key: str) -> tuple[str, bool]:
    """The device's state, and whether it has a provisional place."""
    device = Device.objects.get(node_key=key)
    return device.status, device.stayed_at is not None


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


# Strangers


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


def test_ignoring_a_device_that_is_forgotten_at_that_moment_is_a_no(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices.close_window(rental=rental, by=None)
    refused_at(relay, A, timezone.now())
    revoke = devices._revoke

    def forget_and_revoke(row: Device, **values: Any) -> bool:
        waiting_devices.forget_waiting(timezone.now() + timedelta(hours=1))
        return revoke(row, **values)

    monkeypatch.setattr(devices, "_revoke", forget_and_revoke)
    assert not devices.ignore_device(device=Device.objects.get(), by=None)
    assert not rental.user.suffered.filter(action="device.revoked").exists()


def test_only_ignored_strangers_are_ever_dropped_from_the_revoked_ones(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "MOST_IGNORED", 2)
    limit(rental, 20)
    approved = approve(rental, *KEYS[:4])
    for device in approved:
        devices.revoke_device(device=device, by=None)
    devices.close_window(rental=rental, by=None)
    for key in KEYS[10:14]:
        refused_at(relay, key, timezone.now())
        devices.ignore_device(device=Device.objects.get(node_key=key), by=None)
    kept = Device.objects.filter(status=Device.Status.REVOKED).order_by("pk")
    assert [device.node_key for device in kept] == [*KEYS[:4], *KEYS[12:14]]


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


# Those who wait


def refused_at(relay: Relay, key: str, *moments: datetime) -> None:
    for moment in moments:
        with time_machine.travel(moment, tick=False):
            assert knock(relay, key) == REFUSED
            admission_writer.flush()


def test_a_customer_is_told_once_of_a_device_that_keeps_knocking(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    refused_at(relay, A, start, start + timedelta(seconds=5))
    assert waiting_devices.tell_waiting(start + timedelta(seconds=6)) == 0
    refused_at(relay, A, start + timedelta(seconds=40))
    now = start + timedelta(seconds=41)
    assert [waiting_devices.tell_waiting(now) for _ in range(3)] == [1, 0, 0]
    notice = Notice.objects.get(kind="device_waiting")
    assert notice.context["devices"][0]["ip"] == "203.0.113.9"


def test_a_customer_is_told_rarely(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    for hour in range(13):
        moment = start + timedelta(hours=hour)
        refused_at(relay, KEYS[hour], moment, moment + timedelta(seconds=31))
        waiting_devices.tell_waiting(moment + timedelta(seconds=32))
    assert Notice.objects.filter(kind="device_waiting").count() == 3


def test_nobody_waits_for_his_mail_behind_customers_who_were_told_lately(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor behind those whose devices have not proven themselves, or whose rental rests."""
    monkeypatch.setattr(waiting_devices, "TELL_AT_ONCE", 5)
    devices.close_window(rental=rental, by=rental.user)
    now = timezone.now()
    told, new, resting = RentalFactory(days=60), RentalFactory(days=60), RentalFactory(days=60)
    DevicePolicyFactory(rental=told, told_at=now - timedelta(hours=1))
    Rental.objects.filter(pk=resting.pk).update(paused_at=now)
    for other in (told, new, resting):
        first = now - timedelta(seconds=10 if other == new else 60)
        for key in KEYS[:5]:
            DeviceFactory(rental=other, node_key=key, knocks=2, first_seen_at=first, last_seen_at=now)
    DeviceFactory(
        rental=rental, node_key=A, knocks=2, first_seen_at=now - timedelta(seconds=60), last_seen_at=now
    )
    assert waiting_devices.tell_waiting(now) == 1
    assert Notice.objects.get(kind="device_waiting").user == rental.user


def test_keys_of_a_diagnosis_are_not_worth_a_mail_and_soon_forgotten(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    for key in KEYS[:5]:
        refused_at(relay, key, start)
    assert waiting_devices.tell_waiting(start + timedelta(minutes=1)) == 0
    assert waiting_devices.forget_waiting(start + timedelta(minutes=9)) == 0
    assert waiting_devices.forget_waiting(start + timedelta(minutes=11)) == 5


def test_a_device_that_waits_is_let_in_by_a_click(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    refused_at(relay, A, timezone.now())
    knocking = Device.objects.get()
    for _ in range(2):
        devices.approve_device(device=knocking, by=rental.user)
    assert knock(relay, A) == ALLOWED
    assert rental.user.suffered.filter(action="device.approved").count() == 1


def test_a_device_that_logged_in_again_takes_the_place_and_the_name_of_its_old_self(
    rental: Rental, relay: Relay
) -> None:
    limit(rental, 1)
    [old] = approve(rental, A)
    devices.rename_device(device=old, name="书房的 NAS", by=rental.user)
    devices.close_window(rental=rental, by=rental.user)
    refused_at(relay, B, timezone.now())
    knocking = Device.objects.get(node_key=B)
    with pytest.raises(devices.LimitReached):
        devices.approve_device(device=knocking, by=rental.user)
    devices.approve_device(device=knocking, by=rental.user, replaces=old)
    assert knock(relay, A) == REFUSED
    assert knock(relay, B) == ALLOWED
    assert Device.objects.get(node_key=B).name == "书房的 NAS"
