"""Devices that a customer pastes: who comes in, who does not, and what stays in the field."""

import json
import re
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from acl.devices.models import Device
from acl.devices.services import revoke_device
from serials.rentals.models import Rental, RentalSpan
from tests.acl.device_world import KEYS, A, B, C, approve, press, words
from tests.acl.device_world import browser as browser
from tests.acl.device_world import rental as rental

pytestmark = pytest.mark.django_db(transaction=True)


def add(browser: Client, text: str, *without: str) -> str:
    """Paste, look, take the tick off some keys, and confirm; the page there as words."""
    page = browser.post(reverse("acl:device-add"), {"text": text}).content.decode()
    field = re.search(r'<textarea name="text" hidden>([^<]*)</textarea>', page)
    assert field, page
    ticked = re.findall(r'name="key" value="([0-9a-f]{64})" checked', page)
    keys = [key for key in ticked if key not in without]
    return press(browser, "acl:device-add", text=unescape(field[1]), sure="1", key=keys)


def test_nothing_is_approved_before_its_customer_saw_it(browser: Client, rental: Rental) -> None:
    approve(rental, C, "desktop")
    status = {
        "Self": {"PublicKey": f"nodekey:{A}", "HostName": 'nas {1} "big"', "UserID": 1},
        "Peer": {
            "x": {"PublicKey": f"nodekey:{B}", "HostName": "colleague's", "UserID": 1},
            "y": {"PublicKey": f"nodekey:{C}", "HostName": "desktop", "UserID": 1},
        },
    }
    typed = f"PS C:\\> tailscale status --json\n{json.dumps(status, indent=2)}\nPS C:\\> "
    for sure in ({}, {"sure": "1"}):
        response = browser.post(reverse("acl:device-add"), {"text": typed, **sure})
        text = words(response.content.decode())
        assert "3 devices were found" in text
        assert "Nothing has been approved yet" in text
        for name in ("nas {1}", "colleague", "desktop"):
            assert name in text
        assert "approved already" in text
        assert ("Choose at least one device" in text) == bool(sure)
        assert Device.objects.count() == 1
    assert "1 device was added: nas {1}" in add(browser, typed, B)
    assert not Device.objects.filter(node_key=B).exists()
    assert Device.objects.get(node_key=A).name.startswith('nas {1} "big')
    # The button once more.
    assert "1 device was added: colleague" in add(browser, typed)
    assert Device.objects.filter(status="approved").count() == 3


def test_a_text_that_is_cut_off_says_what_to_paste_and_stays(browser: Client, rental: Rental) -> None:
    typed = f'"PublicKey": "nodekey:{A}",\n"HostName": "friends-box"'
    page = browser.post(reverse("acl:device-add"), {"text": typed, "sure": "1", "key": A}).content.decode()
    assert "tailscale status --json” or “headscale nodes list" in page
    assert escape(typed) in page
    assert not Device.objects.exists()


def test_more_than_there_is_room_for_is_said_before(browser: Client, rental: Rental) -> None:
    RentalSpan.objects.update(device_limit=1)
    page = browser.post(reverse("acl:device-add"), {"text": f"{A}\n{B}\0"}).content.decode()
    assert "There is 1 place left: the others are left out" in page


def look(browser: Client, text: str) -> str:
    """Paste, and look at what would become of it."""
    return words(browser.post(reverse("acl:device-add"), {"text": text}).content.decode())


def test_pasted_devices_come_in_and_known_ones_are_said(browser: Client, rental: Rental) -> None:
    assert "1 device was added: nas" in add(browser, f"nodekey:{A} nas")
    status = {"Self": {"PublicKey": f"nodekey:{B}", "HostName": "laptop"}, "Peer": None}
    assert "1 device was added: laptop" in add(browser, json.dumps(status))
    assert re.search(r"nas nodekey:\S+ approved already", look(browser, f"nodekey:{A}\nnodekey:{C}"))
    assert "1 device was added" in add(browser, f"nodekey:{A}\nnodekey:{C}")
    assert Device.objects.filter(rental=rental, status="approved").count() == 3
    # A confirmation from an old page.
    text = press(browser, "acl:device-add", text=f"nodekey:{A}", sure="1", key=A)
    assert "1 device was approved already: nas" in text


def test_a_list_lets_no_revoked_device_in_again_and_its_key_alone_does(
    browser: Client, rental: Rental
) -> None:
    revoke_device(device=approve(rental, A, "stolen"), by=rental.user)
    status = {
        "Self": {"PublicKey": f"nodekey:{B}", "HostName": "new"},
        "Peer": {"x": {"PublicKey": f"nodekey:{A}", "HostName": "stolen"}},
    }
    said = r"stolen nodekey:\S+ revoked, stays out"
    assert re.search(said, look(browser, json.dumps(status)))
    text = add(browser, json.dumps(status))
    assert "1 device was added: new" in text
    assert Device.objects.get(node_key=A).status == "revoked"
    # Also when its tick is put in by another way.
    text = press(browser, "acl:device-add", text=f"{A}\n{C}", sure="1", key=[A, C])
    assert "1 device is revoked and was left out: stolen" in text
    # No places are missing when all the rest has one.
    text = look(browser, f"{A}\n{B}")
    assert re.search(said, text)
    assert "are left out" not in text
    assert "was revoked, will be let in again" in look(browser, f"nodekey:{A}")
    assert "1 device was added: stolen" in add(browser, f"nodekey:{A}")
    assert Device.objects.get(node_key=A).status == "approved"


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("", "Paste a node key first."),
        ("my own <nas>", "There is no whole node key in it."),
        ("mkey:" + A, "a key of another kind"),
        ("tskey-auth-k1-abc", "a key of another kind"),
    ],
)
def test_what_is_no_node_key_stays_in_its_field(
    browser: Client, rental: Rental, typed: str, said: str
) -> None:
    response = browser.post(reverse("acl:device-add"), {"text": typed})
    page = response.content.decode()
    assert response.status_code == 200
    assert said in page
    assert escape(typed) in page
    assert not Device.objects.exists()


def test_what_finds_no_place_stays_in_its_field(browser: Client, rental: Rental) -> None:
    RentalSpan.objects.update(device_limit=2)
    typed = "\n".join(f"nodekey:{key} box {number}" for number, key in enumerate(KEYS[:3]))
    sure: dict[str, Any] = {"sure": "1", "key": KEYS[:3]}
    page = browser.post(reverse("acl:device-add"), {"text": typed, **sure}).content.decode()
    assert "2 devices were added: box 0, box 1" in page
    assert "this 1 device was left out" in page
    field = re.search(r"<textarea[^>]*>\s*([^<]*)</textarea>", page)
    assert field
    assert field[1].strip() == f"nodekey:{KEYS[2]} box 2"
    page = browser.post(reverse("acl:device-add"), {"text": field[1], **sure}).content.decode()
    assert "allows 2 devices" in page
    assert KEYS[2] in page


@pytest.mark.slow
def test_pasting_has_a_limit_that_keeps_the_text_and_needs_the_pages_token(
    rental: Rental, browser: Client
) -> None:
    for _ in range(60):
        browser.post(reverse("acl:device-add"), {"text": ""})
    for typed in (f"nodekey:{A} nas", "no key"):
        response = browser.post(reverse("acl:device-add"), {"text": typed})
        page = response.content.decode()
        assert response.status_code == 429
        assert 0 < int(response["Retry-After"]) <= 600
        assert typed in page
        assert re.search(r"this is limited\. Try again in \d+ minute", page)
        assert "There is no whole node key" not in page
    assert not Device.objects.exists()
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(rental.user)
    for name in ("acl:device-add", "acl:window-open", "acl:checking-start", "acl:verify-set"):
        assert strict.post(reverse(name)).status_code == 403
