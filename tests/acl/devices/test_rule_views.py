"""The customer's pages of the rules about their devices, and of who asked to be let in."""

from collections.abc import Callable
from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices.models import Admission, DevicePolicy
from acl.devices.services import devices, set_verify_url
from acl.devices.services.admission_rows import record_admissions
from acl.devices.services.pace import Asked
from acl.devices.sources import VerifyUrlRefused
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.acl.device_world import LIST, A, B, C, approve, press, show, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.factories import RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


# The window


def test_the_window_counts_down_and_closes(browser: Client, rental: Rental) -> None:
    start = timezone.now()
    with time_machine.travel(start, tick=False):
        assert "approved automatically now" in press(browser, "acl:window-open", minutes=10)
        assert "Automatic approval: 10 min 0 s left" in words(show(browser))
    with time_machine.travel(start + timedelta(seconds=48), tick=False):
        assert "Automatic approval: 9 min 12 s left" in words(show(browser, "acl:device-state"))
    with time_machine.travel(start + timedelta(minutes=10), tick=False):
        assert "Approve new devices automatically for" in show(browser)
    press(browser, "acl:window-open", minutes=240)
    for _ in range(2):
        assert "wait for your approval again" in press(browser, "acl:window-close")
    press(browser, "acl:window-open", minutes=1440)
    assert DevicePolicy.objects.get().enrol_until is None


# Checking at all


def test_checking_is_switched_off_only_by_who_says_that_he_is_sure(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    page = words(show(browser, "acl:checking-stop"))
    assert "strangers find yours within days" in page
    assert "Tick the box" in press(browser, "acl:checking-stop", sure="")
    assert not DevicePolicy.objects.get().is_open
    for _ in range(2):
        assert "Device checking is off." in press(browser, "acl:checking-stop", is_sure="on")
    assert DevicePolicy.objects.get().is_open
    for name in (LIST, "home"):
        assert reverse("acl:checking-start") in show(browser, name), name
    for _ in range(2):
        press(browser, "acl:checking-start", back="home")
    assert not DevicePolicy.objects.get().is_open
    assert reverse("acl:checking-start") not in show(browser)


def test_checking_stays_on_when_the_seller_forbids_otherwise(browser: Client, rental: Rental) -> None:
    RentalSpan.objects.update(may_open=False)
    assert reverse("acl:checking-stop") not in show(browser)
    for method in (browser.get, browser.post):
        response = method(reverse("acl:checking-stop"), {"is_sure": "on"}, follow=True)
        assert "does not allow device checking to be turned off" in response.content.decode()
    assert not DevicePolicy.objects.get().is_open


# The own verify address

ADDRESS = "https://hs.example.com/verify?token=s3cret"


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Says how the customer's own address answers its test: "" = as it should, else the code of a refusal."""
    answers = [""]

    def check(url: str) -> None:
        if answers[0]:
            raise VerifyUrlRefused(answers[0])

    monkeypatch.setattr(devices, "check_verify_url", check)
    return lambda code: answers.__setitem__(0, code)


def test_the_own_address_is_tested_kept_and_shown_masked(
    browser: Client, rental: Rental, checked: Callable[[str], None]
) -> None:
    text = press(browser, "acl:verify-set", url=ADDRESS)
    assert "https://hs.example.com/… answers as it should" in text
    assert DevicePolicy.objects.get().verify_url == ADDRESS
    assert "Unknown devices are looked up at https://hs.example.com/…" in show(browser, "acl:rule-list")
    for name in (LIST, "acl:rule-list", "acl:verify-show"):
        assert "s3cret" not in show(browser, name)
    DevicePolicy.objects.update(
        verify_problem="Nothing answers at the address in time.", verify_asked_at=timezone.now()
    )
    assert "Nothing answers at the address in time." in show(browser, "acl:verify-show")
    asked = words(show(browser, "acl:verify-remove"))
    assert "Remove https://hs.example.com/…?" in asked
    assert "Devices that came in by it stay approved." in asked
    assert DevicePolicy.objects.get().verify_url == ADDRESS
    for _ in range(2):
        assert "no longer asked" in press(browser, "acl:verify-remove")
    assert DevicePolicy.objects.get().verify_url == ""


def test_an_address_that_fails_its_test_stays_in_its_field(
    browser: Client, rental: Rental, checked: Callable[[str], None]
) -> None:
    set_verify_url(rental=rental, url=ADDRESS, by=rental.user)
    checked("no_answer")
    response = browser.post(reverse("acl:verify-set"), {"url": "https://other.example.com/verify"})
    page = response.content.decode()
    assert "Nothing answers at the address in time." in page
    assert "https://other.example.com/verify" in page
    assert response["Cache-Control"] == "private, no-store"
    assert DevicePolicy.objects.get().verify_url == ADDRESS
    for _ in range(9):
        browser.post(reverse("acl:verify-set"), {"url": "x"})
    response = browser.post(reverse("acl:verify-set"), {"url": "https://typed.example.com/verify"})
    page = response.content.decode()
    assert response.status_code == 429
    assert 0 < int(response["Retry-After"]) <= 600
    assert 'value="https://typed.example.com/verify"' in page
    assert "this is limited. Try again in" in page
    assert response["Cache-Control"] == "private, no-store"


# Admissions


def test_admissions_are_listed_newest_first_by_answer_and_by_device(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    approve(rental, A, "nas")
    other = RentalFactory(days=60)
    now = timezone.now()
    reason = Admission.Reason
    rows = [
        Asked(relay.pk, rental.pk, A, "203.0.113.9", True, reason.APPROVED, at=now - timedelta(hours=2)),
        Asked(relay.pk, rental.pk, B, None, False, reason.UNKNOWN, at=now - timedelta(hours=1), count=7),
        Asked(RelayFactory(rental=other).pk, other.pk, C, "192.0.2.66", False, reason.UNKNOWN, at=now),
    ]
    record_admissions(rows)
    text = words(show(browser, "acl:admission-list"))
    assert text.index("refused unknown device") < text.index("allowed approved device 203.0.113.9 Shanghai 2")
    assert "7 ×" in text
    assert "nas" in text
    assert "192.0.2.66" not in text
    assert "approved device" not in show(browser, "acl:admission-list", answer="refused")
    assert "unknown device" not in show(browser, "acl:admission-list", answer="allowed")
    assert "unknown device" not in show(browser, "acl:admission-list", key=A)
    assert "No device has asked" in show(browser, "acl:admission-list", key=C)


def test_admissions_have_pages_and_no_page_breaks(browser: Client, rental: Rental, relay: Relay) -> None:
    assert "No device has asked" in show(browser, "acl:admission-list")
    reason, now = Admission.Reason.UNKNOWN, timezone.now()
    record_admissions(
        [
            Asked(relay.pk, rental.pk, A, None, False, reason, at=now - timedelta(minutes=number))
            for number in range(120)
        ]
    )
    for page, rows in ((1, 25), (5, 20), (99, 20), ("x", 25), (-1, 25)):
        shown = show(browser, "acl:admission-list", page=page).count("<tr ")
        assert rows - 1 <= shown <= 25, page
