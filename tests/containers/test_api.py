"""Relays by the API: lists, states, tests that are asked for."""

import threading
import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import User
from containers.models import Relay
from tests.api import Api
from tests.factories import (
    DeploymentFactory,
    RelayFactory,
    RelayHealthFactory,
    RentalFactory,
    ServerFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff() -> User:
    return UserFactory(role=User.Role.ADMIN, language="en")


@pytest.fixture
def one() -> Relay:
    return RelayFactory(whole=True, server__name="zebra", server__whole=True)


def listed(api: Api, **query: Any) -> list[int]:
    answer = api.get("container/list", query)
    assert answer.status_code == 200, answer.json()
    return [row["container_id"] for row in answer.json()["containers"]]


def test_a_customer_reads_their_own_relays_and_what_the_map_says_of_them(one: Relay) -> None:
    RelayFactory()
    answer = Api(one.rental.user).get("container/list")
    [row] = answer.json()["containers"]
    assert answer.json()["success"] is True
    assert {name: row[name] for name in ("container_id", "user_id", "slot", "status", "is_carrying", "problem")} == {
        "container_id": one.pk, "user_id": one.rental.user_id, "slot": 1, "status": "running", "is_carrying": True, "problem": "",
    }  # fmt: skip
    assert (row["server_id"], row["server"]) == (one.server_id, None)
    assert (row["region"], row["address"]) == (one.server.region.name_en, one.server.address)
    assert (row["derp_port"], row["stun_port"], row["certificate_sha256"]) == (
        one.derp_port,
        one.stun_port,
        one.certificate_sha256,
    )
    assert row["certificate_ends_at"].endswith("Z")
    assert (
        row["last_proof"]["handshake_ms"],
        row["last_proof"]["packet_ms"],
        row["last_proof"]["stun_ms"],
    ) == (
        3.1,
        1.2,
        0.8,
    )
    for name in Relay.SECRETS:
        assert name not in row
    assert Api(one.rental.user, language="zh-hans").get("container/list").json()["containers"][0][
        "region"
    ] == (one.server.region.name_zh)


def test_operators_read_all_and_filter_them_as_in_the_admin(staff: User, one: Relay) -> None:
    other = RelayFactory(status=Relay.Status.FAILED, failure_code="no_answer")
    gone = RelayFactory(status=Relay.Status.RELEASED, slot=None)
    throwaway = RelayFactory(rental=None, slot=None)
    api = Api(staff)
    assert listed(api) == [throwaway.pk, other.pk, one.pk]
    assert listed(api, user_id=other.rental.user_id) == [other.pk]
    assert listed(api, server_id=one.server_id) == [one.pk]
    assert listed(api, status="released") == [gone.pk]
    assert listed(api, status="failed") == [other.pk]
    assert (
        listed(api, q="zebr")
        == listed(api, q=one.rental.user.email)
        == listed(api, q=str(one.derp_port))
        == [one.pk]
    )
    assert api.get("container/list").json()["containers"][2]["server"] == "zebra"
    assert listed(Api(one.rental.user), user_id=other.rental.user_id) == []


def test_a_list_costs_one_query_and_comes_in_pages(staff: User) -> None:
    rental, api = RentalFactory(), Api(staff)
    server = ServerFactory()

    def cost(size: int) -> int:
        with CaptureQueriesContext(connection) as queries:
            assert len(listed(api, page_size=size)) == size
        # The token is read again each second.
        return sum("accounts_apitoken" not in query["sql"] for query in queries)

    for number in range(3):
        RelayFactory(
            rental=rental, server=server, slot=None, derp_port=20000 + number, stun_port=20000 + number
        )
    few = cost(2)
    for number in range(60):
        relay = RelayFactory(
            rental=rental, server=server, slot=None, derp_port=21000 + number, stun_port=21000 + number
        )
        relay.last_health = RelayHealthFactory(relay=relay)
        relay.save()
    assert cost(60) == few == 1
    first = api.get("container/list", {"page_size": 50}).json()
    rest = api.get("container/list", {"page_size": 50, "cursor": first["next_cursor"]}).json()
    pks = [row["container_id"] for row in first["containers"] + rest["containers"]]
    assert pks == sorted(Relay.objects.values_list("pk", flat=True), reverse=True)
    assert rest["next_cursor"] is None


def test_the_state_has_steps_and_the_proofs_of_a_day(one: Relay) -> None:
    deployment = DeploymentFactory(relay=one)
    assert deployment.claim()
    deployment.write("there", step="connect")
    deployment.write("here", step="probe")
    old = RelayHealthFactory(relay=one, at=timezone.now() - timezone.timedelta(days=2))
    bad = RelayHealthFactory(relay=one, is_ok=False, step="stun", cause="stun_silent", stun_ms=None)
    Relay.objects.filter(pk=one.pk).update(last_health=bad, failing_since=timezone.now())
    answer = Api(one.rental.user).get(f"container/status/{one.pk}").json()
    assert answer["container"]["is_carrying"] is False
    assert answer["container"]["problem"].startswith("The relay's UDP port does not answer")
    assert [step["name"] for step in answer["deployment"]["steps"]] == ["connect", "probe"]
    assert answer["deployment"]["steps"][0]["label"] == "Connect to the server"
    assert [proof["is_ok"] for proof in answer["proofs"]] == [False, True]
    assert old.pk


def test_what_is_wrong_is_said_in_words(one: Relay) -> None:
    one.server.silent_since = timezone.now()
    one.server.save()
    [row] = Api(one.rental.user).get("container/list").json()["containers"]
    assert (row["is_carrying"], row["problem"]) == (False, "the server does not answer")


@pytest.mark.parametrize(("method", "path"), [("get", "container/status/{}"), ("post", "container/{}/probe")])
def test_anothers_relay_is_not_there(one: Relay, method: str, path: str) -> None:
    stranger = Api(RentalFactory().user)
    for pk in (one.pk, one.pk + 1000):
        answer = getattr(stranger, method)(path.format(pk))
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert Relay.objects.get(pk=one.pk).probe_asked_at is None


def test_a_test_is_asked_for_and_followed(one: Relay) -> None:
    answer = Api(one.rental.user).post(f"container/{one.pk}/probe")
    assert answer.status_code == 202
    assert answer.json()["follow"] == f"/api/v1/container/status/{one.pk}"
    assert answer.json()["proof"] is None
    one.refresh_from_db()
    assert one.probe_asked_at is not None
    # A second one follows the first, whose result is there meanwhile.
    RelayHealthFactory(relay=one, packet_ms=7.5)
    asked = one.probe_asked_at
    again = Api(one.rental.user).post(f"container/{one.pk}/probe")
    one.refresh_from_db()
    assert (again.status_code, again.json()["proof"]["packet_ms"], one.probe_asked_at) == (200, 7.5, asked)


@pytest.mark.django_db(transaction=True)
def test_waiting_answers_when_the_test_is_done(one: Relay) -> None:
    def test_it() -> None:
        try:
            while Relay.objects.values_list("probe_asked_at", flat=True).get(pk=one.pk) is None:
                time.sleep(0.05)
            RelayHealthFactory(relay=one, packet_ms=4.5)
        finally:
            connection.close()

    worker = threading.Thread(target=test_it)
    worker.start()
    answer = Api(one.rental.user).post(f"container/{one.pk}/probe?wait=20")
    worker.join()
    assert (answer.status_code, answer.json()["proof"]["packet_ms"]) == (200, 4.5)


def test_tests_are_limited_as_on_the_page(one: Relay, client: Any) -> None:
    client.force_login(one.rental.user)
    for _ in range(15):
        client.post(f"/relays/{one.pk}/probe/")
    api = Api(one.rental.user)
    codes = [api.post(f"container/{one.pk}/probe").status_code for _ in range(16)]
    assert codes == [202] * 15 + [429]
    answer = api.post(f"container/{one.pk}/probe")
    assert answer.json()["code"] == "too_many_requests"
    assert int(answer.headers["Retry-After"]) > 0


def test_released_relays_and_wrong_fields_are_told(one: Relay, staff: User) -> None:
    Relay.objects.filter(pk=one.pk).update(status=Relay.Status.RELEASED, slot=None)
    assert Api(one.rental.user).post(f"container/{one.pk}/probe").status_code == 404
    for query, field in (
        ({"status": "x"}, "status"),
        ({"page_size": 500}, "page_size"),
        ({"x": 1}, "x"),
        ({"cursor": "a"}, "cursor"),
    ):
        answer = Api(staff).get("container/list", query)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    answer = Api(staff).get("container/status/0")
    assert answer.status_code in {404, 422}


def test_a_token_to_read_tests_nothing_and_one_for_oneself_nobody_elses(one: Relay, staff: User) -> None:
    from accounts.access.models import Scope

    for user, scopes in ((one.rental.user, [Scope.READ]), (staff, [Scope.READ, Scope.ACT])):
        answer = Api(user, scopes=scopes).post(f"container/{one.pk}/probe")
        assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert Api(staff).post(f"container/{one.pk}/probe").status_code == 202


@pytest.mark.django_db(transaction=True)
def test_following_waits_until_nothing_is_under_way() -> None:
    relay = RelayFactory(planned=True)

    def prove() -> None:
        try:
            time.sleep(1)
            Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.RUNNING)
        finally:
            connection.close()

    api = Api(relay.rental.user)
    assert api.get(f"container/status/{relay.pk}").json()["container"]["status"] == "planned"
    worker = threading.Thread(target=prove)
    worker.start()
    answer = api.get(f"container/status/{relay.pk}", {"wait": 20})
    worker.join()
    assert answer.json()["container"]["status"] == "running"
