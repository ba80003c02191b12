"""What a customer does with a device on its page: approve, name, revoke."""

from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices.models import Device
from acl.devices.services import revoke_device, set_open
from acl.devices.services.device_panel import old_self
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.acl.device_world import KEYS, A, B, C, D, approve, connect, press, refuse, show, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.factories import RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


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
