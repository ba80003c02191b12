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
from acl.devices.services.device_panel import old_self
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental
from tests.acl.device_world import KEYS, LIST, A, B, C, D, approve, connect, press, refuse, show, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.factories import DeviceFactory, RentalFactory, UserFactory

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


def test_a_waiting_device_is_approved_or_ignored_by_a_click_that_may_be_doubled(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    first, second = refuse(rental, relay, A), refuse(rental, relay, B)
    for _ in range(2):
        assert "may use your relays now" in press(browser, "acl:device-approve", first.pk)
    refused = press(browser, "acl:device-ignore", second.pk)
    assert "was refused and stays out" in refused
    assert "Refused 1 Device without a name refused just now" in refused
    assert "Let it in after all" in refused
    assert "not waiting any more" in press(browser, "acl:device-ignore", second.pk)
    assert list(Device.objects.order_by("pk").values_list("status", flat=True)) == ["approved", "revoked"]
    assert rental.user.suffered.filter(action="device.approved").count() == 1
    assert "may use your relays now" in press(browser, "acl:device-approve", second.pk)


@pytest.mark.parametrize("verb", ["approve", "ignore", "revoke", "rename"])
def test_a_row_that_is_gone_leads_back_and_one_of_another_is_not_there(
    browser: Client, rental: Rental, relay: Relay, verb: str
) -> None:
    gone = refuse(rental, relay, A)
    gone.delete()
    before = rental.user.suffered.count()
    assert (
        "panel-toast is-"
        in browser.post(reverse(f"acl:device-{verb}", args=[9999]), follow=True).content.decode()
    )
    other = RentalFactory(days=60)
    theirs = approve(other, B, "theirs")
    for method in (browser.get, browser.post):
        response = method(reverse(f"acl:device-{verb}", args=[theirs.pk]))
        assert response.status_code in ({404} if method == browser.post else {404, 405})
    mine = refuse(rental, relay, C)
    url = reverse("acl:device-approve", args=[mine.pk])
    assert browser.post(url, {"replaces": theirs.pk}).status_code == 404
    for wrong in ("x", "9" * 5000, "²", "-1"):
        assert browser.post(url, {"replaces": wrong}).status_code == 404, wrong[:9]
    assert rental.user.suffered.count() == before
    assert Device.objects.get(pk=theirs.pk).status == "approved"


def test_no_place_left_is_said_when_a_device_is_approved(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    RentalSpan.objects.update(device_limit=1)
    approve(rental, A)
    waiting = refuse(rental, relay, B)
    assert "All places are taken" in words(show(browser))
    assert reverse("acl:place-give") + f"?to={waiting.pk}" in show(browser)
    assert "allows 1 devices" in press(browser, "acl:device-approve", waiting.pk)
    assert Device.objects.get(pk=waiting.pk).status == "pending"


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


def test_a_device_that_logged_in_again_may_replace_its_old_self(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    old = approve(rental, A, "NAS", last_ip="203.0.113.9", last_seen_at=timezone.now() - timedelta(hours=1))
    new = refuse(rental, relay, B)
    question = "Is this NAS after a new login?"
    assert question not in show(browser)  # nobody knows whether it is connected
    connect(rental, relay, A)
    assert question not in show(browser)
    connect(rental, relay)
    assert question in show(browser)
    assert "has taken the place" in press(browser, "acl:device-approve", new.pk, replaces=old.pk)
    assert "not waiting any more" not in press(browser, "acl:device-approve", new.pk)
    new.refresh_from_db()
    old.refresh_from_db()
    assert (new.status, new.name, old.status) == ("approved", "NAS", "revoked")
    waiting = refuse(rental, relay, C)
    assert "not waiting any more" in press(browser, "acl:device-approve", waiting.pk, replaces=old.pk)


def test_the_old_key_stays_out_though_the_new_one_was_approved_in_another_tab(
    browser: Client, rental: Rental, relay: Relay
) -> None:
    old, new = approve(rental, A, "NAS"), refuse(rental, relay, B)
    press(browser, "acl:device-approve", new.pk)
    assert "has taken the place" in press(browser, "acl:device-approve", new.pk, replaces=old.pk)
    new.refresh_from_db()
    old.refresh_from_db()
    assert (new.status, new.name, old.status) == ("approved", "NAS", "revoked")
    # A click that is doubled, and a device that would replace itself.
    assert "has taken the place" in press(browser, "acl:device-approve", new.pk, replaces=old.pk)
    assert "not waiting any more" in press(browser, "acl:device-approve", new.pk, replaces=new.pk)
    assert Device.objects.get(pk=new.pk).status == "approved"
    assert rental.user.suffered.filter(action="device.revoked").count() == 1


def test_the_old_self_is_the_likeliest_one_or_none() -> None:
    now = timezone.now()

    def device(key: str, *, name: str = "", ip: str | None = None, hours: float | None = None) -> Device:
        seen = None if hours is None else now - timedelta(hours=hours)
        return Device(node_key=key, name=name, last_ip=ip, last_seen_at=seen)

    new = device(A, name="nas", ip="192.0.2.1", hours=0)
    new.first_seen_at = now
    far = device(B, name="tv", ip="192.0.2.9", hours=1)
    near = device(C, name="tv", ip="192.0.2.1", hours=2)
    nearer = device(D, name="pc", ip="192.0.2.1", hours=1)
    named = device(KEYS[5], name="NAS", ip="192.0.2.9", hours=9)
    assert old_self(new, [far], ()) is None
    assert old_self(new, [far, near], ()) is near
    assert old_self(new, [nearer, near], ()) is nearer
    assert old_self(new, [nearer, named], ()) is named
    assert old_self(new, [nearer, near], {D}) is near
    assert old_self(new, [near], None) is None
    # Who was seen after the new key first knocked is another device.
    assert old_self(new, [device(B, ip="192.0.2.1", hours=-0.1)], ()) is None
    assert old_self(device(A), [device(B)], ()) is None


def test_a_device_is_named_where_it_is_approved(browser: Client, rental: Rental, relay: Relay) -> None:
    first, second = refuse(rental, relay, A), refuse(rental, relay, B)
    page = show(browser)
    assert "Which device is this?" in page
    assert '<option value="NAS">' in page
    assert page.count('id="device-names"') == 1

    def allow(device: Device, name: str) -> str:
        url = reverse("acl:device-approve", args=[device.pk])
        return words(browser.post(url, {"name": name}, follow=True).content.decode())

    assert "书房 may use your relays now" in allow(first, " 书房\n")
    allow(second, "")
    assert list(Device.objects.order_by("pk").values_list("name", flat=True)) == ["书房", ""]
    # What names it later is another page's business.
    allow(first, "other")
    first.refresh_from_db()
    assert first.name == "书房"


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


def test_a_name_is_changed_in_its_place(browser: Client, rental: Rental, relay: Relay) -> None:
    device = approve(rental, A, "nas")
    connect(rental, relay, A)
    url = reverse("acl:device-rename", args=[device.pk])
    assert f'hx-post="{url}"' in show(browser)
    response = browser.post(url, {"name": "<i>NAS", "back": "page=2"}, headers={"HX-Request": "true"})
    line = response.content.decode()
    assert response.status_code == 200
    assert line.strip().startswith("<li")
    assert "&lt;i&gt;NAS" in line
    assert "connected 2 minutes ago" in words(line)
    assert f"{reverse('acl:device-revoke', args=[device.pk])}?page=2" in line
    Device.objects.all().delete()
    assert browser.post(url, {"name": "x"}, headers={"HX-Request": "true"}).headers["HX-Refresh"] == "true"


# Keeping out


def test_revoking_asks_once_and_says_what_happens(browser: Client, rental: Rental) -> None:
    device = approve(rental, A, "nas")
    url = reverse("acl:device-revoke", args=[device.pk])
    question = words(browser.get(url, {"page": "2"}).content.decode())
    assert "Revoke nas?" in question
    assert "cut at once" in question
    assert "Device checking is off" not in question
    assert Device.objects.get().status == "approved"
    assert browser.post(url, {"back": "page=2"})["Location"] == "/devices/?page=2"
    assert Device.objects.get().status == "revoked"
    # The other tab.
    assert "revoked already" in press(browser, "acl:device-revoke", device.pk)
    assert "revoked already" in words(browser.get(url, follow=True).content.decode())
    assert rental.user.suffered.filter(action="device.revoked").count() == 1


def test_revoking_says_what_it_is_worth_while_devices_are_not_checked(
    browser: Client, rental: Rental
) -> None:
    device = approve(rental, A, "nas")
    set_open(rental=rental, is_open=True, by=rental.user)
    question = words(browser.get(reverse("acl:device-revoke", args=[device.pk])).content.decode())
    assert "Device checking is off: once it logs in again and has a new key, it can connect" in question


def test_a_revoked_device_without_a_name_is_shown_as_one(browser: Client, rental: Rental) -> None:
    revoke_device(device=approve(rental, A), by=rental.user)
    assert "Device without a name revoked" in words(show(browser))


def test_a_device_gets_another_name(browser: Client, rental: Rental) -> None:
    device = approve(rental, A, "nas")
    url = reverse("acl:device-rename", args=[device.pk])
    page = browser.post(url, {"name": " <b>书房  "}, follow=True).content.decode()
    assert "&lt;b&gt;书房" in page
    assert Device.objects.get().name == "<b>书房"
    browser.post(url, {"name": "a\u202egpj\x00\x07b\n" + "c" * 70})
    assert Device.objects.get().name == "a gpj b " + "c" * 55
    renamed = rental.user.suffered.filter(action="device.renamed")
    assert renamed.count() == 2
    browser.post(url, {"name": Device.objects.get().name})
    assert renamed.count() == 2
    entry = renamed.last()
    assert entry
    assert (entry.actor, entry.detail["node_key"]) == (rental.user, A)


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
