"""Devices that a customer pastes: who comes in, who does not, and what stays in the field."""

import json
import re

import pytest
from django.test import Client
from django.urls import reverse
from django.utils.html import escape

from acl.models import Device
from acl.services import revoke_device
from serials.models import Rental, RentalSpan
from tests.acl.device_world import KEYS, A, B, C, approve, press
from tests.acl.device_world import browser as browser
from tests.acl.device_world import rental as rental

pytestmark = pytest.mark.django_db(transaction=True)


def test_pasted_devices_come_in_and_known_ones_are_said(browser: Client, rental: Rental) -> None:
    text = press(browser, "acl:device-add", text=f"nodekey:{A} nas")
    assert "1 device was added: nas" in text
    status = {"Self": {"PublicKey": f"nodekey:{B}", "HostName": "laptop"}, "Peer": None}
    text = press(browser, "acl:device-add", text=f"{json.dumps(status)}")
    assert "1 device was added: laptop" in text
    text = press(browser, "acl:device-add", text=f"nodekey:{A}\nnodekey:{C}")
    assert "1 device was added" in text
    assert "1 device was approved already: nas" in text
    assert Device.objects.filter(rental=rental, status="approved").count() == 3


def test_a_list_lets_no_revoked_device_in_again_and_its_key_alone_does(
    browser: Client, rental: Rental
) -> None:
    revoke_device(device=approve(rental, A, "stolen"), by=rental.user)
    status = {
        "Self": {"PublicKey": f"nodekey:{B}", "HostName": "new"},
        "Peer": {"x": {"PublicKey": f"nodekey:{A}", "HostName": "stolen"}},
    }
    text = press(browser, "acl:device-add", text=json.dumps(status))
    assert "1 device was added: new" in text
    assert "1 device is revoked and was left out: stolen" in text
    assert Device.objects.get(node_key=A).status == "revoked"
    # No places are missing when all the rest has one.
    text = press(browser, "acl:device-add", text=f"{A}\n{B}")
    assert "left out: stolen" in text
    assert "places are taken" not in text
    assert "1 device was added: stolen" in press(browser, "acl:device-add", text=f"nodekey:{A}")
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
    page = browser.post(reverse("acl:device-add"), {"text": typed}).content.decode()
    assert "2 devices were added: box 0, box 1" in page
    assert "this 1 device was left out" in page
    field = re.search(r"<textarea[^>]*>\s*([^<]*)</textarea>", page)
    assert field
    assert field[1].strip() == f"nodekey:{KEYS[2]} box 2"
    page = browser.post(reverse("acl:device-add"), {"text": field[1]}).content.decode()
    assert "allows 2 devices" in page
    assert KEYS[2] in page


def test_pasting_has_a_limit_that_keeps_the_text_and_needs_the_pages_token(
    rental: Rental, browser: Client
) -> None:
    for _ in range(30):
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
