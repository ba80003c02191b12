"""Limits as operators say them by the JSON API and by commands, each with where it comes from."""

import csv
import json
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.urls import reverse
from django.utils import timezone, translation

from accounts.models import OperationLog, User
from containers.jobs.allowances import judge_rentals
from containers.models import Relay
from containers.services.planning import plan_relays
from fleet.models import Server
from serials.rentals.models import Rental
from tests.api import Api
from tests.containers.rentals import prove
from tests.factories import UserFactory, WholeRentalFactory
from tests.panel import world
from tests.panel.test_traffic_pages import month, read, server_month

pytestmark = pytest.mark.django_db
GB = 10**9


@pytest.fixture
def rental() -> Rental:
    """A customer who has used 8 GB of 100, 6 of them through the first relay."""
    rental = WholeRentalFactory()
    rental.spans.update(quota_bytes=100 * GB, at_quota="stop", device_limit=20)
    first, second, _third = rental.relays.wanted()
    month(first, 2 * GB, 4 * GB)
    month(second, GB, GB)
    return rental


@pytest.fixture
def staff() -> Api:
    return Api(UserFactory(role=User.Role.ADMIN))


def run(*words: str) -> Any:
    out = StringIO()
    with translation.override("en"):
        call_command(*words, stdout=out, stderr=StringIO())
    return json.loads(out.getvalue()) if "--json" in words else out.getvalue()


def said(answer: Any) -> dict[str, tuple[Any, str]]:
    return {name: (one["value"], one["source"]) for name, one in answer["limits"].items()}


def test_a_relays_caps_are_said_by_the_api(rental: Rental, staff: Api) -> None:
    relay = rental.relays.wanted()[0]
    path = f"container/{relay.pk}"
    body = {"quota_bytes": 7 * GB, "rate_bytes_per_second": 125_000, "at_quota": "throttle", "note": "a try"}
    answer = staff.patch(path, body).json()
    sold = (100 * GB, "sold")
    assert answer["success"]
    assert said(answer) == {
        "quota_bytes": (7 * GB, "relay"),
        "upload_quota_bytes": (None, "sold"),
        "download_quota_bytes": (None, "sold"),
        "rate_bytes_per_second": (125_000, "relay"),
        "device_limit": (20, "sold"),
        "at_quota": ("throttle", "relay"),
    }
    assert (answer["upload_traffic"], answer["download_traffic"]) == (2 * GB, 4 * GB)
    assert answer["note"] == "a try"
    judge_rentals()
    # What is left out stays; null takes back what was said.
    answer = staff.patch(path, {"quota_bytes": None, "upload_quota_bytes": 2 * GB, "at_quota": None}).json()
    found = said(answer)
    assert (found["quota_bytes"], found["upload_quota_bytes"]) == (sold, (2 * GB, "relay"))
    assert (found["rate_bytes_per_second"], found["at_quota"]) == ((125_000, "relay"), ("stop", "sold"))
    assert answer["note"] == "a try"
    assert answer["rate_now"] == 125_000
    assert (
        staff.patch(path, {"upload_quota_bytes": 2 * GB}).json()["message"] == "These limits are so already."
    )
    log = OperationLog.objects.filter(action="relay.limits_changed", subject=rental.user)
    assert log.count() == 2
    # The customer reads what counts, and not the note.
    own = Api(rental.user).get(f"container/{relay.pk}/limits").json()
    assert (said(own), own["note"]) == (found, None)
    assert Api(rental.user).patch(path, {"quota_bytes": 0}).status_code == 403


def test_the_forms_say_what_counts_and_where_that_was_said(rental: Rental, staff: Api) -> None:
    relay = rental.relays.wanted()[0]
    staff.patch(f"container/{relay.pk}", {"rate_bytes_per_second": 125_000})
    staff.patch(f"rental/{rental.pk}/limits", {"quota_bytes": 5 * GB})
    client = world.enter(User.Role.ADMIN, has_factor=True)
    page = read(client, reverse("admin:containers_relay_act", args=[relay.pk, "limits"]))
    assert "traffic a month: 5 GB · said for the customer; rate limit: 1 Mbit/s · said for this relay" in page
    page = read(client, reverse("admin:serials_rental_act", args=[rental.pk, "limits"]))
    assert (
        "traffic a month: 5 GB · said for the customer; rate limit: none · as sold; devices: 20 · as sold"
        in page
    )


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"quota_bytes": -1}, "quota_bytes"),
        ({"quota_bytes": 10**15 + 1}, "quota_bytes"),
        ({"rate_bytes_per_second": 1.5}, "rate_bytes_per_second"),
        ({"at_quota": "explode"}, "at_quota"),
        ({"device_limit": 5}, "device_limit"),
    ],
)
def test_wrong_caps_are_refused(rental: Rental, staff: Api, body: Any, field: str) -> None:
    answer = staff.patch(f"container/{rental.relays.wanted()[0].pk}", body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


def test_a_relay_that_is_stopped_can_be_given_more(rental: Rental, staff: Api) -> None:
    relay = rental.relays.wanted()[0]
    staff.patch(f"container/{relay.pk}", {"quota_bytes": GB, "at_quota": "stop"})
    judge_rentals()
    plan_relays(rental_pk=rental.pk)
    prove(rental)
    assert Relay.objects.get(pk=relay.pk).status == Relay.Status.RELEASED
    page = world.enter(User.Role.ADMIN, has_factor=True)
    button = reverse("admin:containers_relay_act", args=[relay.pk, "limits"])
    assert button in page.get(reverse("admin:containers_relay_change", args=[relay.pk])).content.decode()
    assert staff.patch(f"container/{relay.pk}", {"quota_bytes": 0}).status_code == 200
    judge_rentals()
    assert Relay.objects.get(pk=relay.pk).stopped_at is None
    # One that is gone for good has none.
    Relay.objects.filter(pk=relay.pk).update(return_slot=None)
    answer = staff.patch(f"container/{relay.pk}", {"quota_bytes": GB})
    assert (answer.status_code, answer.json()["code"]) == (409, "relay_gone")


def test_a_customers_limits_and_more_traffic_by_the_api(rental: Rental, staff: Api) -> None:
    path = f"rental/{rental.pk}/limits"
    answer = staff.patch(path, {"quota_bytes": 5 * GB, "device_limit": 3}).json()
    found = said(answer)
    assert (found["quota_bytes"], found["device_limit"]) == ((5 * GB, "customer"), (3, "customer"))
    judge_rentals()
    stopped = Api(rental.user).get(path).json()
    assert (stopped["traffic_state"], stopped["upload_traffic"]) == ("over", 3 * GB)
    assert stopped["stopped_at"]
    body = {"size_bytes": 10 * GB, "note": "as agreed"}
    more = [staff.post(f"rental/{rental.pk}/traffic", body, Idempotency_Key="one") for _time in range(2)]
    assert [answer.status_code for answer in more] == [200, 200]
    assert more[0].json()["message"].endswith("has 10\u00a0GB more traffic this month.")
    judge_rentals()
    again = staff.get(path).json()
    assert (again["stopped_at"], again["added_bytes"], again["traffic_state"]) == (None, 10 * GB, "fine")
    assert Api(rental.user).post(f"rental/{rental.pk}/traffic", body).status_code == 403


def test_what_a_server_may_bear_by_the_api(rental: Rental, staff: Api) -> None:
    server = rental.relays.wanted()[0].server
    server_month(server, GB, 2 * GB)
    answer = staff.patch(f"server/{server.pk}", {"traffic_limit_bytes": 5 * GB, "customer_limit": 7}).json()
    kept = {"capacity": server.capacity, "traffic_reset_day": server.traffic_reset_day}
    assert answer.items() >= (kept | {"traffic_limit_bytes": 5 * GB, "customer_limit": 7}).items()
    status = staff.get(f"server/status/{server.pk}").json()["server_status"]
    assert (status["traffic_limit_bytes"], status["customer_limit"]) == (5 * GB, 7)
    assert (status["upload_traffic"], status["download_traffic"]) == (GB, 2 * GB)
    assert (
        staff.patch(f"server/{server.pk}", {"traffic_limit_bytes": None}).json()["traffic_limit_bytes"]
        is None
    )
    for body in ({"traffic_reset_day": 32}, {"traffic_limit_bytes": 0}, {"capacity": None}):
        assert staff.patch(f"server/{server.pk}", body).status_code == 422
    Server.objects.filter(pk=server.pk).update(status=Server.Status.RETIRED)
    assert staff.patch(f"server/{server.pk}", {"capacity": 1}).status_code == 409


def test_limits_by_commands(rental: Rental) -> None:
    email, relay = rental.user.email, rental.relays.wanted()[0]
    shown = run("rental_limits", email)
    assert "100 GB · as sold" in shown
    assert "8 GB" in shown
    row = run("rental_limits", email, "--traffic", "5.5", "--devices", "3", "--note", "agreed", "--json")
    found = said(row)
    assert (found["quota_bytes"], found["device_limit"]) == ((5_500_000_000, "customer"), (3, "customer"))
    assert (row["up_bytes"], row["down_bytes"], row["note"]) == (3 * GB, 5 * GB, "agreed")
    assert said(run("rental_limits", email, "--devices", "-", "--json"))["device_limit"] == (20, "sold")
    row = run(
        "relay_limits", str(relay.pk), "--rate", "8", "--traffic", "0", "--at-quota", "throttle", "--json"
    )
    found = said(row)
    assert (found["rate_bytes_per_second"], found["quota_bytes"]) == ((10**6, "relay"), (None, "relay"))
    assert found["at_quota"] == ("throttle", "relay")
    assert (row["relay"], row["up_bytes"]) == (relay.pk, 2 * GB)
    assert "said for this relay" in run("relay_limits", str(relay.pk))
    judge_rentals()
    assert run("traffic_add", email, "10", "--json")["size_bytes"] == 10 * GB
    judge_rentals()
    assert run("rental_limits", email, "--json")["added_bytes"] == 10 * GB
    assert "added this month" in run("rental_limits", email)


@pytest.mark.parametrize(
    "words",
    [
        ("rental_limits", "EMAIL", "--traffic", "-1"),
        ("rental_limits", "EMAIL", "--traffic", "1e99"),
        ("rental_limits", "EMAIL", "--devices", "0"),
        ("rental_limits", "EMAIL", "--at-quota", "x"),
        ("traffic_add", "EMAIL", "0"),
        ("traffic_add", "EMAIL", "nan"),
        ("traffic_add", "nobody@example.com", "1"),
        ("relay_limits", "999999"),
    ],
)
def test_commands_refuse_what_is_wrong(rental: Rental, words: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run(*(rental.user.email if word == "EMAIL" else word for word in words))
    assert not rental.traffic_grants.exists()


def test_a_servers_limits_by_commands(rental: Rental) -> None:
    server = rental.relays.wanted()[0].server
    server_month(server, GB, 2 * GB)
    run("server_edit", server.name, "--traffic-limit", "1500", "--customers", "9")
    row = run("server_show", server.name, "--json")
    assert (row["traffic_limit_bytes"], row["customer_limit"], row["down_bytes"]) == (1500 * GB, 9, 2 * GB)
    assert "1.5 TB" in run("server_show", server.name)
    run("server_edit", server.name, "--traffic-limit", "-", "--customers", "-")
    server.refresh_from_db()
    assert (server.traffic_limit_bytes, server.customer_limit) == (None, None)


def test_months_are_a_file_by_the_command(rental: Rental) -> None:
    relay = rental.relays.wanted()[0]
    head, *rows = csv.reader(
        run("traffic_show", rental.user.email, "--csv").removeprefix("\ufeff").splitlines()
    )
    assert head[0] == "month_from"
    assert len(rows) == 2
    assert [str(2 * GB), str(4 * GB)] in [row[-2:] for row in rows]
    of_server = run("traffic_show", relay.server.name, "--csv")
    assert of_server.count("\n") == 2
    assert str(timezone.localdate().year) in of_server
