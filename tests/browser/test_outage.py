"""What a customer and an operator see of a server that goes away and comes back, and of the tests of the last day."""

import json
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PHONE, Demo, Window
from tests.browser.test_main_job import GREEN

pytestmark = pytest.mark.lab
Open = Callable[..., Window]
PATIENCE_MS = 120_000


def test_an_outage_reaches_cards_and_figures_and_goes_again(demo: Demo, open_window: Open) -> None:
    code = demo.take_serial()
    redeemed = demo.folder.manage("serial_redeem", "customer@example.com", code)
    assert redeemed.returncode == 0, redeemed.stderr
    window = open_window(language="en")
    window.sign_in("customer")
    window.speak_english()
    page = window.open("/home/")
    expect(page.locator(GREEN)).to_have_count(3)
    expect(page.locator("#relays .proof-ticks")).to_have_count(3)
    # Nothing but what was really proven: all of it now, nothing before.
    expect(page.locator("#relays .proof-ticks span:not(.is-none)")).to_have_count(3)
    expect(page.locator("#relays .proof-ticks span.is-ok:last-child")).to_have_count(3)

    sandbox = demo.folder.path / "demo" / "sandbox"
    card = page.locator("#relays .relay-card").first
    address = card.locator(".font-monospace").inner_text().partition(":")[0]
    hosts = json.loads((sandbox / "hosts.json").read_text())
    hosts = hosts["hosts"] if isinstance(hosts, dict) else hosts
    name = next(host["name"] for host in hosts if host["address"] == address)
    (sandbox / "faults.json").write_text(json.dumps({name: {"down": True}}))
    expect(card).to_contain_text("The server does not answer (since ", timeout=PATIENCE_MS)
    expect(page.locator(GREEN)).to_have_count(2)
    expect(card.locator(".proof-ticks span.is-mixed")).to_have_count(1, timeout=PATIENCE_MS)
    window.shoot("70-outage")

    boss = open_window(language="en")
    boss.sign_in("superadmin")
    boss.speak_english()
    boss.open("/admin/")
    expect(boss.page.locator("body")).to_contain_text("2 / 3")
    boss.shoot("71-outage-admin")
    boss.open("/admin/fleet/server/")
    boss.page.get_by_role("row").filter(has_text=address).get_by_role("link").first.click()
    expect(boss.page.locator(".proof-ticks").first).to_be_visible()
    boss.shoot("72-outage-server")

    phone = open_window(PHONE)
    phone.sign_in("customer")
    phone.open("/home/")
    phone.shoot("73-outage-phone")

    (sandbox / "faults.json").write_text("{}")
    expect(page.locator(GREEN)).to_have_count(3, timeout=PATIENCE_MS)
