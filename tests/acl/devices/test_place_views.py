"""Giving the place of one device to another: in one step, within the limit, however often it is pressed, on all pages."""

import re
from datetime import timedelta

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices.models import Device, DevicePolicy
from acl.devices.services import devices
from containers.models import Gate, Relay
from containers.services import gates
from derpmgmt.admin_site import PanelAdminSite
from serials.rentals.models import Rental, RentalSpan
from tests.acl.device_world import A, B, C, D, approve, connect, press, refuse, show, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.factories import RentalFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)

GIVE = "acl:place-give"


def states() -> dict[str, str]:
    return dict(Device.objects.values_list("node_key", "status"))


@pytest.fixture
def full(rental: Rental, relay: Relay) -> Rental:
    """One place, which `A` has; `B` waits."""
    RentalSpan.objects.update(device_limit=1)
    gates.gate_of(relay.server_id)
    approve(rental, A, "stranger", last_seen_at=timezone.now() - timedelta(days=3))
    refuse(rental, relay, B)
    return rental


def test_a_place_goes_from_one_to_the_other_in_one_step(full: Rental) -> None:
    Gate.objects.update(list_changed_at=None)
    old, new = Device.objects.order_by("pk")
    for _ in range(2):
        devices.give_place(device=old, to=new, by=full.user)
        assert states() == {A: "revoked", B: "approved"}
    assert Device.objects.get(node_key=B).name == ""  # it is not the old one after a new login
    assert full.user.suffered.filter(action="device.place_given").count() == 1
    assert DevicePolicy.objects.get().cut_owed_at is not None
    assert Gate.objects.get().is_list_late


def test_nothing_happens_when_it_dies_on_the_way(full: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Device.objects.order_by("pk")

    def die(*_values: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(devices, "note_changed", die)
    with pytest.raises(KeyboardInterrupt):
        devices.give_place(device=old, to=new, by=full.user)
    assert states() == {A: "approved", B: "pending"}


def test_a_place_that_is_not_there_is_not_given(full: Rental, relay: Relay) -> None:
    old, new = Device.objects.order_by("pk")
    other = refuse(full, relay, C)
    RentalSpan.objects.update(device_limit=3)
    third, fourth = approve(full, D), approve(full, "77" * 32)
    RentalSpan.objects.update(device_limit=2)
    with pytest.raises(devices.LimitReached):
        devices.give_place(device=old, to=new, by=full.user)
    devices.revoke_device(device=third, by=None)
    devices.give_place(device=old, to=new, by=full.user)
    for giver, taker in ((old, other), (new, new), (other, old), (new, fourth)):
        with pytest.raises(devices.NotWaiting):
            devices.give_place(device=giver, to=taker, by=full.user)
    assert list(states().values()).count("approved") == 2


def test_the_page_offers_it_from_both_sides_and_asks_first(
    browser: Client, full: Rental, relay: Relay
) -> None:
    connect(full, relay)
    old, new = Device.objects.order_by("pk")
    page = show(browser)
    for query in ("", f"?from={old.pk}", f"?to={new.pk}"):
        assert f"{reverse(GIVE)}{query}" in page, query
        text = browser.get(reverse(GIVE) + query).content.decode()
        assert "its connections to your relays are cut at once" in text
        assert "stranger" in text
        assert B[:8] in text
    assert states() == {A: "approved", B: "pending"}
    assert "Choose both devices" in press(browser, GIVE, **{"from": old.pk})
    text = press(browser, GIVE, **{"from": old.pk, "to": new.pk})
    assert f"stranger is revoked, and nodekey:{B[:8]}… has its place" in text
    assert states() == {A: "revoked", B: "approved"}
    # The button once more, and from an old page.
    press(browser, GIVE, **{"from": old.pk, "to": new.pk})
    assert states() == {A: "revoked", B: "approved"}
    assert "not waiting any more" in press(browser, GIVE, **{"from": new.pk, "to": 987654})


def test_the_home_page_leads_there_when_all_places_are_taken(browser: Client, full: Rental) -> None:
    assert reverse(GIVE) in show(browser, "home")
    old, new = Device.objects.order_by("pk")
    response = browser.post(reverse(GIVE), {"from": old.pk, "to": new.pk, "back": "home"})
    assert response["Location"] == reverse("home")


def test_nobody_elses_devices_are_named_or_moved(browser: Client, full: Rental) -> None:
    theirs = approve(RentalFactory(days=60), C)
    old, new = Device.objects.filter(rental=full).order_by("pk")
    for values in (
        {"from": theirs.pk, "to": new.pk},
        {"from": old.pk, "to": theirs.pk},
        {"from": "x"},
        {"to": "9" * 5000},
    ):
        assert browser.post(reverse(GIVE), values).status_code == 404
        assert browser.get(reverse(GIVE), values).status_code == 404
    assert states() == {A: "approved", B: "pending", C: "approved"}


def test_many_devices_are_offered_page_by_page(browser: Client, rental: Rental, relay: Relay) -> None:
    RentalSpan.objects.update(device_limit=30)
    for number in range(30):
        approve(
            rental,
            f"{number + 1:064x}",
            f"box-{number:02}",
            last_seen_at=timezone.now() - timedelta(hours=number),
        )
    waiting = refuse(rental, relay, A)
    first = words(show(browser, GIVE, to=waiting.pk))
    assert "box-29" in first
    assert "box-00" not in first
    page = show(browser, GIVE, to=waiting.pk, page=2)
    assert "box-00" in words(page)
    assert re.search(rf"\?[^\"]*to={waiting.pk}", page)
    for odd in ("0", "-1", "x", "9" * 30, "9" * 5000):
        assert browser.get(reverse(GIVE), {"to": waiting.pk, "page": odd}).status_code == 200


def test_staff_gives_a_place_on_the_devices_own_page(full: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff)
    staff = Client()
    staff.force_login(UserFactory(email="boss@example.com", role="superadmin", language="en"))
    old, new = Device.objects.order_by("pk")
    page = staff.get(reverse("admin:acl_device_change", args=[new.pk])).content.decode()
    where = reverse("admin:acl_device_act", args=[new.pk, "give-place"])
    assert where in page
    for wrong in ("", "x", "9" * 5000, new.rental_id + 10_000):
        answer = staff.post(where, {"holder": wrong})
        assert answer.context["form"].errors["holder"]
    assert f'<option value="{old.pk}">' in staff.get(where).content.decode()
    assert states() == {A: "approved", B: "pending"}
    for sentence in ("has its place", "is approved already"):
        assert sentence in staff.post(where, {"holder": old.pk}, follow=True).content.decode()
    assert states() == {A: "revoked", B: "approved"}
    page = staff.get(reverse("admin:serials_rental_change", args=[full.pk])).content.decode()
    assert "All places are taken" in page
    assert "0 on trial" in page
