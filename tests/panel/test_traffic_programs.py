"""Traffic as programs read it: the command and the JSON API."""

import json
from datetime import date, timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from accounts.models import User
from containers.models import Relay, TrafficDay
from containers.services.allowances import set_relay_limits
from containers.services.traffic import month_of
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import RelayFactory, UserFactory, WholeRentalFactory
from tests.panel.test_traffic_pages import month

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    """A customer with two months of a relay, one of another, and a neighbour with more."""
    rental = WholeRentalFactory()
    first, second, _third = rental.relays.wanted().order_by("pk")
    month(first, 100, 200, up_rate=5.0, down_rate=7.5)
    month(first, 30, 40, begins_on=month_of(rental, timezone.now() - timedelta(days=40)))
    month(second, 1, 2, read_at=timezone.now() - timedelta(hours=1))
    neighbour = WholeRentalFactory()
    month(RelayFactory(rental=neighbour, server=first.server, slot=None), 10**6, 10**6)
    return rental


def show(*arguments: str) -> Any:
    out = StringIO()
    call_command("traffic_show", *arguments, stdout=out)
    return json.loads(out.getvalue()) if "--json" in arguments else out.getvalue()


def test_the_command_shows_a_customers_relays_by_month(rental: Rental) -> None:
    rows = show(rental.user.email, "--json")
    first, second, _third = rental.relays.wanted().order_by("pk")
    now = str(month_of(rental, timezone.now()))
    before = str(month_of(rental, timezone.now() - timedelta(days=40)))
    assert [(row["month"], row["relay"], row["up_bytes"], row["down_bytes"]) for row in rows] == [
        (now, first.pk, 100, 200),
        (now, second.pk, 1, 2),
        (before, first.pk, 30, 40),
    ]
    assert {row["email"] for row in rows} == {rental.user.email}
    assert rows[0]["server"] == first.server.name
    assert "100 B" in show(rental.user.email)


def test_the_command_shows_a_servers_relays_by_month(rental: Rental) -> None:
    server = rental.relays.wanted().order_by("pk")[0].server
    for name in (server.name, server.address):
        assert sorted(row["up_bytes"] for row in show(name, "--json")) == [30, 100, 10**6]


def test_the_command_says_whom_it_does_not_know(rental: Rental) -> None:
    for nobody in ("nobody@example.com", "no-server"):
        with pytest.raises(CommandError, match=nobody):
            show(nobody)


def test_a_customer_reads_the_traffic_of_a_relay(rental: Rental) -> None:
    relay = rental.relays.wanted().order_by("pk")[0]
    answer = Api(rental.user).get(f"container/traffic/{relay.pk}").json()
    assert (answer["upload_traffic"], answer["download_traffic"]) == (100, 200)
    assert (answer["upload_rate"], answer["download_rate"]) == (5.0, 7.5)
    assert [one["upload_traffic"] for one in answer["months"]] == [100, 30]
    assert Api(UserFactory()).get(f"container/traffic/{relay.pk}").status_code == 404
    Relay.objects.filter(pk=relay.pk).update(rental=None, slot=None)
    staff = Api(UserFactory(role=User.Role.ADMIN))
    assert staff.get(f"container/traffic/{relay.pk}").status_code in (403, 404)


def test_a_customer_reads_the_traffic_of_all_relays(rental: Rental) -> None:
    one = Api(rental.user)
    answer = one.get("traffic/realtime").json()
    first, second, third = rental.relays.wanted().order_by("pk")
    found = {row["container_id"]: row for row in answer["traffic_data"]}
    assert found.keys() == {first.pk, second.pk, third.pk}
    assert (found[first.pk]["upload_traffic"], found[first.pk]["upload_rate"]) == (100, 5.0)
    # Read an hour ago; never read.
    assert (found[second.pk]["download_traffic"], found[second.pk]["download_rate"]) == (2, None)
    assert (found[third.pk]["download_traffic"], found[third.pk]["upload_rate"]) == (0, None)
    page = one.get("traffic/realtime", {"page_size": 2}).json()
    rest = one.get("traffic/realtime", {"page_size": 2, "cursor": page["next_cursor"]}).json()
    assert [row["container_id"] for row in page["traffic_data"] + rest["traffic_data"]] == sorted(found)[::-1]
    assert rest["next_cursor"] is None


def test_days_are_summed(rental: Rental) -> None:
    first, second, _third = rental.relays.wanted().order_by("pk")
    today = timezone.localdate()
    neighbours = Relay.objects.exclude(rental=rental)[0]
    for relay, day, up in (
        (first, today, 10),
        (second, today, 5),
        (first, today - timedelta(days=30), 3),
        (first, today - timedelta(days=31), 1000),
        (neighbours, today, 10**6),
    ):
        TrafficDay.objects.create(relay=relay, day=day, up_bytes=up, down_bytes=2 * up)
    answer = Api(rental.user).get("traffic/stats").json()
    assert [(date.fromisoformat(row["day"]), row["upload_traffic"]) for row in answer["days"]] == [
        (today - timedelta(days=30), 3),
        (today, 15),
    ]
    assert (answer["upload_traffic"], answer["download_traffic"]) == (18, 36)


def test_who_used_the_allowance_up_is_listed(rental: Rental) -> None:
    neighbour = Rental.objects.exclude(pk=rental.pk).get()
    neighbour.spans.update(quota_bytes=2 * 10**6)
    rental.spans.update(quota_bytes=304)  # the month has 303
    one = Api(neighbour.user).get("traffic/over_limit").json()["over_limit"]
    assert one == [
        {
            "user_id": neighbour.user_id,
            "container_id": None,
            "limit_bytes": 2 * 10**6,
            "way": "both",
            "upload_traffic": 10**6,
            "download_traffic": 10**6,
        }
    ]
    assert Api(rental.user).get("traffic/over_limit").json()["over_limit"] == []
    rental.spans.update(quota_bytes=303)
    assert Api(rental.user).get("traffic/over_limit").json()["over_limit"][0]["user_id"] == rental.user_id


def test_relays_that_are_over_their_own_allowance_are_listed_too(rental: Rental) -> None:
    relay, other, _third = rental.relays.wanted().order_by("pk")
    for caps in ({"cap_down_bytes": 201}, {"cap_down_bytes": 200}):
        assert Api(rental.user).get("traffic/over_limit").json()["over_limit"] == []
        set_relay_limits(relay=relay, caps=caps, note="", by=None)
    set_relay_limits(
        relay=other, caps={"cap_rate": 125_000}, note="", by=None
    )  # what it uses is the customer's
    own = {
        "user_id": rental.user_id,
        "container_id": relay.pk,
        "limit_bytes": 200,
        "way": "down",
        "upload_traffic": 100,
        "download_traffic": 200,
    }
    assert Api(rental.user).get("traffic/over_limit").json()["over_limit"] == [own]
    rental.spans.update(upload_quota_bytes=101)
    shown = Api(UserFactory(role=User.Role.ADMIN)).get("traffic/over_limit?page_size=1").json()
    whole = {
        "container_id": None,
        "limit_bytes": 101,
        "way": "up",
        "upload_traffic": 101,
        "download_traffic": 202,
    }
    assert shown["over_limit"] == [{**own, **whole}, own]
    assert shown["next_cursor"] is None
    neighbour = Rental.objects.exclude(pk=rental.pk).get()
    assert Api(neighbour.user).get("traffic/over_limit").json()["over_limit"] == []
