"""Devices that wait for their customer's word: what the customer is told of them, and what becomes of them."""

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from accounts.models import Notice
from acl.devices.models import Device
from acl.devices.services import devices, waiting_devices
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.asking import ALLOWED, KEYS, REFUSED, A, B, approve, knock
from tests.acl.devices.enrolling import limit, refused_at
from tests.acl.devices.enrolling import relay as relay
from tests.acl.devices.enrolling import rental as rental
from tests.factories import DeviceFactory, DevicePolicyFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


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
