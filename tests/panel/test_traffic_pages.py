"""Traffic as customers and operators read it: home, lists, tabs, files."""

import csv
import html
import re
from datetime import date, timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from containers.jobs.allowances import judge_rentals
from containers.metering import month_begin
from containers.models import Relay, TrafficMonth, TrafficServerMonth
from containers.server_admin import ServerAdmin
from containers.services.planning import plan_relays
from containers.services.traffic import month_of
from fleet.models import Server
from serials.rentals.models import Rental
from serials.rentals.services import add_traffic, set_limits
from tests.factories import RelayFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.test_query_counts import count

pytestmark = pytest.mark.django_db


def month(relay: Relay, up: int, down: int, **more: Any) -> None:
    """What flowed through a relay in its customer's month."""
    assert relay.rental
    values = {"begins_on": month_of(relay.rental, timezone.now()), "read_at": timezone.now()} | more
    TrafficMonth.objects.create(relay=relay, rental=relay.rental, up_bytes=up, down_bytes=down, **values)


@pytest.fixture
def rental() -> Rental:
    """A customer of whose allowance of 100 GB three relays and one from before have used a part."""
    rental = WholeRentalFactory()
    rental.spans.update(quota_bytes=100 * 10**9)
    first, second, _third = rental.relays.wanted()
    month(first, 10**9, 2 * 10**9, up_rate=80_000, down_rate=2_500_000)
    month(second, 10**7, 10**7, up_rate=1, down_rate=1, read_at=timezone.now() - timedelta(minutes=5))
    gone = RelayFactory(rental=rental, slot=None, status=Relay.Status.RELEASED)
    month(gone, 3 * 10**9, 4 * 10**9)
    month(gone, 9**12, 9**12, begins_on=month_of(rental, timezone.now() - timedelta(days=40)))
    return rental


def read(client: Client, url: str) -> str:
    """A page's text in English."""
    client.post(reverse("accounts:language-set"), {"language": "en"})
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", client.get(url).content.decode())).split())


def test_home_says_what_was_used_and_is_left_and_what_flows_now(rental: Rental) -> None:
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of 100 GB used this month, 89.98 GB left" in page
    assert "up 4.01 GB · down 6.01 GB" in page
    assert "Up 640 kbit/s Down 20 Mbit/s" in page
    # Of a relay that was not read lately nobody knows.
    assert page.count("Up – Down –") == 2


def test_home_says_what_was_used_without_an_allowance(rental: Rental) -> None:
    rental.spans.update(quota_bytes=None)
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of traffic this month" in page
    assert "left this month" not in page


def test_nothing_is_left_when_more_was_used(rental: Rental) -> None:
    rental.spans.update(quota_bytes=10**10)
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "10.02 GB of 10 GB used this month, 0 B left" in page


@pytest.fixture
def staff() -> Client:
    return world.enter(User.Role.ADMIN, has_factor=True)


def server_month(server: Server, up: int, down: int, **more: Any) -> None:
    today = timezone.localdate()
    values = {"begins_on": month_begin(server.traffic_reset_day, today), "read_at": timezone.now()} | more
    TrafficServerMonth.objects.create(server=server, up_bytes=up, down_bytes=down, **values)


def test_the_list_of_servers_says_what_flows_and_flowed(rental: Rental, staff: Client) -> None:
    first, second, third = (relay.server for relay in rental.relays.wanted())
    server_month(first, 10**12, 5 * 10**11, up_rate=80_000, down_rate=2_500_000)
    server_month(second, 10**9, 0, up_rate=9, down_rate=9, read_at=timezone.now() - timedelta(hours=1))
    begins_on = month_begin(1, timezone.localdate()) - timedelta(days=1)
    server_month(third, 10**15, 10**15, begins_on=begins_on.replace(day=1))
    page = read(staff, reverse("admin:fleet_server_changelist"))
    assert "640 kbit/s 20 Mbit/s 1.5 TB" in page
    assert "– – 1 GB" in page
    # The month that is over is not this one.
    assert "– – 0 B unlimited 2 PB" in page


def test_the_list_of_servers_is_sorted_by_traffic(rental: Rental, staff: Client) -> None:
    servers = [relay.server for relay in rental.relays.wanted()]
    for server, size in zip(servers, (5, 1, 3), strict=True):
        server_month(server, size, 0)
    names = ServerAdmin.list_display
    for order, wanted in (("", (1, 2, 0)), ("-", (0, 2, 1))):
        # The first column is the box to tick.
        url = f"{reverse('admin:fleet_server_changelist')}?o={order}{names.index('month') + 1}"
        page = staff.get(url).content.decode()
        places = [page.index(f">{servers[at].name}<") for at in wanted]
        assert places == sorted(places)


def test_a_customers_page_shows_relays_by_month(rental: Rental, staff: Client) -> None:
    page = read(staff, reverse("admin:accounts_user_change", args=[rental.user_id]) + "?tab=traffic")
    assert "allowance 100 GB" in page
    assert "left 89.98 GB" in page
    assert "1 GB 2 GB 3 GB" in page
    assert "282.4 GB 282.4 GB 564.9 GB" in page  # of a relay that is gone, a month ago


def test_a_customers_page_shows_what_was_added_and_why(rental: Rental, staff: Client) -> None:
    by = User.objects.get(role=User.Role.ADMIN)
    add_traffic(rental=rental, size_bytes=7 * 10**9, by=by, note="as agreed by phone")
    rental.traffic_grants.create(size_bytes=3 * 10**9, redemption=rental.redemptions.get())
    url = reverse("admin:accounts_user_change", args=[rental.user_id]) + "?tab=traffic"
    page = read(staff, url)
    assert f"7 GB {by} as agreed by phone" in page
    assert "3 GB – serial number redeemed" in page
    cost = count(staff, url)
    for size in range(1, 9):
        add_traffic(rental=rental, size_bytes=size, by=by)
    assert count(staff, url) == cost


def test_a_servers_page_shows_its_months_and_relays(rental: Rental, staff: Client) -> None:
    relay = rental.relays.wanted()[0]
    server_month(relay.server, 7 * 10**9, 8 * 10**9)
    url = reverse("admin:fleet_server_change", args=[relay.server_id])
    page = read(staff, f"{url}?tab=traffic")
    assert "15 GB of traffic this month" in page
    assert "7 GB 8 GB 15 GB" in page
    assert f"{rental.user} 1 GB 2 GB 3 GB" in page


def test_tabs_cost_the_same_however_many_months_there_are(rental: Rental, staff: Client) -> None:
    relay = rental.relays.wanted()[0]
    urls = [
        reverse("admin:accounts_user_change", args=[rental.user_id]),
        reverse("admin:fleet_server_change", args=[relay.server_id]),
    ]

    def costs() -> list[int]:
        return [count(staff, f"{url}?tab=traffic") for url in urls]

    few = costs()
    for back in range(2, 12):
        month(relay, 1, 1, begins_on=date(2020, back, 1))
    assert costs() == few


def test_months_are_given_as_a_file(rental: Rental, staff: Client) -> None:
    other = WholeRentalFactory()
    month(other.relays.wanted()[0], 5, 6)
    relay = rental.relays.wanted()[0]
    Server.objects.filter(pk=relay.server_id).update(name="=HYPERLINK(1)")
    url = reverse("admin:containers_relay_traffic")

    def lines(query: str) -> list[list[str]]:
        response = staff.get(f"{url}?{query}")
        assert response.headers["Content-Type"] == "text/csv; charset=utf-8"
        text = response.getvalue().decode().removeprefix("\ufeff")  # type: ignore[attr-defined]
        return list(csv.reader(text.splitlines()))

    head, *rows = lines(f"user={rental.user_id}")
    assert head == ["month_from", "customer", "relay", "server", "up_bytes", "down_bytes"]
    assert len(rows) == 4
    begins_on = str(month_of(rental, timezone.now()))
    assert [begins_on, rental.user.email, str(relay.pk), "'=HYPERLINK(1)", str(10**9), str(2 * 10**9)] in rows
    assert len(lines(f"server={relay.server_id}")) == 2
    assert len(lines("")) == 6
    assert staff.get(f"{url}?user=999999999999999999999").status_code == 404
    assert staff.get(f"{url}?server=x").status_code == 404


def test_a_file_of_months_is_for_staff(rental: Rental) -> None:
    response = world.sign_in(rental.user).get(reverse("admin:containers_relay_traffic"))
    assert response.status_code in (302, 403, 404)


@pytest.mark.parametrize(
    ("at_quota", "quota", "sentence"),
    [
        (
            "throttle",
            100,
            "When it is used up, each device is slowed down to 128 kbit/s until it is counted anew.",
        ),
        ("stop", 100, "When it is used up, the relays stop until it is counted anew."),
        ("nothing", 100, "When it is used up, everything goes on as it is."),
        ("throttle", 10, "Used up: each device is slowed down to 128 kbit/s until"),
        ("stop", 10, "Used up: your relays are stopped until"),
        ("nothing", 10, "Used up. Everything goes on as it is."),
    ],
)
def test_home_says_what_happens_at_the_end(rental: Rental, at_quota: str, quota: int, sentence: str) -> None:
    rental.spans.update(quota_bytes=quota * 10**9, at_quota=at_quota)
    client = world.sign_in(rental.user)
    assert sentence in read(client, reverse("home"))
    assert count(client, reverse("home")) <= 10


def test_home_counts_what_was_said_for_the_customer_and_added(rental: Rental) -> None:
    set_limits(rental=rental, caps={"cap_up_bytes": 5 * 10**9, "cap_at_quota": "stop"}, note="", by=None)
    add_traffic(rental=rental, size_bytes=10**9, by=None)
    judge_rentals()
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "Up: 4.01 GB of 6 GB used this month, 1.99 GB left" in page


def test_home_of_a_customer_who_is_stopped_says_so_at_each_place(rental: Rental) -> None:
    rental.spans.update(quota_bytes=10**10, at_quota="stop")
    judge_rentals()
    plan_relays(rental_pk=rental.pk)
    page = read(world.sign_in(rental.user), reverse("home"))
    assert "Used up: your relays are stopped until" in page
    assert "Stopped This month's traffic is used up." in page
    assert page.count("The relay comes back as it was once there is some again.") == 3
