"""Serial numbers by the JSON API: made, looked up, listed, recalled, and renewing with one."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.access.models import Scope
from accounts.models import OperationLog, User
from serials.numbers import codes, services
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.forms import end_of_day
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import (
    RedeemedRentalFactory,
    SerialBatchFactory,
    SerialNumberFactory,
    ServerFactory,
    UserFactory,
)

pytestmark = pytest.mark.django_db

UNKNOWN = codes.with_check("7" * 19)


@pytest.fixture(autouse=True)
def _no_tries() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def admin(db: None) -> User:
    return UserFactory(email="admin@example.com", role=User.Role.ADMIN)


@pytest.fixture
def superadmin(db: None) -> User:
    return UserFactory(email="super@example.com", role=User.Role.SUPERADMIN)


def failure(answer: Any) -> tuple[int, str, str]:
    said = answer.json()
    assert said["success"] is False
    assert said["message"]
    return answer.status_code, said["code"], said["field"]


# Making them


def test_serial_numbers_are_made_and_told_once(admin: User) -> None:
    answer = Api(admin).post("serial/generate", {"count": 3, "duration_days": 30})

    assert answer.status_code == 200, answer.content
    said = answer.json()
    batch = SerialBatch.objects.get(pk=said["batch_id"])
    assert (batch.days, batch.count, batch.is_paid, batch.created_by) == (30, 3, False, admin)
    assert said["serial_numbers"] == [codes.group(row.code) for row in batch.serials.order_by("pk")]
    assert len(set(said["serial_numbers"])) == 3
    assert list(OperationLog.objects.order_by("pk").values_list("action", flat=True))[-2:] == [
        "batch.created",
        "batch.revealed",
    ]


def test_a_batch_has_what_was_asked_for(superadmin: User) -> None:
    servers = ServerFactory.create_batch(3)
    asked = {
        "count": 1, "duration_days": 7, "name": "spring", "redeem_by": "2030-01-31", "is_paid": True, "device_limit": 5,
        "quota_bytes": 10**12, "upload_quota_bytes": 10**11, "download_quota_bytes": 9 * 10**11, "rate_bytes_per_second": 2_500_000, "at_quota": "stop", "grace_days": 3, "may_open": False,
        "server_ids": [server.pk for server in servers],
    }  # fmt: skip
    answer = Api(superadmin).post("serial/generate", asked)

    assert answer.status_code == 200, answer.content
    batch = SerialBatch.objects.get()
    assert batch.is_paid
    assert batch.name == "spring"
    assert (batch.device_limit, batch.at_quota, batch.grace_days, batch.may_open) == (5, "stop", 3, False)
    assert (batch.quota_bytes, batch.rate_bytes_per_second) == (10**12, 2_500_000)
    assert (batch.upload_quota_bytes, batch.download_quota_bytes) == (10**11, 9 * 10**11)
    assert batch.redeem_by is not None
    assert batch.redeem_by.isoformat() == "2030-01-31"
    assert set(batch.servers.all()) == set(servers)


def test_the_same_request_with_a_key_makes_one_batch(admin: User) -> None:
    api, asked = Api(admin), {"count": 2, "duration_days": 30}
    first = api.post("serial/generate", asked, Idempotency_Key="order 7").json()
    assert api.post("serial/generate", asked, Idempotency_Key="order 7").json() == first
    assert SerialBatch.objects.count() == 1


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"count": 0}, "count"),
        ({"count": 10_001}, "count"),
        ({"duration_days": 3661}, "duration_days"),
        ({"device_limit": 1001}, "device_limit"),
        ({"quota_bytes": 1}, "quota_bytes"),
        ({"upload_quota_bytes": 1}, "upload_quota_bytes"),
        ({"download_quota_bytes": 10**18}, "download_quota_bytes"),
        ({"redeem_by": "2020-01-01"}, "redeem_by"),
        ({"at_quota": "explode"}, "at_quota"),
        ({"server_ids": [10**9]}, "server_ids"),
        ({"name": "x" * 81}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_wrong_field_of_a_batch_is_named(admin: User, wrong: dict[str, Any], field: str) -> None:
    answer = Api(admin).post("serial/generate", {"count": 1, "duration_days": 30, **wrong})
    assert failure(answer) == (422, "invalid", field)
    assert not SerialBatch.objects.exists()


def test_too_few_servers_are_refused_by_the_name_that_they_have_here(admin: User) -> None:
    answer = Api(admin).post(
        "serial/generate", {"count": 1, "duration_days": 30, "server_ids": [ServerFactory().pk]}
    )
    assert failure(answer) == (422, "invalid", "server_ids")


def test_only_a_super_admin_says_that_a_batch_is_paid(admin: User) -> None:
    answer = Api(admin).post("serial/generate", {"count": 1, "duration_days": 30, "is_paid": True})
    assert failure(answer)[:2] == (403, "not_allowed")


@pytest.mark.parametrize("role", [User.Role.USER, User.Role.DISTRIBUTOR])
def test_who_is_not_staff_makes_lists_and_recalls_none(role: str) -> None:
    api = Api(UserFactory(role=role), scopes=list(Scope))
    serial = SerialNumberFactory()
    assert failure(api.post("serial/generate", {"count": 1, "duration_days": 30}))[:2] == (403, "not_allowed")
    assert failure(api.get("serial/list"))[:2] == (403, "not_allowed")
    assert failure(api.post(f"serial/{serial.pk}/recall"))[:2] == (404, "not_found")
    serial.refresh_from_db()
    assert serial.status == "unused"


# Looking at them


def test_whoever_has_a_code_reads_what_it_gives() -> None:
    serial = SerialNumberFactory(days=7)
    typed = codes.group(serial.code).lower().replace("-", " ")
    said = Api(UserFactory()).get(f"serial/status/{typed}").json()
    assert (said["status"], said["can_redeem"], said["duration_days"]) == ("unused", True, 7)
    assert said["serial_code"] == serial.masked
    assert said["batch_id"] is None
    assert serial.code not in str(said)


def test_a_code_that_cannot_be_redeemed_says_why(english: None) -> None:
    unpaid = SerialNumberFactory(is_paid=False)
    said = Api(UserFactory()).get(f"serial/status/{unpaid.code}").json()
    assert (said["can_redeem"], said["reason"]) == (False, "unpaid")
    assert said["message"] == str(services.SerialUnpaid())


def test_ones_own_is_shown_and_anothers_is_as_unknown() -> None:
    rental = RedeemedRentalFactory()
    code = SerialNumber.objects.get().code
    own = Api(rental.user).get(f"serial/status/{code}").json()
    assert (own["status"], own["reason"], own["user_id"]) == ("used", "already_redeemed", rental.user_id)

    other = Api(UserFactory())
    anothers, unknown = other.get(f"serial/status/{code}"), other.get(f"serial/status/{UNKNOWN}")
    assert anothers.status_code == unknown.status_code == 404
    assert anothers.json() == unknown.json()
    assert failure(other.get("serial/status/ABCD"))[:2] == (422, "mistyped")

    by_staff = Api(UserFactory(role=User.Role.ADMIN)).get(f"serial/status/{code}").json()
    assert by_staff["user_id"] == rental.user_id
    assert by_staff["batch_id"]


def test_wrong_codes_count_with_those_of_the_page(settings: Any, client: Any) -> None:
    settings.REDEEM_RATE = "3/h"
    user = UserFactory()
    api, good = Api(user), SerialNumberFactory().code
    assert api.get(f"serial/status/{UNKNOWN}").status_code == 404
    assert api.get(f"serial/status/{good}").status_code == 200  # no try
    client.force_login(user)
    client.post("/redeem/", {"code": UNKNOWN})
    assert api.post("user/renew", {"serial_code": UNKNOWN}).status_code == 404
    limited = api.post("user/renew", {"serial_code": good})
    assert failure(limited)[:2] == (429, "too_many_requests")
    assert int(limited.headers["Retry-After"]) > 0
    assert api.get(f"serial/status/{good}").status_code == 429
    assert not Rental.objects.exists()


def test_the_list_is_masked_and_filtered(admin: User) -> None:
    rental = RedeemedRentalFactory(user=UserFactory(email="li@example.com"))
    used = SerialNumber.objects.get()
    batch = SerialBatchFactory(count=4, name="other")
    api = Api(admin)

    def listed(**query: Any) -> list[dict[str, Any]]:
        return list(api.get("serial/list", query).json()["serials"])

    rows = listed()
    assert len(rows) == 5
    assert all(row["serial_code"].startswith("••••-") for row in rows)
    assert [row["serial_id"] for row in listed(status="used")] == [used.pk]
    assert {row["batch_name"] for row in listed(batch_id=batch.pk)} == {"other"}
    (found,) = listed(q="LI@example")
    assert (found["serial_id"], found["user_id"], found["email"]) == (
        used.pk,
        rental.user_id,
        "li@example.com",
    )
    one = batch.serials.order_by("pk")[0]
    assert [row["serial_id"] for row in listed(q=codes.group(one.code))] == [one.pk]
    assert one.pk in [row["serial_id"] for row in listed(q=one.code_end)]
    assert failure(api.get("serial/list", {"status": "lost"})) == (422, "invalid", "status")


def test_pages_of_the_list_follow_one_another_and_cost_one_query(admin: User) -> None:
    SerialBatchFactory(count=7)
    api, seen, cursor = Api(admin), [], ""
    for _page in range(3):
        with CaptureQueriesContext(connection) as queries:
            said = api.get("serial/list", {"page_size": 3, "cursor": cursor}).json()
        assert len([query for query in queries if "serials_" in query["sql"]]) == 1
        seen += [row["serial_id"] for row in said["serials"]]
        cursor = said["next_cursor"]
    assert cursor is None
    assert seen == sorted(SerialNumber.objects.values_list("pk", flat=True), reverse=True)


def test_a_recalled_serial_number_is_recalled_once(admin: User) -> None:
    serial = SerialNumberFactory()
    said = Api(admin).post(f"serial/{serial.pk}/recall").json()
    assert (said["success"], said["status"], said["can_redeem"]) == (True, "recalled", False)
    serial.refresh_from_db()
    assert serial.status == "recalled"
    assert failure(Api(admin).post(f"serial/{serial.pk}/recall"))[:2] == (409, "recalled")
    assert failure(Api(admin).post("serial/999999/recall"))[:2] == (404, "not_found")


# Renewing


def test_somebody_renews_with_a_code() -> None:
    rental = RedeemedRentalFactory()
    before = rental.ends_at
    answer = Api(rental.user).post("user/renew", {"serial_code": SerialNumberFactory(days=7).code})
    assert answer.status_code == 200, answer.content
    rental.refresh_from_db()
    assert rental.ends_at == before + timedelta(days=7)
    assert answer.json()["new_expiry_time"] == f"{rental.ends_at:%Y-%m-%dT%H:%M:%S}Z"
    assert answer.json()["rental"]["rental_id"] == rental.pk


def test_a_code_that_is_used_is_refused_in_the_pages_words(english: None) -> None:
    rental = RedeemedRentalFactory()
    code = SerialNumber.objects.get().code
    assert failure(Api(rental.user).post("user/renew", {"serial_code": code}))[:2] == (
        409,
        "already_redeemed",
    )
    other = Api(UserFactory()).post("user/renew", {"serial_code": code})
    assert failure(other)[:2] == (409, "used")
    assert other.json()["message"] == str(services.SerialUsed())


def test_a_refusal_is_written_down_though_a_key_was_sent() -> None:
    user = UserFactory()
    answer = Api(user).post("user/renew", {"serial_code": UNKNOWN}, Idempotency_Key="k")
    assert failure(answer)[:2] == (404, "unknown")
    assert OperationLog.objects.filter(action="serial.refused", subject=user).count() == 1
    # It was not kept: the same request may do better later.
    again = Api(user).post("user/renew", {"serial_code": UNKNOWN}, Idempotency_Key="k")
    assert "Idempotent-Replayed" not in again.headers


def test_a_code_that_comes_twice_with_a_key_is_redeemed_once() -> None:
    user, code = UserFactory(), SerialNumberFactory().code
    first = Api(user).post("user/renew", {"serial_code": code}, Idempotency_Key="k")
    again = Api(user).post("user/renew", {"serial_code": code}, Idempotency_Key="k")
    assert first.status_code == again.status_code == 200
    assert first.json() == again.json()


@pytest.mark.parametrize(
    ("suffix", "expected"),
    [("", ""), ("T16:00:00Z", "T16:00:00+00:00"), ("T16:00:00+08:00", "T08:00:00+00:00")],
)
def test_staff_renew_until_a_day_or_a_moment(admin: User, suffix: str, expected: str) -> None:
    rental = RedeemedRentalFactory()
    day = timezone.localdate() + timedelta(days=90)
    asked = {"user_id": rental.user_id, "end_date": f"{day}{suffix}"}
    answer = Api(admin).post("user/renew", asked)
    assert answer.status_code == 200, answer.content
    rental.refresh_from_db()
    assert rental.ends_at == (datetime.fromisoformat(f"{day}{expected}") if expected else end_of_day(day))
    again = Api(admin).post("user/renew", asked)
    assert failure(again)[:2] == (409, "not_later")


@pytest.mark.parametrize(
    "end", ["2099-01-01T00:00:00", "soon", "2026-13-01", "", "99999999999", "2026-02-31"]
)
def test_an_end_that_is_none_is_refused_by_its_name(admin: User, end: str) -> None:
    rental = RedeemedRentalFactory()
    answer = Api(admin).post("user/renew", {"user_id": rental.user_id, "end_date": end})
    assert failure(answer) == (422, "invalid", "end_date")


def test_renewing_wants_a_code_or_an_end(admin: User) -> None:
    assert failure(Api(admin).post("user/renew", {})) == (422, "invalid", "serial_code")
    both = {"serial_code": UNKNOWN, "end_date": "2030-01-01"}
    assert failure(Api(admin).post("user/renew", both)) == (422, "invalid", "serial_code")


def test_nobody_but_staff_names_an_end_or_another(admin: User) -> None:
    rental = RedeemedRentalFactory()
    before = rental.ends_at
    own = Api(rental.user, scopes=list(Scope))
    assert failure(own.post("user/renew", {"end_date": "2030-01-01"}))[:2] == (403, "not_allowed")
    stranger, code = Api(UserFactory()), SerialNumberFactory().code
    answer = stranger.post("user/renew", {"user_id": rental.user_id, "serial_code": code})
    assert failure(answer) == (404, "not_found", "user_id")
    # A token of staff that was made for the owner's own things.
    weak = Api(admin, scopes=[Scope.READ, Scope.ACT])
    for asked in ({"serial_code": code}, {"end_date": "2030-01-01"}):
        assert failure(weak.post("user/renew", {"user_id": rental.user_id, **asked}))[:2] == (
            403,
            "scope_missing",
        )
    rental.refresh_from_db()
    assert rental.ends_at == before
    done = Api(admin).post("user/renew", {"user_id": rental.user_id, "serial_code": code})
    assert done.status_code == 200
    assert rental.user.email in done.json()["message"]
