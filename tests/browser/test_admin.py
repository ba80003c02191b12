"""What operators do in the admin, as a person does it."""

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PATIENCE_MS, Demo, Window

pytestmark = pytest.mark.lab
Open = Callable[..., Window]


def wait_for_checks(page: Page) -> None:
    """Until the checks page, which is not loaded again, says that all is well."""
    page.evaluate("window.sameDocument = true")
    expect(page.locator("#server-check form input[type=submit]")).to_be_visible()
    expect(page.locator(".panel-steps li.is-done")).to_have_count(4)
    assert page.locator(".panel-findings .is-bad").count() == 0
    assert page.locator(".panel-findings .is-ok").count() >= 5
    assert page.evaluate("window.sameDocument") is True


def row(page: Page, text: str) -> str:
    """The address of the first row of a change list that has `text` in it."""
    link = page.locator("#result_list tbody tr", has_text=text).first.locator("th a").first
    return str(link.get_attribute("href")).partition("?")[0]


def check_live_list(page: Page) -> None:
    """The list's figures go on by themselves; a tick, an open menu and the keyboard's place stay."""
    page.evaluate("window.sameDocument = true")
    box = page.locator("#result_list tbody input[type=checkbox]").first
    box.check()
    page.locator("#changelist-filter summary").first.click()
    page.locator("#searchbar").fill("half a wo")
    page.evaluate("for (const cell of document.querySelectorAll('td.field-fill')) cell.textContent = 'old'")
    page.evaluate("document.querySelector('.server-totals td').textContent = 'old'")
    expect(page.get_by_text("old", exact=True)).to_have_count(0, timeout=PATIENCE_MS)
    expect(box).to_be_checked()
    expect(page.locator("#changelist-filter details").first).to_have_attribute("open", "")
    expect(page.locator("#searchbar")).to_be_focused()
    expect(page.locator("#searchbar")).to_have_value("half a wo")
    assert page.evaluate("window.sameDocument") is True
    box.uncheck()
    page.reload()


def test_a_super_admin_runs_the_fleet(demo: Demo, open_window: Open) -> None:
    demo.folder.manage("serial_redeem", "customer@example.com", demo.take_serial())
    window = open_window(language="en")
    window.sign_in("superadmin")
    page = window.open("/admin/")
    window.speak_english()
    expect(page.locator(".panel-well")).to_be_visible()
    expect(page.locator(".panel-fleet tbody tr")).to_have_count(3)
    window.shoot("40-admin-start")

    # A batch that is not paid for stands on the start page until it is.
    page = window.open("/admin/serials/serialbatch/add/")
    page.fill("#id_name", "Spring")
    page.fill("#id_days", "90")
    page.fill("#id_count", "5")
    page.uncheck("#id_is_paid")
    window.shoot("41-batch-add")
    page.locator("input[name=_save]").click()
    expect(page.locator(".panel-codes")).to_have_text(re.compile(r"^(\s*\S{4}(-\S{4}){4}\s*){5}$"))
    window.shoot("41-batch-codes")
    window.open("/admin/")
    page.locator(".panel-matters a", has_text="Spring").click()
    expect(page.locator("#result_list tbody tr")).to_have_count(1)
    page.locator("#result_list tbody input[type=checkbox]").check()
    page.select_option("select[name=action]", "mark-paid")
    page.locator("button[name=index]").click()
    expect(page.locator(".panel-act li", has_text="Spring")).to_be_visible()
    window.shoot("42-batches-ticked")
    page.locator(".panel-act button").click()
    expect(page.locator(".panel-toast.is-success")).to_be_visible()
    window.open("/admin/")
    expect(page.locator(".panel-well")).to_be_visible()
    window.open("/admin/serials/serialbatch/")
    window.shoot("42-batches")

    # A server that holds nothing is removed and added again in its four steps.
    window.open("/admin/fleet/server/")
    expect(page.locator("#result_list tbody tr")).to_have_count(4)
    window.shoot("43-servers")
    check_live_list(page)
    unused = page.locator(".field-fill", has_text=re.compile("^0 / "))
    empty = page.locator("#result_list tbody tr").filter(has=unused)
    name = empty.locator("th a").inner_text()
    empty.locator("th a").click()
    window.shoot("43-server")
    page.locator(".panel-tabs a", has_text="Settings").click()
    fields = {
        field: page.locator(f"#id_{field}").input_value()
        for field in ("name", "address", "ssh_port", "docker_socket")
    }
    region = page.locator("#id_region").input_value()
    credential = page.locator("#id_credential").input_value()
    page.locator("a[href$='/retire/do/']").click()
    window.shoot("43-server-remove")
    page.locator(".panel-act button").click()
    page.wait_for_url("**/admin/fleet/server/")
    window.open("/admin/fleet/server/add/")
    for field, value in fields.items():
        page.fill(f"#id_{field}", value)
    page.select_option("#id_region", region)
    page.select_option("#id_credential", credential)
    window.shoot("44-server-add")
    page.locator("input[name=_save]").click()
    page.wait_for_url("**/host-key/")
    expect(page.locator(".panel-key")).to_have_text(re.compile(r"^SHA256:\S{43}$"))
    window.shoot("45-host-key")
    page.locator("main form input[type=submit]").click()
    page.wait_for_url("**/servercheck/server/*/")
    window.shoot("46-checks-begin")
    wait_for_checks(page)
    window.shoot("47-checks-done")
    page.locator("#server-check form input[type=submit]").click()
    wait_for_checks(page)
    window.open("/admin/fleet/server/")
    expect(page.locator("#result_list tbody tr", has_text=name).first).to_contain_text("healthy")


def test_a_failed_deployment_says_why_and_is_tried_again(demo: Demo, open_window: Open) -> None:
    demo.folder.manage("serial_redeem", "admin@example.com", demo.take_serial())
    window = open_window(language="en")
    window.sign_in("admin")
    page = window.open("/admin/containers/relay/?q=admin@example.com")
    window.speak_english()
    expect(page.locator("#result_list tbody tr")).to_have_count(3)
    window.shoot("50-relays")
    relay = row(page, "running")
    server = str(page.locator("#result_list tbody tr .field-server_link a").first.get_attribute("href"))

    # A wrong path to the Docker socket: what stood there cannot be looked after any more.
    window.open(f"{server}?tab=settings")
    right = page.locator("#id_docker_socket").input_value()
    page.fill("#id_docker_socket", "/nowhere/docker.sock")
    page.locator("input[name=_save]").click()
    window.open(relay)
    for _ in range(60):
        if page.locator(".field-state .is-red").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(page.locator(".field-state .is-red")).to_be_visible()
    window.open("/admin/containers/deployment/?status__exact=failed")
    window.shoot("51-deployments-failed")
    page.locator("#result_list tbody tr th a").first.click()
    expect(page.locator(".field-reason_text .readonly")).not_to_have_text("–")
    expect(page.locator(".panel-log tr")).not_to_have_count(0)
    window.shoot("52-deployment-failed")
    failed = page.url
    window.open("/admin/")
    expect(page.locator(".panel-matters a[href*='/fleet/server/']")).not_to_have_count(0)
    window.shoot("53-admin-start-with-trouble")

    window.open(f"{server}?tab=settings")
    page.fill("#id_docker_socket", right)
    page.locator("input[name=_save]").click()
    page.goto(failed)
    page.locator("a[href$='/retry/do/']").click()
    page.locator(".panel-act button").click()
    page.wait_for_url(f"**{relay}")
    for _ in range(60):
        if page.locator(".field-state .is-green").count():
            break
        page.wait_for_timeout(500)
        page.reload()
    expect(page.locator(".field-state .is-green")).to_be_visible()
    window.shoot("54-relay-again")
    page.locator("form[action$='/probe/do/'] button").click()
    expect(page.locator(".panel-toast.is-success")).to_be_visible()


def test_every_page_of_the_admin_is_shown_without_a_complaint(demo: Demo, open_window: Open) -> None:
    window = open_window(language="en")
    window.sign_in("superadmin")
    page = window.open("/admin/")
    links = page.locator(".admin-tasks .admin-rooms a").evaluate_all(
        "links => links.map(link => link.pathname)"
    )
    assert len(links) > 15
    for path in links:
        window.open(path)
        # The brand is one row, which is its own list.
        expect(page.locator("#changelist, #brandsettings_form")).to_be_visible()
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 1440, f"{path} is {width} px wide"
        window.shoot(f"60-list{path.replace('/', '-').rstrip('-')}")
        first = page.locator("#result_list tbody tr").first.locator("a[href*='/change/']")
        if first.count():
            first.first.click()
            expect(page.locator("#content h1")).to_be_visible()
            window.shoot(f"61-row{path.replace('/', '-').rstrip('-')}")


def test_cards_are_printed_ten_on_a_sheet_and_none_is_cut(demo: Demo, open_window: Open) -> None:
    make = (
        "from accounts.models import User; from tests.factories import SerialBatchFactory; from datetime import date;"
        "from accounts.services import change_brand;"
        "by = User.objects.get(email='superadmin@example.com');"
        "change_brand(by=None, name='A company whose name is as long as may be');"
        "print(SerialBatchFactory(name='Printed', count=24, days=3650, device_limit=1000, quota_bytes=10**13,"
        " rate_bytes_per_second=10**8, may_open=False, redeem_by=date(2030, 12, 31), by=by).pk)"
    )
    batch = demo.folder.python(make)
    window = open_window(language="en")
    window.sign_in("superadmin")
    page = window.open(f"/admin/serials/serialbatch/{batch}/codes/")
    with window.context.expect_page() as opened:
        page.locator("button[value=cards]").first.click()
    page = opened.value
    expect(page.locator("article")).to_have_count(24)
    expect(page.locator(".brand").first).to_have_text("A company whose name is as long as may be")
    sheets = page.pdf(prefer_css_page_size=True)
    assert len(re.findall(rb"/Type\s*/Page\b", sheets)) == 3
    page.emulate_media(media="print")
    expect(page.locator("header")).to_be_hidden()
    page.set_viewport_size({"width": 718, "height": 1047})  # A4 within its margins
    cut = page.evaluate(
        """[...document.querySelectorAll('article')].filter(card => card.scrollHeight > card.clientHeight
            || card.scrollWidth > card.clientWidth).map(card => card.innerText)"""
    )
    assert cut == []
    tops = page.evaluate(
        "[...document.querySelectorAll('article')].filter(card => getComputedStyle(card).breakBefore === 'page').map(card => [...card.parentElement.children].indexOf(card))"
    )
    assert tops == [10, 20]
