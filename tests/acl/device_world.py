"""A customer's devices, and their browser before their pages."""

import re
import time
from typing import Any

import pytest
from django.core.cache import cache
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices import presence
from acl.devices.models import Admission, Device
from acl.devices.node_keys import NewDevice
from acl.devices.services import add_devices
from acl.devices.services.admission_rows import record_admissions
from acl.devices.services.pace import Asked
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.factories import DevicePolicyFactory, RelayFactory, RentalFactory

KEYS = [f"{number:02x}" * 32 for number in range(1, 100)]
A, B, C, D = KEYS[:4]
LIST = "acl:device-list"


@pytest.fixture
def rental() -> Rental:
    """A rental without a window, of ten devices."""
    rental = RentalFactory(days=60)
    DevicePolicyFactory(rental=rental)
    RentalSpan.objects.update(device_limit=10)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    return RelayFactory(rental=rental, slot=2)


@pytest.fixture
def browser(rental: Rental) -> Client:
    client = Client()
    client.force_login(rental.user)
    return client


def approve(rental: Rental, key: str, name: str = "", **seen: Any) -> Device:
    add_devices(rental=rental, devices=[NewDevice(key, name)], by=rental.user)
    Device.objects.filter(rental=rental, node_key=key).update(**seen)
    return Device.objects.get(rental=rental, node_key=key)


def refuse(rental: Rental, relay: Relay, key: str, ip: str = "203.0.113.9") -> Device:
    """Let a device knock in vain."""
    now = timezone.now()
    record_admissions([Asked(relay.pk, rental.pk, key, ip, False, Admission.Reason.UNKNOWN, at=now)])
    return Device.objects.get(rental=rental, node_key=key)


def connect(rental: Rental, relay: Relay, *keys: str, **kept: Any) -> None:
    """What the relays say about who is there; `kept` says which of them were silent."""
    now = time.time()
    there = dict.fromkeys(keys, (relay.pk, "198.51.100.4", 41000, now - 120))
    cache.set(presence._key(rental.pk), {"at": now, "present": there, **kept})


def show(browser: Client, name: str = LIST, **query: Any) -> str:
    response = browser.get(reverse(name), query)
    assert response.status_code == 200
    return str(response.content.decode())


def press(browser: Client, name: str, pk: int | None = None, **values: Any) -> str:
    """Press a button and go where it leads; the page there as words, one space between them."""
    response = browser.post(reverse(name, args=[pk] if pk is not None else []), values, follow=True)
    assert response.status_code == 200, (name, response.status_code)
    return words(response.content.decode())


def words(page: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", page).split())
