"""Devices by the API: added, approved, kept out, renamed, the window; who asked."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import services as accounts
from accounts.access.models import Scope
from accounts.models import OperationLog, User
from acl.devices.models import Admission, Device
from acl.devices.services import open_window, places_left, window_until
from containers.models import Relay
from serials.rentals.models import Rental, RentalSpan
from tests.acl.device_world import KEYS, A, B, C, approve, connect, refuse, relay, rental
from tests.api import Api
from tests.factories import AdmissionFactory, DeviceFactory, RelayFactory, RentalFactory, UserFactory

pytestmark = pytest.mark.django_db

__all__ = ["relay", "rental"]


@pytest.fixture
def api(rental: Rental) -> Api:
    return Api(rental.user)


@pytest.fixture
def staff() -> User:
    return UserFactory(role=User.Role.ADMIN, language="en")


def listed(api: Api, **query: Any) -> list[tuple[str, str]]:
    answer = api.get("device/list", query)
    assert answer.status_code == 200, answer.json()
    return [(line["node_key"].removeprefix("nodekey:"), line["status"]) for line in answer.json()["devices"]]


# The list


def test_the_list_has_all_devices_the_places_and_the_rules(api: Api, rental: Rental, relay: Relay) -> None:
    approve(rental, A, "nas")
    waiting = refuse(rental, relay, B, "203.0.113.9")
    gone = DeviceFactory(rental=rental, node_key=C, left_at=timezone.now())
    revoked = DeviceFactory(rental=rental, status=Device.Status.REVOKED, revoked_at=timezone.now())
    connect(rental, relay, A)
    body = api.get("device/list").json()
    assert (body["device_limit"], body["places_used"], body["window_until"], body["is_checked"]) == (
        10,
        1,
        None,
        True,
    )
    assert [line["device_id"] for line in body["devices"]] == [
        revoked.pk,
        waiting.pk,
        Device.objects.get(node_key=A).pk,
    ]
    assert gone.pk not in {line["device_id"] for line in body["devices"]}
    line = body["devices"][1]
    assert (
        line["status"],
        line["is_on_trial"],
        line["is_connected"],
        line["last_ip"],
        line["container_id"],
    ) == (
        "pending",
        False,
        False,
        "203.0.113.9",
        relay.pk,
    )
    assert (body["devices"][2]["name"], body["devices"][2]["is_connected"]) == ("nas", True)
    assert (
        listed(api, status="approved")
        == listed(api, q="NAS")
        == listed(api, q=f"nodekey:{A[:6]}")
        == [(A, "approved")]
    )


def test_without_an_answer_of_all_relays_nobody_knows_who_is_away(
    api: Api, rental: Rental, relay: Relay
) -> None:
    approve(rental, A)
    assert api.get("device/list").json()["devices"][0]["is_connected"] is None
    connect(rental, relay, silent=[relay.pk])
    assert api.get("device/list").json()["devices"][0]["is_connected"] is None


def test_the_list_costs_the_same_however_long_it_is(api: Api, rental: Rental, relay: Relay) -> None:
    connect(rental, relay, A)

    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            listed(api, page_size=200)
        return sum("accounts_apitoken" not in query["sql"] for query in queries)

    approve(rental, A)
    few = cost()
    DeviceFactory.create_batch(80, rental=rental, approved=True, last_relay=relay)
    assert cost() == few
    assert len(listed(api, page_size=200)) == 81


# Letting in


def test_devices_are_added_by_keys_or_by_what_one_would_paste(api: Api, rental: Rental) -> None:
    body = api.post("device/add", {"node_keys": [f"nodekey:{A} nas", B]}).json()
    assert [line["name"] for line in body["added"]] == ["nas", ""]
    assert body["message"].startswith("2 devices were added: nas")
    text = f'[{{"node_key": "nodekey:{A}", "given_name": "other"}}, {{"node_key": "nodekey:{C}", "given_name": "pi"}}]'
    body = api.post("device/add", {"text": text}).json()
    assert ([line["name"] for line in body["added"]], [line["name"] for line in body["known"]]) == (
        ["pi"],
        ["nas"],
    )
    assert rental.devices.filter(status="approved").count() == 3
    entry = OperationLog.objects.filter(action="device.added").order_by("pk")[0]
    assert (entry.subject, entry.actor, entry.ip) == (rental.user, rental.user, "127.0.0.1")


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"node_keys": ["nas"]}, "node_keys", "There is no whole node key in it."),
        ({"text": "mkey:" + A}, "text", "This is a key of another kind"),
        ({"text": '[{"node_key": "nodekey:' + A}, "text", "This is not all that the command prints"),
        ({}, "node_keys", "Send either node_keys or text."),
        ({"node_keys": [A], "text": A}, "node_keys", "Send either node_keys or text."),
        ({"keys": [A]}, "keys", "There is no such field."),
    ],
)
def test_what_names_no_device_is_refused_in_the_pages_words(
    api: Api, rental: Rental, body: dict[str, Any], field: str, words: str
) -> None:
    answer = api.post("device/add", body)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert answer.json()["message"].startswith(words)
    assert not rental.devices.exists()


def test_no_more_are_added_than_there_are_places(api: Api, rental: Rental) -> None:
    RentalSpan.objects.update(device_limit=2)
    DeviceFactory(rental=rental, node_key=KEYS[9], status=Device.Status.REVOKED)
    body = api.post("device/add", {"node_keys": [A, B, C, KEYS[9]]}).json()
    assert len(body["added"]) == 2
    assert body["left_out"] == [f"nodekey:{C}"]
    assert [line["node_key"] for line in body["revoked"]] == [f"nodekey:{KEYS[9]}"]
    assert "All places are taken: this 1 device was left out." in body["message"]
    answer = api.post("device/add", {"node_keys": [C]})
    assert (answer.status_code, answer.json()["code"], answer.json()["details"]) == (
        409,
        "limit_reached",
        {"limit": 2},
    )


def test_adding_is_limited_as_on_the_page_and_comes_once_with_a_key(
    api: Api, rental: Rental, client: Client
) -> None:
    client.force_login(rental.user)
    for _ in range(57):
        client.post("/devices/add/", {"text": A})
    first = api.post("device/add", {"node_keys": [A]}, Idempotency_Key="k").json()
    assert api.post("device/add", {"node_keys": [A]}, Idempotency_Key="k").json() == first
    assert [api.post("device/add", {"node_keys": [A]}).status_code for _ in range(3)] == [200, 200, 429]


def test_one_that_waits_is_approved_ignored_renamed_and_revoked(
    api: Api, rental: Rental, relay: Relay
) -> None:
    device = refuse(rental, relay, A)
    body = api.post(f"device/{device.pk}/approve", {}).json()
    assert (body["device"]["status"], body["device"]["source"]) == ("approved", "approved")
    assert body["message"].endswith("It connects at its next attempt, within a minute or so.")
    assert (
        api.post(f"device/{device.pk}/rename", {"name": " the\nnas "}).json()["device"]["name"] == "the nas"
    )
    body = api.post(f"device/{device.pk}/revoke").json()
    assert (body["device"]["status"], body["message"]) == (
        "revoked",
        "the nas is revoked, and its connections are being cut. It stays out.",
    )
    assert api.post(f"device/{device.pk}/revoke").json()["message"] == "This device is revoked already."
    other = refuse(rental, relay, B)
    assert api.post(f"device/{other.pk}/ignore").json()["device"]["status"] == "revoked"
    answer = api.post(f"device/{other.pk}/ignore")
    assert (answer.status_code, answer.json()["code"]) == (409, "not_waiting")


def test_a_new_self_takes_the_place_of_the_old_one(api: Api, rental: Rental, relay: Relay) -> None:
    RentalSpan.objects.update(device_limit=1)
    old, new = approve(rental, A, "nas"), refuse(rental, relay, B)
    assert api.post(f"device/{new.pk}/approve", {}).json()["code"] == "limit_reached"
    body = api.post(f"device/{new.pk}/approve", {"replaces": old.pk}).json()
    assert (body["device"]["name"], body["device"]["status"]) == ("nas", "approved")
    assert Device.objects.get(pk=old.pk).status == "revoked"
    assert places_left(rental, timezone.now()) == 0


def test_the_window_is_opened_and_closed(api: Api, rental: Rental) -> None:
    body = api.post("device/window/open", {"minutes": 60}).json()
    until = window_until(rental)
    assert timedelta(minutes=59) < until - timezone.now() <= timedelta(hours=1)
    assert (
        body["window_until"][:19]
        == api.get("device/list").json()["window_until"][:19]
        == until.isoformat()[:19]
    )
    assert api.post("device/window/open", {"minutes": 5}).json()["field"] == "minutes"
    assert (
        api.post("device/window/close", {}).json()["message"] == "New devices wait for your approval again."
    )
    assert window_until(rental) <= timezone.now()


# Whose


ACTS = [
    ("post", "device/{pk}/approve", {}),
    ("post", "device/{pk}/ignore", None),
    ("post", "device/{pk}/revoke", None),
    ("post", "device/{pk}/rename", {"name": "x"}),
    ("post", "device/add", {"node_keys": [C], "user_id": "{user}"}),
    ("post", "device/window/open", {"user_id": "{user}"}),
    ("post", "device/window/close", {"user_id": "{user}"}),
]


def ask(api: Api, rental: Rental, device: Device, act: tuple[str, str, Any]) -> Any:
    method, path, body = act
    if body and "user_id" in body:
        body = body | {"user_id": rental.user_id}
    return getattr(api, method)(path.format(pk=device.pk), body)


@pytest.mark.parametrize("act", ACTS, ids=[path for _method, path, _body in ACTS])
def test_anothers_devices_are_neither_seen_nor_touched(
    rental: Rental, relay: Relay, staff: User, act: Any
) -> None:
    device = refuse(rental, relay, A)
    open_window(rental=rental, length=timedelta(minutes=10), by=rental.user)
    before = list(Device.objects.values()), window_until(rental)
    stranger = Api(RentalFactory().user)
    answer = ask(stranger, rental, device, act)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    # Staff with a token for themselves only; a customer with one to read.
    for one in (Api(staff, scopes=[Scope.READ, Scope.ACT]), Api(rental.user, scopes=[Scope.READ])):
        answer = ask(one, rental, device, act)
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert (list(Device.objects.values()), window_until(rental)) == before
    answer = ask(Api(staff), rental, device, act)
    assert answer.status_code == 200, answer.json()


def test_lists_of_others_are_for_operators(rental: Rental, relay: Relay, staff: User) -> None:
    approve(rental, A)
    AdmissionFactory(relay=relay)
    for path in ("device/list", "device/admissions"):
        query = {"user_id": rental.user_id}
        assert Api(RentalFactory().user).get(path, query).status_code == 404
        assert Api(staff).get(path, query).status_code == 200
        assert Api(staff).get(path).status_code == 404
    replaced = refuse(rental, relay, B)
    stranger = RentalFactory()
    own = DeviceFactory(rental=stranger)
    answer = Api(stranger.user).post(f"device/{own.pk}/approve", {"replaces": replaced.pk})
    assert answer.status_code == 404


def test_a_banned_customers_devices_are_not_changed_by_operators(
    rental: Rental, relay: Relay, staff: User
) -> None:
    device = refuse(rental, relay, A)
    accounts.ban_user(user=rental.user, by=None)
    answer = Api(staff).post(f"device/{device.pk}/approve", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "inactive")


# Who asked


def test_who_asked_is_read_by_answer_and_by_device(api: Api, rental: Rental, relay: Relay) -> None:
    first = AdmissionFactory(relay=relay, node_key=A, ip="203.0.113.9", map_version=3, count=4)
    AdmissionFactory(relay=relay, node_key=B, is_allowed=True, reason=Admission.Reason.APPROVED)
    AdmissionFactory(relay=relay, node_key="", reason=Admission.Reason.UNKNOWN)
    AdmissionFactory(relay=RelayFactory())
    lines = api.get("device/admissions").json()["admissions"]
    assert [line["node_key"] for line in lines] == [None, f"nodekey:{B}", f"nodekey:{A}"]
    assert {name: value for name, value in lines[2].items() if name != "at"} == {
        "node_key": f"nodekey:{A}", "is_allowed": False, "reason": "unknown", "reason_text": "unknown device", "ip": "203.0.113.9",
        "place": "", "container_id": relay.pk, "map_version": 3, "count": 4,
    }  # fmt: skip
    assert [
        line["reason"] for line in api.get("device/admissions", {"answer": "allowed"}).json()["admissions"]
    ] == ["approved"]
    assert len(api.get("device/admissions", {"node_key": f"nodekey:{A}"}).json()["admissions"]) == 1
    page = api.get("device/admissions", {"page_size": 2}).json()
    rest = api.get("device/admissions", {"page_size": 2, "cursor": page["next_cursor"]}).json()
    assert page["admissions"] + rest["admissions"] == lines
    answer = api.get("device/admissions", {"node_key": "nas"})
    assert (answer.status_code, answer.json()["field"]) == (422, "node_key")
    assert first.pk


def test_who_asked_costs_the_same_however_many_they_are(api: Api, relay: Relay) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.get("device/admissions", {"page_size": 200}).status_code == 200
        return sum("accounts_apitoken" not in query["sql"] for query in queries)

    AdmissionFactory(relay=relay)
    few = cost()
    AdmissionFactory.create_batch(80, relay=relay)
    assert cost() == few == 2
