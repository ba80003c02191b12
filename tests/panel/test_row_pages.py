"""A customer on one page, a server on one page: tabs that read only their own rows, acts and links, for every role."""

import re
from html import unescape
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from accounts import services as accounts
from accounts.models import User
from acl.maps import services as maps
from acl.maps.models import AclEvent
from containers.models import Deployment, Relay, ServerCheck
from fleet.models import Server
from serials.rentals import services as rentals
from serials.rentals.models import Rental
from tests.factories import (
    DeploymentFactory,
    DeviceFactory,
    RedemptionFactory,
    RelayFactory,
    RentalSpanFactory,
    ServerCheckFactory,
    ServerFactory,
    UserFactory,
    WholeRentalFactory,
)
from tests.panel import world
from tests.panel.staffed import rental as rental

pytestmark = pytest.mark.django_db

CUSTOMERS = (
    "rental",
    "relays",
    "traffic",
    "graphs",
    "alerts",
    "devices",
    "maps",
    "history",
    "notices",
    "log",
    "account",
)
SERVERS = ("relays", "checks", "leaving", "traffic", "graphs", "alerts", "log", "settings")


@pytest.fixture
def staff(rental: Rental) -> Client:
    client = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")
    return client


def page_of(row: Any, tab: str = "", **more: Any) -> str:
    url = reverse(f"admin:{row._meta.app_label}_{row._meta.model_name}_change", args=[row.pk])
    query = "&".join(f"{name}={value}" for name, value in {"tab": tab, **more}.items() if value)
    return f"{url}?{query}" if query else url


def read(client: Client, url: str) -> str:
    answer = client.get(url)
    assert answer.status_code == 200, url
    return unescape(answer.content.decode())


def tabs_of(text: str) -> dict[str, bool]:
    """The tabs' names, and whether each is the current one."""
    [bar] = re.findall(r'<nav class="panel-tabs".*?</nav>', text, re.DOTALL)
    return {name: bool(current) for name, current in re.findall(r"\?tab=(\w+)\"( aria-current)?", bar)}


def test_a_customers_page_has_its_tabs_and_says_in_one_sentence_how_it_stands(
    staff: Client, rental: Rental
) -> None:
    text = read(staff, page_of(rental.user))
    assert tabs_of(text) == {name: name == "rental" for name in CUSTOMERS}
    [sentence] = re.findall(r'<p class="panel-sentence">(.*?)</p>', text)
    assert sentence == f"{rental.user.username} · 30 days left · 3 of 3 relays running · 2 of 20 devices"
    assert f"<h1>{rental.user.email} " in text
    for tab in CUSTOMERS:
        shown = tabs_of(read(staff, page_of(rental.user, tab)))
        assert [name for name, is_current in shown.items() if is_current] == [tab]


def test_a_tab_that_is_not_there_is_the_first(staff: Client, rental: Rental) -> None:
    for tab in ("nonsense", "orders", "9" * 200):
        assert tabs_of(read(staff, page_of(rental.user, tab)))["rental"], tab


def test_who_has_no_rental_has_fitting_tabs(staff: Client) -> None:
    for role in User.Role:
        text = read(staff, page_of(UserFactory(email=f"new-{role}@example.com", role=role)))
        assert tabs_of(text) == {"notices": False, "log": False, "account": True}, role
        assert ("no rental" in text) == (role in {User.Role.USER, User.Role.DISTRIBUTOR})


def test_each_tab_shows_the_rows_of_its_customer_only(staff: Client, rental: Rental) -> None:
    other = WholeRentalFactory()
    device, relay = rental.devices.all()[0], rental.relays.get(slot=1)
    own = {
        "rental": rental.redemptions.get().serial,
        "relays": relay,
        "devices": device,
        "maps": rental.acl_configs.get(),
        "notices": rental.user.notices.first(),
    }
    foreign = {
        "rental": other.redemptions.get().serial,
        "relays": other.relays.get(slot=1),
        "devices": other.devices.all()[0],
        "maps": other.acl_configs.get(),
        "notices": other.user.notices.first(),
    }
    for tab, row in own.items():
        text = read(staff, page_of(rental.user, tab))
        assert page_of(row) in text, tab
        assert f'"{page_of(foreign[tab])}"' not in text, tab
    secrets = [rental.live_urls.get().secret, rental.redemptions.get().serial.code]
    for tab in CUSTOMERS:
        text = read(staff, page_of(rental.user, tab))
        assert not [secret for secret in secrets if secret in text], tab


def test_the_acts_of_the_rental_stand_on_the_page_and_come_back_to_it(staff: Client, rental: Rental) -> None:
    act = f"/admin/serials/rental/{rental.pk}"
    text = read(staff, page_of(rental.user))
    assert [f"{act}/{verb}/do/" in text for verb in ("renew", "pause", "resume")] == [True, True, False]
    answer = staff.post(f"{act}/pause/do/", {"reason": "away"}, follow=True)
    assert answer.redirect_chain == [(page_of(rental.user, "rental"), 302)]
    text = unescape(answer.content.decode())
    assert "is paused. 3 relays stop with it." in text
    assert "rental paused" in text
    assert "away" in text
    assert [f"{act}/{verb}/do/" in text for verb in ("renew", "pause", "resume")] == [True, False, True]


def test_danger_stands_last_and_is_red(staff: Client, rental: Rental) -> None:
    text = read(staff, page_of(rental.user))
    [buttons] = re.findall(r'<ul class="panel-buttons">(.*?)</ul>', text, re.DOTALL)
    found = re.findall(r'<a href="[^"]*/(\w[\w-]*)/do/"( class="is-danger")?', buttons)
    assert [verb for verb, _red in found] == ["renew", "limits", "traffic", "pause", "ban", "close"]
    assert [bool(red) for _verb, red in found] == [False, False, False, True, True, True]


def test_a_renewal_keeps_its_note_and_a_ban_its_reason(staff: Client, rental: Rental) -> None:
    year = timezone.localdate().year + 1
    url = f"/admin/serials/rental/{rental.pk}/renew/do/"
    staff.post(url, {"until": f"{year}-06-01", "note": "a gift"})
    assert "a gift" in read(staff, page_of(rental.user, "rental"))
    staff.post(f"/admin/accounts/user/{rental.user_id}/ban/do/", {"reason": "stolen card"})
    assert "stolen card" in read(staff, page_of(rental.user, "log"))


def test_a_ban_of_many_has_one_reason(staff: Client, rental: Rental) -> None:
    people = [UserFactory(email=f"p{number}@example.com") for number in range(2)]
    url = "/admin/accounts/user/ticked/ban/do/"
    rows = [person.pk for person in people]
    asked = staff.get(f"{url}?rows={','.join(map(str, rows))}").content.decode()
    assert 'name="reason"' in asked
    too_long = staff.post(url, {"row": rows, "reason": "x" * 201})
    assert too_long.status_code == 200
    assert "x" * 201 in too_long.content.decode()
    assert too_long.context["rows"] == [str(pk) for pk in rows]
    assert not User.objects.filter(banned_at__isnull=False).exists()
    staff.post(url, {"row": rows, "reason": "spam"})
    for person in people:
        assert "spam" in read(staff, page_of(person, "log"))


def test_what_is_not_paid_for_is_said(staff: Client, rental: Rental) -> None:
    assert "not paid for" not in read(staff, page_of(rental.user))
    rental.redemptions.update(unpaid_since=timezone.now())
    assert "not paid for" in read(staff, page_of(rental.user))


def test_a_normal_admin_has_no_acts_at_staff_and_no_form(staff: Client) -> None:
    boss = UserFactory(email="boss@example.com", role=User.Role.SUPERADMIN)
    text = read(staff, page_of(boss))
    assert "/ban/do/" not in text
    assert "/close/do/" not in text
    assert 'name="_save"' not in text


def test_the_form_comes_back_to_its_tab(staff: Client, rental: Rental) -> None:
    data = {"username": "another-name", "language": "en", "role": "user", "_save": ""}
    answer = staff.post(page_of(rental.user, "account"), data)
    assert answer.headers["Location"] == page_of(rental.user, "account")
    assert User.objects.get(pk=rental.user_id).username == "another-name"
    answer = staff.post(page_of(rental.user, "account"), data | {"username": "a b"})
    assert answer.status_code == 200
    assert tabs_of(answer.content.decode())["account"]


def test_lists_lead_to_the_customers_page(staff: Client, rental: Rental) -> None:
    rentals.pause_rental(rental=rental, by=None)
    lists = {
        "serials_rental": "rental",
        "serials_serialnumber": "rental",
        "serials_redemption": "rental",
        "serials_rentalspan": "rental",
        "containers_relay": "relays",
        "containers_deployment": "relays",
        "acl_device": "devices",
        "acl_admission": "devices",
        "acl_devicepolicy": "devices",
        "acl_aclconfig": "maps",
        "acl_liveurl": "maps",
        "accounts_notice": "notices",
    }
    for name, tab in lists.items():
        text = read(staff, reverse(f"admin:{name}_changelist"))
        assert f'href="{page_of(rental.user, tab)}"' in text, name
    accounts.ban_user(user=rental.user, by=None)
    entry = rental.user.suffered.first()
    assert page_of(rental.user, "log") in read(staff, page_of(entry))


def test_the_doors_stay_shut_for_others(rental: Rental) -> None:
    for client in (world.sign_in(rental.user), world.enter(User.Role.DISTRIBUTOR, has_factor=False)):
        for row, names in ((rental.user, CUSTOMERS), (rental.relays.get(slot=1).server, SERVERS)):
            for tab in names:
                assert client.get(page_of(row, tab), follow=True).status_code == 403, tab


def count(client: Client, url: str) -> int:
    client.get(url)
    with CaptureQueriesContext(connection) as queries:
        assert client.get(url).status_code == 200
    return len(queries)


def grow(rental: Rental, number: int) -> None:
    """Much more of everything that a customer's and a server's page show."""
    relay, now = rental.relays.get(slot=1), timezone.now()
    redemption = rental.redemptions.all()[0]
    staff = UserFactory(role=User.Role.ADMIN)
    for _n in range(number):
        gone = RelayFactory(rental=rental, slot=None, server=relay.server, status=Relay.Status.RELEASED)
        Relay.objects.filter(pk=gone.pk).update(released_at=now)
        DeploymentFactory(relay=relay, status=Deployment.Status.FAILED, started_at=now, finished_at=now)
        ServerCheckFactory(server=relay.server, status=ServerCheck.Status.FAILED)
        DeviceFactory(rental=rental, last_relay=relay, last_seen_at=now)
        RedemptionFactory(rental=rental, kind="renewal", by=staff)
        last = rental.spans.order_by("starts_at").last()
        RentalSpanFactory(
            rental=rental,
            redemption=redemption,
            starts_at=last.ends_at,
            ends_at=last.ends_at + (last.ends_at - last.starts_at),
        )
        maps.record_event(
            rental=rental, kind=AclEvent.Kind.DOWNLOADED, version=1, by=staff, ip="198.51.100.7"
        )
        accounts.log_operation(by=staff, action="user.changed", target=rental.user, subject=rental.user)
        accounts.log_operation(by=staff, action="server.changed", target=relay.server)
        stranger = WholeRentalFactory()
        RelayFactory(rental=stranger, slot=None, server=relay.server, whole=True, replaces=None)


@pytest.mark.slow
def test_every_tab_costs_the_same_when_it_has_many_rows(staff: Client, rental: Rental) -> None:
    server = rental.relays.get(slot=1).server
    grow(rental, 1)
    pages = [page_of(rental.user, tab) for tab in CUSTOMERS] + [page_of(server, tab) for tab in SERVERS]
    few = {url: count(staff, url) for url in pages}
    grow(rental, 6)
    assert {url: count(staff, url) for url in pages} == few
    assert max(few.values()) <= 32


@pytest.mark.slow
def test_a_tab_is_leafed_through(staff: Client, rental: Rental) -> None:
    for _n in range(60):
        DeviceFactory(rental=rental, last_seen_at=timezone.now())
    first, second = (read(staff, page_of(rental.user, "devices", page=number)) for number in (1, 2))
    keys = [set(re.findall(r"/admin/acl/device/(\d+)/change/", text)) for text in (first, second)]
    assert len(keys[0]) == len(keys[1]) == 25
    assert not keys[0] & keys[1]
    assert 'href="?tab=devices&page=3"' in second
    beyond = read(staff, page_of(rental.user, "devices", page="9" * 30))
    assert 0 < len(set(re.findall(r"/admin/acl/device/(\d+)/change/", beyond))) <= 25


def test_a_servers_page_has_its_tabs_and_says_how_it_stands(staff: Client, rental: Rental) -> None:
    server = rental.relays.get(slot=1).server
    Server.objects.filter(pk=server.pk).update(
        status=Server.Status.MAINTENANCE, status_reason="new disk", silent_since=timezone.now()
    )
    text = read(staff, page_of(server))
    assert tabs_of(text) == {name: name == "relays" for name in SERVERS}
    [sentence] = re.findall(r'<p class="panel-sentence">(.*?)</p>', text)
    region = Server.objects.get(pk=server.pk).region.name_en
    assert sentence == f"new disk · {region} · {server.address} · 1 of {server.capacity} relays"
    assert "in maintenance</span>" in text
    assert "no answer since" in text
    relay = rental.relays.get(slot=1)
    assert page_of(relay) in text
    assert page_of(rental.user, "relays") in text
    other = rental.relays.get(slot=2)
    assert f'"{page_of(other)}"' not in text


def test_many_servers_are_put_into_maintenance_with_one_reason(staff: Client, rental: Rental) -> None:
    servers = [rental.relays.get(slot=slot).server for slot in (1, 2)]
    rows = [server.pk for server in servers]
    staff.post("/admin/fleet/server/ticked/start-maintenance/do/", {"row": rows, "reason": "new disks"})
    for server in servers:
        text = read(staff, page_of(server))
        assert re.search(r"begun on \d{4}-\d\d-\d\d \d\d:\d\d · new disks", text)
    # Their customer reads that it is announced, as of a single one.
    Server.objects.filter(pk__in=rows).update(silent_since=timezone.now())
    cards = world.sign_in(rental.user).get("/home/relays/").content.decode()
    assert cards.count("The server is in maintenance and does not answer") == 2


def test_the_button_checks_at_once_and_says_so(staff: Client, rental: Rental) -> None:
    server = rental.relays.get(slot=3).server
    url = f"/admin/fleet/server/{server.pk}/check/do/"
    assert f'<form method="post" action="{url}"' in read(staff, page_of(server))
    before = ServerCheck.objects.filter(server=server).count()
    assert f"{server} is being checked." in staff.post(url, follow=True).content.decode()
    assert f"{server} is being checked already." in staff.post(url, follow=True).content.decode()
    assert ServerCheck.objects.filter(server=server).count() == before + 1
    assert url not in read(staff, page_of(server))
    new = ServerFactory(whole=True, host_key="")
    assert "/check/do/" not in read(staff, page_of(new))
