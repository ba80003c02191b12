"""Devices that knock without being approved: the window, places on trial, those who wait, and what their customer is told."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.db import connection
from django.utils import timezone

from accounts.models import Notice
from acl import admission_log
from acl.models import Device, DevicePolicy
from acl.services import devices, enrolment
from containers.models import Gate, Relay
from containers.services import gates
from serials.models import Rental, RentalSpan
from tests.acl.asking import ALLOWED, KEYS, REFUSED, A, B, approve, knock
from tests.acl.factories import make_relay, make_rental

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rental() -> Rental:
    """A rental that was activated just now: its window is open for a day."""
    rental = make_rental(days=60)
    limit(rental, 3)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = make_relay(rental)
    gates.gate_of(relay.server_id)
    return relay


def limit(rental: Rental, places: int) -> None:
    RentalSpan.objects.filter(rental=rental).update(device_limit=places)


def settle(now: datetime, present: set[str] | None) -> None:
    """The sweep's part, with the relays' word taken from `present` (None: no relay can be asked)."""
    with time_machine.travel(now, tick=False):
        enrolment.settle_places(
            devices=enrolment.due_places(now),
            is_present=lambda device: None if present is None else device.node_key in present,
        )


def test_a_new_rental_approves_what_knocks_for_a_day(rental: Rental, relay: Relay) -> None:
    assert knock(relay, A) == ALLOWED
    with time_machine.travel(timezone.now() + DevicePolicy.ENROL_FOR + timedelta(seconds=1), tick=False):
        assert knock(relay, B) == REFUSED


def test_a_device_on_trial_is_approved_when_it_is_still_connected(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        assert knock(relay, A) == ALLOWED
    settle(start + timedelta(seconds=29), {A})
    assert Device.objects.get().status == Device.Status.PENDING
    settle(start + timedelta(seconds=31), {A})
    device = Device.objects.get()
    assert (device.status, device.source, device.place_until) == ("approved", "enrolled", None)


def test_a_device_that_knocks_again_later_is_approved(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    for seconds, status in ((0, "pending"), (10, "pending"), (31, "approved")):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=False):
            assert knock(relay, A) == ALLOWED
        assert Device.objects.get().status == status


def test_a_key_that_lived_for_a_second_leaves_nothing(rental: Rental, relay: Relay) -> None:
    """What `tailscale debug derp` does: it must not use up the customer's places."""
    limit(rental, 2)
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        assert [knock(relay, key) for key in KEYS[:3]] == [ALLOWED, ALLOWED, REFUSED]
    settle(start + timedelta(seconds=40), set())
    with time_machine.travel(start + timedelta(seconds=40), tick=False):
        assert knock(relay, KEYS[5]) == REFUSED
    settle(start + timedelta(seconds=91), set())
    assert Device.objects.count() == 0
    with time_machine.travel(start + timedelta(seconds=92), tick=False):
        assert knock(relay, KEYS[6]) == ALLOWED


def test_a_place_is_freed_though_no_relay_can_be_asked(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        knock(relay, A)
    settle(start + timedelta(seconds=60), None)
    assert Device.objects.count() == 1
    settle(start + timedelta(seconds=90), None)
    assert Device.objects.count() == 0
    with time_machine.travel(start + timedelta(seconds=95), tick=False):
        assert knock(relay, A) == ALLOWED


def test_settling_twice_is_settling_once(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        knock(relay, A)
    due = enrolment.due_places(start + timedelta(seconds=31))
    for _ in range(2):
        enrolment.settle_places(devices=due, is_present=lambda _device: True)
    assert Device.objects.get().status == Device.Status.APPROVED
    assert rental.user.suffered.filter(action="device.enrolled").count() == 1


def test_places_are_given_out_up_to_the_limit_and_not_one_more(rental: Rental, relay: Relay) -> None:
    approve(rental, KEYS[50])
    assert [knock(relay, key) for key in KEYS[:3]] == [ALLOWED, ALLOWED, REFUSED]
    [first, *_] = Device.objects.filter(status=Device.Status.APPROVED)
    devices.revoke_device(device=first, by=rental.user)
    assert knock(relay, KEYS[2]) == ALLOWED
    assert knock(relay, KEYS[3]) == REFUSED


def test_a_place_that_went_to_another_is_not_given_out_twice(rental: Rental, relay: Relay) -> None:
    """The relays were silent until the first one's time was over, and another came meanwhile."""
    limit(rental, 1)
    start = timezone.now()
    for seconds, key in ((0, A), (91, B)):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=False):
            assert knock(relay, key) == ALLOWED
    settle(start + timedelta(seconds=125), {A, B})
    approved = Device.objects.filter(status=Device.Status.APPROVED)
    assert [device.node_key for device in approved] == [B]
    assert DevicePolicy.objects.get().cut_owed_at is not None  # the other one is still connected


def test_a_device_found_after_its_time_is_approved_when_a_place_is_left(rental: Rental, relay: Relay) -> None:
    limit(rental, 1)
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        knock(relay, A)
    settle(start + timedelta(seconds=95), {A})
    assert Device.objects.get().status == Device.Status.APPROVED


def test_no_list_follows_what_never_stood_in_it(rental: Rental, relay: Relay) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        knock(relay, A)
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
        enrolment.forget_waiting(timezone.now() + timedelta(hours=1))
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


def test_simultaneous_knocks_take_no_more_places_than_there_are(rental: Rental, relay: Relay) -> None:
    limit(rental, 5)

    def one(key: str) -> bool:
        try:
            return knock(relay, key)[1]
        finally:
            connection.close()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, KEYS[:20]))
    assert sum(answers) == 5
    assert devices.places_left(rental, timezone.now()) == 0


def test_a_revoked_device_stays_out_while_the_window_is_open(rental: Rental, relay: Relay) -> None:
    [device] = approve(rental, A)
    devices.revoke_device(device=device, by=rental.user)
    assert knock(relay, A) == REFUSED


def test_the_customer_opens_and_closes_the_window(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    assert knock(relay, A) == REFUSED
    until = devices.open_window(rental=rental, length=timedelta(minutes=10), by=rental.user)
    assert devices.window_until(rental) == until
    assert knock(relay, A) == ALLOWED
    with time_machine.travel(until + timedelta(seconds=1), tick=False):
        assert knock(relay, B) == REFUSED


def test_a_place_outlasts_the_window(rental: Rental, relay: Relay) -> None:
    devices.open_window(rental=rental, length=timedelta(seconds=20), by=rental.user)
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        knock(relay, A)
    with time_machine.travel(start + timedelta(seconds=40), tick=False):
        assert knock(relay, A) == ALLOWED
    assert Device.objects.get().status == Device.Status.APPROVED


# Those who wait


def refused_at(relay: Relay, key: str, *moments: datetime) -> None:
    for moment in moments:
        with time_machine.travel(moment, tick=False):
            assert knock(relay, key) == REFUSED
            admission_log.flush()


def test_a_customer_is_told_once_of_a_device_that_keeps_knocking(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    refused_at(relay, A, start, start + timedelta(seconds=5))
    assert enrolment.tell_waiting(start + timedelta(seconds=6)) == 0
    refused_at(relay, A, start + timedelta(seconds=40))
    now = start + timedelta(seconds=41)
    assert [enrolment.tell_waiting(now) for _ in range(3)] == [1, 0, 0]
    notice = Notice.objects.get(kind="device_waiting")
    assert notice.context["devices"][0]["ip"] == "203.0.113.9"


def test_a_customer_is_told_rarely(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    for hour in range(13):
        moment = start + timedelta(hours=hour)
        refused_at(relay, KEYS[hour], moment, moment + timedelta(seconds=31))
        enrolment.tell_waiting(moment + timedelta(seconds=32))
    assert Notice.objects.filter(kind="device_waiting").count() == 3


def test_nobody_waits_for_his_mail_behind_customers_who_were_told_lately(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor behind those whose devices have not proven themselves, or whose rental rests."""
    monkeypatch.setattr(enrolment, "TELL_AT_ONCE", 5)
    devices.close_window(rental=rental, by=rental.user)
    now = timezone.now()
    told, new, resting = make_rental(days=60), make_rental(days=60), make_rental(days=60)
    DevicePolicy.objects.create(rental=told, told_at=now - timedelta(hours=1))
    Rental.objects.filter(pk=resting.pk).update(paused_at=now)
    for other in (told, new, resting):
        first = now - timedelta(seconds=10 if other == new else 60)
        for key in KEYS[:5]:
            Device.objects.create(rental=other, node_key=key, knocks=2, first_seen_at=first, last_seen_at=now)
    Device.objects.create(
        rental=rental, node_key=A, knocks=2, first_seen_at=now - timedelta(seconds=60), last_seen_at=now
    )
    assert enrolment.tell_waiting(now) == 1
    assert Notice.objects.get(kind="device_waiting").user == rental.user


def test_keys_of_a_diagnosis_are_not_worth_a_mail_and_soon_forgotten(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    start = timezone.now()
    for key in KEYS[:5]:
        refused_at(relay, key, start)
    assert enrolment.tell_waiting(start + timedelta(minutes=1)) == 0
    assert enrolment.forget_waiting(start + timedelta(minutes=9)) == 0
    assert enrolment.forget_waiting(start + timedelta(minutes=11)) == 5


def test_a_device_that_waits_is_let_in_by_a_click(rental: Rental, relay: Relay) -> None:
    devices.close_window(rental=rental, by=rental.user)
    refused_at(relay, A, timezone.now())
    waiting = Device.objects.get()
    for _ in range(2):
        devices.approve_device(device=waiting, by=rental.user)
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
    waiting = Device.objects.get(node_key=B)
    with pytest.raises(devices.LimitReached):
        devices.approve_device(device=waiting, by=rental.user)
    devices.approve_device(device=waiting, by=rental.user, replaces=old)
    assert knock(relay, A) == REFUSED
    assert knock(relay, B) == ALLOWED
    assert Device.objects.get(node_key=B).name == "书房的 NAS"
