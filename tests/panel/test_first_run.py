"""The steps on a new customer's home, until their first device is in."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices.models import Device
from acl.maps import services as maps
from containers.models import Relay
from serials.rentals.models import Rental
from tests.factories import (
    AdmissionFactory,
    DeviceFactory,
    DevicePolicyFactory,
    LiveUrlFactory,
    ServedRentalFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(relays=3, days=30)


@pytest.fixture
def browser(client: Client, rental: Rental) -> Client:
    client.force_login(rental.user)
    return client


def steps(browser: Client) -> list[str]:
    """The state of each step as the part tells it that the page asks for: done, now or ""; the whole page says the same."""
    shown = []
    for name in ("home-first-run", "home"):
        page = browser.get(reverse(name)).text
        (found,) = re.findall(r'<ol class="first-run-steps">(.*?)</ol>', page, re.DOTALL)
        shown.append(re.findall(r'<li class="(?:is-)?(\w*)">', found))
    assert shown[0] == shown[1]
    return shown[0]


def test_each_step_is_ticked_by_what_the_customer_does(browser: Client, rental: Rental) -> None:
    relay = rental.relays.order_by("slot")[0]
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.PLANNED)
    assert steps(browser) == ["now", "", "", ""]
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.RUNNING)
    assert steps(browser) == ["done", "now", "", ""]

    version = maps.active_config(rental).version  # type: ignore[union-attr]
    browser.post(reverse("acl:map-copied", args=["hujson"]), {"shown": version})
    assert steps(browser) == ["done", "done", "now", ""]

    AdmissionFactory(relay=relay)
    assert steps(browser) == ["done", "done", "done", "now"]

    device = DeviceFactory(rental=rental, status=Device.Status.PENDING, last_seen_at=timezone.now())
    browser.post(reverse("acl:device-approve", args=[device.pk]))
    part = browser.get(reverse("home-first-run")).text
    assert part.count("is-done") == 4
    assert "hx-get" not in part
    assert "first-run" not in browser.get(reverse("home")).text

    # For good, whatever becomes of the device.
    browser.post(reverse("acl:device-revoke", args=[device.pk]))
    assert "first-run" not in browser.get(reverse("home")).text


def test_the_live_url_counts_as_a_saved_map_once_it_was_fetched(browser: Client, rental: Rental) -> None:
    url = LiveUrlFactory(rental=rental)
    assert steps(browser) == ["done", "now", "", ""]
    url.last_fetched_at = timezone.now()
    url.save()
    assert steps(browser) == ["done", "done", "done", "now"]


def test_a_device_that_was_only_named_is_not_in_yet(browser: Client, rental: Rental) -> None:
    DeviceFactory(rental=rental, status=Device.Status.APPROVED, approved_at=timezone.now(), last_seen_at=None)
    assert steps(browser)[3] == ""


def test_the_last_step_says_what_it_waits_for(browser: Client, rental: Rental) -> None:
    now = timezone.now()
    AdmissionFactory(relay=rental.relays.order_by("slot")[0])
    browser.post(reverse("accounts:language-set"), {"language": "en"})

    def said() -> str:
        return browser.get(reverse("home-first-run")).text

    policy = DevicePolicyFactory(rental=rental, enrol_until=now + timedelta(minutes=10))
    assert f"Until {timezone.localtime(policy.enrol_until):%Y-%m-%d %H:%M} new devices come in" in said()
    policy.enrol_until = now
    policy.save()
    assert "New devices do not come in by themselves" in said()
    DeviceFactory(rental=rental, status=Device.Status.PENDING, last_seen_at=now, knocks=3)
    assert "1 device has asked" in said()


def test_the_steps_lead_away_when_the_rental_is_over(browser: Client, rental: Rental) -> None:
    Rental.objects.filter(pk=rental.pk).update(paused_at=timezone.now())
    assert browser.get(reverse("home-first-run"))["HX-Refresh"] == "true"
