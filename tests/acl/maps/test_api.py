"""The map by the API: made, handed out whole or in part, its history, the live URL."""

import base64
import json
from datetime import UTC
from typing import Any

import pytest
import yaml
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.access.models import Scope
from accounts.models import OperationLog, User
from acl.maps import services
from acl.maps.models import AclConfig, AclEvent, LiveUrl
from acl.maps.services.known_relays import known_relays
from serials.rentals.models import Rental
from tests.acl.maps.test_downloads import REFUSALS
from tests.acl.steps import active, move, set_paid
from tests.api import Api
from tests.factories import AclEventFactory, RentalFactory, ServedRentalFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental() -> Rental:
    return ServedRentalFactory(days=60, relays=3)


@pytest.fixture
def api(rental: Rental) -> Api:
    return Api(rental.user)


@pytest.fixture
def staff() -> User:
    return UserFactory(role=User.Role.ADMIN, language="en")


def events(rental: Rental) -> list[AclEvent]:
    return list(rental.acl_events.exclude(kind="made").order_by("pk"))


def download(api: Api, code: str, file_format: str = "json") -> Any:
    return api.get(f"acl/download/{code}", {"format": file_format}, User_Agent="derpctl/1")


# The map


def test_the_map_is_generated_and_that_is_a_download(api: Api, rental: Rental) -> None:
    answer = api.post("acl/generate", {}, User_Agent="derpctl/1")
    config = active(rental)
    body = answer.json()
    assert (answer.status_code, body["success"], body["version"]) == (200, True, 1)
    assert body["acl"] == config.derp_map
    assert len(body["acl"]["Regions"]) == 3
    assert body["end"][:19] == config.ends_at.astimezone(UTC).isoformat()[:19]
    assert body["end"].endswith("Z")
    [event] = events(rental)
    assert (event.kind, event.version, event.file_format, event.by, event.browser, event.reason) == (
        "downloaded",
        1,
        "json",
        rental.user,
        "derpctl/1",
        "",
    )
    assert services.describe_paste(config=config, url=None, now=timezone.now()).taken == 1


def test_a_new_version_is_made_where_the_relays_or_the_end_call_for_one(api: Api, rental: Rental) -> None:
    assert api.post("acl/generate").json()["version"] == api.post("acl/generate").json()["version"] == 1
    move(rental.relays.get(slot=1))
    body = api.post("acl/generate").json()
    assert body["version"] == 2
    pins = {region["Nodes"][0]["CertName"] for region in body["acl"]["Regions"].values()}
    assert f"sha256-raw:{rental.relays.get(slot=1).certificate_sha256}" in pins
    AclConfig.objects.update(ends_at=timezone.now() + timezone.timedelta(days=1))
    assert api.post("acl/generate").json()["version"] == 3


def test_a_part_of_the_map_leads_to_some_servers_and_counts_for_no_version(api: Api, rental: Rental) -> None:
    one, two = rental.relays.get(slot=1), rental.relays.get(slot=3)
    body = api.post("acl/generate", {"server_ids": [one.server_id, two.server_id]}).json()
    found = {region["Nodes"][0]["DERPPort"] for region in body["acl"]["Regions"].values()}
    assert found == {one.derp_port, two.derp_port}
    assert active(rental).version == 1
    assert len(active(rental).derp_map["Regions"]) == 3
    [event] = events(rental)
    assert (event.kind, event.reason) == ("downloaded", services.PARTIAL)
    assert services.describe_paste(config=active(rental), url=None, now=timezone.now()).taken is None
    assert list(known_relays(rental.pk)) == []
    again = download(api, body["acl_code"]).json()
    assert json.loads(base64.b64decode(again["acl_file"])) == body["acl"]
    api.post("acl/generate")
    assert len(list(known_relays(rental.pk))) == 3


def test_servers_without_a_relay_of_the_map_are_refused(api: Api, rental: Rental) -> None:
    other = ServedRentalFactory()
    answer = api.post("acl/generate", {"server_ids": [other.relays.get().server_id]})
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        409,
        "not_in_map",
        "server_ids",
    )
    assert events(rental) == []
    answer = api.post("acl/generate", {"server_ids": [0]})
    assert answer.status_code == 422
    assert answer.json()["field"].startswith("server_ids")


def test_a_version_by_hand(api: Api, rental: Rental) -> None:
    body = api.post("acl/update", {}).json()
    assert (body["version"], body["message"]) == (2, "Version 2 of the map is made.")
    assert OperationLog.objects.get(action="map.renewed").subject == rental.user
    answer = api.post("acl/update", {"instead_of": 1})
    assert (answer.status_code, answer.json()["code"]) == (409, "changed_meanwhile")
    assert api.post("acl/update", {"instead_of": 2}).json()["version"] == 3
    assert download(api, body["acl_code"]).json()["code"] == "superseded"


def test_versions_by_hand_are_limited_as_on_the_page(api: Api, rental: Rental, client: Client) -> None:
    client.force_login(rental.user)
    for _ in range(5):
        client.post("/map/renew/")
    assert [api.post("acl/update").status_code for _ in range(6)] == [200] * 5 + [429]
    assert active(rental).version == 11
    assert int(api.post("acl/update").headers["Retry-After"]) > 0


def test_the_same_key_makes_one_version(api: Api, rental: Rental) -> None:
    first = api.post("acl/update", {}, Idempotency_Key="k").json()
    assert api.post("acl/update", {}, Idempotency_Key="k").json() == first
    assert active(rental).version == 2


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("path", ["by_name", "generate", "update"])
def test_what_the_page_refuses_is_refused_in_its_words(
    api: Api, rental: Rental, case: str, path: str
) -> None:
    REFUSALS[case](rental)
    page = Client()
    page.force_login(rental.user)
    words = page.get("/map/json/", headers={"Accept-Language": "en"}).content.decode()
    refused = rental.acl_events.filter(kind="refused").count()
    if path == "by_name":
        answer = api.get(f"acl/download/by_name/{rental.user.username}")
    else:
        answer = api.post(f"acl/{path}", {})
    if case in {"lapsed", "no_map"} and path != "by_name":
        # A person asked: a new version is made.
        assert answer.status_code == 200
        return
    assert (answer.status_code, answer.json()["code"]) == (409, case)
    assert answer.json()["message"] in words
    assert rental.acl_events.filter(kind="refused").count() == refused + (path != "update")


def test_somebody_without_a_rental_is_told_so() -> None:
    api = Api(UserFactory())
    for path in ("acl/generate", "acl/update", "acl/live"):
        assert api.post(path, {}).json()["code"] == "no_rental"
    assert api.get("acl/live").json()["live_id"] is None


# Files


@pytest.mark.parametrize(
    ("file_format", "name"), [("json", "v1.json"), ("hujson", "v1.hujson"), ("headscale", "v1.yaml")]
)
def test_it_is_downloaded_by_its_code_and_by_the_user_name(
    api: Api, rental: Rental, file_format: str, name: str
) -> None:
    code = api.post("acl/generate").json()["acl_code"]
    by_code = download(api, code, file_format)
    by_name = api.get(f"acl/download/by_name/{rental.user.username.upper()}", {"format": file_format})
    assert by_code.status_code == by_name.status_code == 200
    assert by_code.json() == by_name.json()
    body = by_code.json()
    text = base64.b64decode(body["acl_file"]).decode()
    assert (body["file_name"], body["format"], body["version"]) == (f"derpmap-{name}", file_format, 1)
    if file_format == "headscale":
        assert len(yaml.safe_load(text)["regions"]) == 3
    assert all(relay.certificate_sha256 in text for relay in rental.relays.all())
    formats = [event.file_format for event in events(rental)]
    assert formats == ["json", *[name.partition(".")[2]] * 2]


def test_the_page_and_the_api_hand_out_the_same_bytes(api: Api, rental: Rental, client: Client) -> None:
    client.force_login(rental.user)
    page = client.get("/map/hujson/", headers={"Accept-Language": "en"})
    name = rental.user.username
    file = api.get(f"acl/download/by_name/{name}", {"format": "hujson"}).json()
    assert base64.b64decode(file["acl_file"]) == page.content
    assert file["file_name"] in page.headers["Content-Disposition"]


def test_a_code_that_the_panel_did_not_write_is_unknown(api: Api, rental: Rental) -> None:
    code = api.post("acl/generate").json()["acl_code"]
    number, _dot, signature = code.partition(".")
    for wrong in (
        f"{number}-901.{signature}",
        number,
        "x",
        f"{rental.pk}-2.{signature}",
        f"{number}.{'0' * 43}",
    ):
        answer = download(api, wrong)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert download(api, code, "yaml").json()["field"] == "format"


def test_a_code_counts_while_its_version_is_the_newest(api: Api, rental: Rental) -> None:
    code = api.post("acl/generate").json()["acl_code"]
    move(rental.relays.get(slot=1))
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    answer = download(api, code)
    assert (answer.status_code, answer.json()["code"]) == (409, "superseded")
    assert answer.json()["message"] == "Version 1 is not the newest any more: version 2 is."


def test_downloads_are_limited_as_on_the_page(api: Api, rental: Rental, client: Client) -> None:
    client.force_login(rental.user)
    for _ in range(59):
        client.get("/map/json/")
    assert [api.post("acl/generate").status_code for _ in range(2)] == [200, 429]


# Whose


@pytest.fixture
def stranger() -> Api:
    return Api(ServedRentalFactory().user)


def test_anothers_map_is_not_there(api: Api, rental: Rental, stranger: Api) -> None:
    code = api.post("acl/generate").json()["acl_code"]
    before = len(events(rental))
    user_id = {"user_id": rental.user_id}
    answers = [
        stranger.post("acl/generate", user_id),
        stranger.post("acl/update", user_id),
        stranger.get(f"acl/logs/{rental.user_id}"),
        stranger.get(f"acl/download/{code}"),
        stranger.get(f"acl/download/by_name/{rental.user.username}"),
        stranger.get("acl/live", user_id),
        stranger.delete(f"acl/live?user_id={rental.user_id}"),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(404, "not_found")] * 7
    assert len(events(rental)) == before
    assert active(rental).version == 1


def test_operators_take_a_customers_map_and_the_customer_has_taken_none(rental: Rental, staff: User) -> None:
    one = Api(staff)
    body = one.post("acl/generate", {"user_id": rental.user_id}).json()
    assert one.get(f"acl/download/by_name/{rental.user.username}").json()["version"] == body["version"]
    assert [event.by for event in events(rental)] == [staff, staff]
    assert services.describe_paste(config=active(rental), url=None, now=timezone.now()).taken is None
    answer = Api(staff, scopes=[Scope.READ, Scope.ACT]).post("acl/update", {"user_id": rental.user_id})
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")


# Its history


def test_the_history_is_read_in_pages_and_names_no_operator_to_the_customer(
    api: Api, rental: Rental, staff: User
) -> None:
    Api(staff).post("acl/update", {"user_id": rental.user_id})
    api.post("acl/generate")
    services.record_event(rental=rental, kind=AclEvent.Kind.FETCHED, version=2, browser="curl/8")
    lines = api.get(f"acl/logs/{rental.user_id}").json()["events"]
    assert [(line["kind"], line["version"], line["by"]) for line in lines] == [
        ("fetched", 2, "live_url"),
        ("downloaded", 2, "customer"),
        ("made", 2, "operator"),
        ("made", 1, "system"),
    ]
    assert [line["by_user_id"] for line in lines] == [None, rental.user_id, None, None]
    assert lines[2]["reason"] == "renewed by hand"
    shown = Api(staff).get(f"acl/logs/{rental.user_id}", {"kind": "made", "version": 2}).json()["events"]
    assert [line["by_user_id"] for line in shown] == [staff.pk]
    first = api.get(f"acl/logs/{rental.user_id}", {"page_size": 3}).json()
    rest = api.get(f"acl/logs/{rental.user_id}", {"page_size": 3, "cursor": first["next_cursor"]}).json()
    assert first["events"] + rest["events"] == lines
    assert rest["next_cursor"] is None


def test_the_history_costs_the_same_however_long_it_is(api: Api, rental: Rental) -> None:
    def cost() -> int:
        with CaptureQueriesContext(connection) as queries:
            assert api.get(f"acl/logs/{rental.user_id}", {"page_size": 200}).status_code == 200
        return sum("accounts_apitoken" not in query["sql"] for query in queries)

    few = cost()
    for _ in range(100):
        AclEventFactory(rental=rental, kind="downloaded", version=1, by=rental.user)
    assert cost() == few == 1


# The live URL


def test_a_live_url_is_made_shown_once_replaced_and_revoked(api: Api, rental: Rental) -> None:
    assert api.get("acl/live").json()["live_id"] is None
    made = api.post("acl/live", {}).json()
    url = LiveUrl.objects.get(pk=made["live_id"])
    assert made["url"] == services.live_address(url)
    assert Client().get(made["url"].removeprefix("http://testserver")).json() == active(rental).derp_map
    state = api.get("acl/live")
    assert state.json()["live_id"] == url.pk
    assert url.secret not in state.content.decode()
    answer = api.post("acl/live", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "changed_meanwhile")
    other = api.post("acl/live", {"replaces": url.pk}).json()
    url.refresh_from_db()
    assert url.revoked_at is not None
    assert api.delete("acl/live").json()["message"] == "The live URL is revoked."
    assert LiveUrl.objects.get(pk=other["live_id"]).revoked_at is not None
    assert api.delete("acl/live").status_code == 404


def test_an_operator_revokes_a_live_url_and_makes_none(rental: Rental, staff: User) -> None:
    services.create_live_url(rental=rental, by=rental.user)
    one = Api(staff)
    assert one.get("acl/live", {"user_id": rental.user_id}).json()["live_id"]
    answer = one.post("acl/live", {"user_id": rental.user_id})
    assert (answer.status_code, answer.json()["field"]) == (422, "user_id")
    assert one.delete(f"acl/live?user_id={rental.user_id}").status_code == 200
    assert not LiveUrl.objects.filter(revoked_at=None).exists()


def test_live_urls_are_limited_and_come_once_with_a_key(api: Api, rental: Rental) -> None:
    first = api.post("acl/live", {}, Idempotency_Key="k").json()
    assert api.post("acl/live", {}, Idempotency_Key="k").json() == first
    assert LiveUrl.objects.count() == 1
    codes = [api.post("acl/live", {}).status_code for _ in range(10)]
    assert codes == [409] * 9 + [429]


def test_an_unpaid_rental_has_no_map_and_a_closed_one_no_live_url(api: Api, rental: Rental) -> None:
    set_paid(rental, None)
    assert api.post("acl/generate").json()["code"] == "unpaid"
    Rental.objects.filter(pk=rental.pk).update(closed_at=timezone.now())
    assert api.post("acl/live", {}).json()["code"] == "closed"


def test_a_token_to_read_makes_nothing(rental: Rental) -> None:
    reader = Api(rental.user, scopes=[Scope.READ])
    for answer in (
        reader.post("acl/generate"),
        reader.post("acl/update"),
        reader.post("acl/live"),
        reader.delete("acl/live"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert reader.get(f"acl/download/by_name/{rental.user.username}").status_code == 200
    assert RentalFactory().pk
