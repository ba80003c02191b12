"""The customer's pages of their devices: what stands on them, and that no click can do harm."""

import re
from datetime import timedelta

import django_rq
import pytest
import time_machine
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import Notice
from accounts.services import notices
from acl.devices.models import Device
from acl.devices.services import close_window, revoke_device, set_open, waiting_devices
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental
from tests.acl.device_world import KEYS, LIST, A, B, C, D, approve, connect, press, refuse, show, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.factories import DeviceFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)


# The lists


def test_lists_stand_in_their_order_with_what_is_known(browser: Client, rental: Rental, relay: Relay) -> None:
    approve(rental, A, "nas")
    approve(rental, B, "phone", last_seen_at=timezone.now() - timedelta(hours=3), last_ip="192.0.2.8")
    revoke_device(device=approve(rental, C, "old laptop"), by=rental.user)
    waiting = refuse(rental, relay, D)
    Device.objects.filter(pk=waiting.pk).update(last_place="广东深圳")
    connect(rental, relay, A)
    page = show(browser)
    text = words(page)
    places = [text.index(part) for part in ("Connected now 1", "nas", "Approved, not connected 1", "phone")]
    places += [
        text.index(part) for part in ("Waiting for your approval", "广东深圳", "Revoked 1", "old laptop")
    ]
    assert places == sorted(places)
    for said in (
        "Places 2 / 10",
        "2 of 10 devices, 1 connected, 1 waiting for your approval",
        "connected 2 minutes ago 198.51.100.4 Shanghai 2",
        "last seen 3 hours ago 192.0.2.8 added by hand",
        "广东深圳 · 203.0.113.9 wants to use Shanghai 2",
        f"nodekey:{B[:8]}…",
        f"nodekey:{B}",
    ):
        assert said in text, said
    assert page.count("device-dot is-connected") == 1
    # The content security policy forbids all of these.
    assert not re.search(r"\son[a-z]+=|style=|<script(?! (?:src|data-[a-z]+)=)[^>]*>[^<]", page)


def test_a_device_that_was_just_revoked_is_not_said_to_be_connected(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    """What the relays said about it is older than the cut."""
    device = approve(rental, A, "nas")
    approve(rental, B, "phone")
    connect(rental, relay, A, B)
    assert "Connected now 2" in words(show(browser))
    revoke_device(device=device, by=rental.user)
    assert "Connected now 1" in words(show(browser))
    # Should it still be there when the cut is over, that is no secret, and no button promises what is done.
    with time_machine.travel(timezone.now() + timedelta(seconds=6)):
        connect(rental, relay, A, B)
        page = show(browser)
        assert "Connected now 2" in words(page)
        assert "nas revoked, being cut" in words(page)
        assert reverse("acl:device-revoke", args=[device.pk]) not in page


def test_it_is_said_which_relays_do_not_answer_and_nothing_is_guessed_then(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    approve(rental, A, "NAS", last_ip="203.0.113.9", last_seen_at=timezone.now() - timedelta(hours=1))
    refuse(rental, relay, B)
    connect(rental, relay)
    assert "Is this NAS after a new login?" in show(browser)
    connect(rental, relay, silent=[relay.pk])
    text = words(show(browser))
    assert "Shanghai 2 is not answering at the moment, so what is connected there is not known." in text
    assert "Is this NAS" not in text
    assert "not connected" not in text
    assert "Nothing is connected at the moment" not in text
    assert "Nothing is connected to" in text
    connect(rental, relay, silent=[relay.pk], is_known=False)
    text = words(show(browser))
    assert "None of your relays is answering at the moment" in text
    assert "Is this NAS" not in text
    assert "not connected" not in text
    assert "Connected now –" in words(show(browser, "home"))


def test_who_is_there_is_asked_by_the_page(browser: Client, rental: Rental, relay: Relay) -> None:
    assert "Asking your relays what is connected" in show(browser)
    assert django_rq.get_queue("admission").count == 1
    connect(rental, relay, A)
    assert "Unknown device" in words(show(browser, "acl:device-state"))


def test_the_lists_are_fetched_again_when_they_changed_and_only_then(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    connect(rental, relay)
    approve(rental, A)
    url = reverse("acl:device-state")

    def is_changed() -> bool:
        response = browser.get(url, {"mark": mark})
        return "devices-changed" in response.headers.get("HX-Trigger", "")

    def read_mark() -> str:
        found = re.search(r'name="mark" value="(\w+)"', show(browser, "acl:device-lists"))
        assert found
        return found[1]

    mark = read_mark()
    assert not is_changed()
    for change in (
        lambda: refuse(rental, relay, B),
        lambda: connect(rental, relay, A),
        lambda: revoke_device(device=Device.objects.get(node_key=A), by=rental.user),
    ):
        change()
        assert is_changed()
        mark = read_mark()
        assert not is_changed()


def test_long_lists_have_pages_and_a_search(browser: Client, rental: Rental, relay: Relay) -> None:
    for number, key in enumerate(KEYS[:30]):
        DeviceFactory(
            rental=rental,
            node_key=key,
            name=f"box-{number:02d}",
            status="approved",
            last_ip=f"192.0.2.{number}",
        )
    first, second = show(browser), show(browser, page=2)
    assert len(set(re.findall(r"box-\d+", first))) == 25
    assert 'name="q"' in first
    assert "Page 2 of 2" in words(second)
    assert len(set(re.findall(r"<strong>(box-\d+)", first + second))) == 30
    connect(rental, relay, KEYS[7])
    for sought in ("box-07", KEYS[7][:12], f"nodekey:{KEYS[7]}", "192.0.2.7"):
        found = re.findall(r"<strong>(box-\d+)", show(browser, "acl:device-lists", q=sought))
        assert found == ["box-07"], sought
    assert "No approved device matches" in show(browser, q="%_nothing")
    # Buttons lead back to where they were pressed, and to nowhere else.
    url = reverse("acl:device-rename", args=[Device.objects.earliest("pk").pk])
    back = browser.post(url, {"back": "page=2&x=//evil"})
    assert back["Location"] == "/devices/?page=2"


def test_an_empty_page_says_what_to_do(browser: Client, rental: Rental) -> None:
    assert "No device yet" in show(browser)


# Letting in


def test_a_device_on_trial_is_shown_with_its_countdown(browser: Client, rental: Rental, relay: Relay) -> None:
    waiting = refuse(rental, relay, A)
    now = timezone.now()
    Device.objects.filter(pk=waiting.pk).update(
        trial_until=now + timedelta(minutes=3), last_seen_at=now - timedelta(seconds=135.5)
    )
    text = words(show(browser))
    assert re.search(
        r"on trial It may use your relays for now. Decided at \d\d:\d\d, in 4[34] s: if it is still connected then",
        text,
    )
    assert "1 device is on trial" in text
    assert "waiting for your approval" not in text
    Device.objects.update(trial_until=None, left_at=now)
    assert A not in show(browser)  # it went: nobody is asked about it


def test_each_device_stands_once_whatever_it_is(browser: Client, rental: Rental, relay: Relay) -> None:
    approve(rental, A, "nas")
    approve(rental, B, "phone")
    waiting = refuse(rental, relay, C)
    revoked = approve(rental, D, "gone")
    now = timezone.now()
    Device.objects.filter(pk=waiting.pk).update(trial_until=now + timedelta(minutes=3), stayed_at=now)
    revoke_device(device=revoked, by=rental.user)
    with time_machine.travel(now + timedelta(seconds=6)):
        connect(rental, relay, A, C, D)
        page = show(browser)
        text = words(page)
        for key in (A, B, C, D):
            assert page.count(f"nodekey:{key}") == 1, key
        assert "Connected now 2" in text
        assert "3 of 10 devices, 3 connected" in text
        # One that is on trial stands where it is decided about, and is said to be there.
        assert "wants to use Shanghai 2 connected on trial" in text
        found = show(browser, q="nas")
        assert found.count(f"nodekey:{A}") == 1
        assert "nas Rename Save connected" in words(found)


# Keeping out


# States


def test_who_has_no_rental_is_told_so() -> None:
    client = Client()
    client.force_login(UserFactory(language="en"))
    for name in (LIST, "acl:admission-list", "acl:verify-show"):
        assert reverse("serials:serial-redeem") in show(client, name)
    assert client.get(reverse("acl:device-state")).headers["HX-Refresh"] == "true"
    assert client.post(reverse("acl:device-add"), {"text": A}).status_code == 404


def test_devices_are_kept_when_the_rental_rests_or_has_ended(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    approve(rental, A, "nas")
    waiting = refuse(rental, relay, B)
    pause_rental(rental=rental, by=None, reason="")
    page = show(browser)
    assert "The rental is paused" in page
    # It may still be ignored, and what a page from before approves comes in later.
    assert reverse("acl:device-approve", args=[waiting.pk]) not in page
    assert reverse("acl:device-ignore", args=[waiting.pk]) in page
    text = press(browser, "acl:device-approve", waiting.pk)
    assert "is approved, and may use your relays once the rental is active again" in text
    assert "within a minute" not in text
    Device.objects.filter(pk=waiting.pk).update(status="pending")
    past = timezone.now() - timedelta(days=9)
    Rental.objects.update(paused_at=None, ends_at=past, runs_until=past)
    RentalSpan.objects.update(starts_at=past - timedelta(days=1), ends_at=past)
    page = show(browser)
    assert "The rental has ended" in page
    assert "nas" in page
    assert reverse("acl:device-add") not in page
    assert browser.get(reverse("acl:device-state")).headers["HX-Refresh"] == "true"
    assert "The rental has ended: renew it first." in press(browser, "acl:device-approve", waiting.pk)
    Rental.objects.update(closed_at=timezone.now())
    assert "This rental is closed" in show(browser)
    assert "The account is banned or closed." in press(browser, "acl:window-open", minutes=10)


# Home, and the mail


def test_home_shows_devices_in_brief_with_the_buttons(browser: Client, rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    waiting = refuse(rental, relay, B)
    connect(rental, relay, A)
    for name in ("home", "home-devices"):
        text = words(show(browser, name))
        assert "Connected now 1 Places 1 / 10 Waiting for you 1" in text, name
        assert "203.0.113.9 wants to use Shanghai 2" in text, name
    response = browser.post(reverse("acl:device-approve", args=[waiting.pk]), {"back": "home"})
    assert response["Location"] == reverse("home")
    set_open(rental=rental, is_open=True, by=rental.user)
    assert "Device checking is off." in show(browser, "home")
    Rental.objects.update(paused_at=timezone.now())
    assert "home-devices" not in show(browser, "home")
    assert browser.get(reverse("home-devices")).headers["HX-Refresh"] == "true"


@pytest.mark.parametrize(("language", "relay_name"), [("en", "Shanghai 2"), ("zh-hans", "上海 2")])
def test_the_mail_says_which_device_from_where_and_when(
    rental: Rental, relay: Relay, language: str, relay_name: str
) -> None:
    rental.user.language = language
    rental.user.save()
    close_window(rental=rental, by=rental.user)
    start = timezone.now()
    for seconds in (0, 40):
        with time_machine.travel(start + timedelta(seconds=seconds), tick=False):
            refuse(rental, relay, A)
    assert waiting_devices.tell_waiting(start + timedelta(seconds=41)) == 1
    written = notices.render(Notice.objects.get(kind="device_waiting"))
    at = f"{timezone.localtime(start + timedelta(seconds=40)):%Y-%m-%d %H:%M}"
    for text in (written.text, written.html):
        assert f"{at} · 203.0.113.9 · {relay_name} · nodekey:{A[:8]}…" in text
        assert "http://testserver/devices/" in text
    assert "{" not in written.subject + written.text
