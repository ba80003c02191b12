"""Rentals by the JSON API."""

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts.access.models import Scope
from accounts.models import User
from serials.rentals import services
from serials.rentals.models import Rental
from serials.rentals.wording import time_left
from tests.api import Api
from tests.factories import RedeemedRentalFactory, RentalFactory, SerialNumberFactory, UserFactory

pytestmark = pytest.mark.django_db


@pytest.fixture
def rental(db: None) -> Rental:
    return RedeemedRentalFactory(user=UserFactory(email="li@example.com"), days=30, device_limit=4)


@pytest.fixture
def admin(db: None) -> User:
    return UserFactory(role=User.Role.ADMIN)


def info(user: User, **query: Any) -> dict[str, Any]:
    answer = Api(user).get("user/rental_info", query)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def test_a_rental_is_shown_with_what_was_sold(rental: Rental) -> None:
    rental.spans.update(download_quota_bytes=7)
    said = info(rental.user)
    shown = said["rental"]
    assert (said["user_id"], shown["rental_id"], shown["user_id"]) == (
        rental.user_id,
        rental.pk,
        rental.user_id,
    )
    assert (shown["status"], shown["is_running"], shown["is_in_grace"]) == ("active", True, False)
    assert parse_datetime(shown["ends_at"]) == rental.ends_at
    assert shown["ends_at"].endswith("Z")
    assert shown["days_left"] == 30
    assert said["message"] == "30 days left"
    (span,) = shown["spans"]
    assert (span["device_limit"], span["is_current"], span["quota_bytes"]) == (4, True, None)
    assert (span["upload_quota_bytes"], span["download_quota_bytes"]) == (None, 7)


def test_what_follows_is_shown_after_what_rules(rental: Rental) -> None:
    Api(rental.user).post("user/renew", {"serial_code": SerialNumberFactory(days=7, device_limit=9).code})
    spans = info(rental.user)["rental"]["spans"]
    assert [(span["device_limit"], span["is_current"]) for span in spans] == [(4, True), (9, False)]


def test_whoever_has_none_is_told_so() -> None:
    user = UserFactory()
    said = info(user)
    assert (said["user_id"], said["rental"]) == (user.pk, None)
    assert said["message"]


def test_it_costs_two_queries_whatever_there_is(rental: Rental, admin: User) -> None:
    own, staff = Api(rental.user), Api(admin)
    for number in range(3):
        own.post("user/renew", {"serial_code": SerialNumberFactory(days=7, device_limit=10 + number).code})
    services.pause_rental(rental=rental, by=None, reason="dispute")
    for api, query in ((own, {}), (staff, {"user_id": rental.user_id})):
        api.get("user/rental_info", query)  # the token is known from now on
        with CaptureQueriesContext(connection) as queries:
            assert len(api.get("user/rental_info", query).json()["rental"]["spans"]) == 4
        assert len(queries) <= 2, [query["sql"] for query in queries]


def test_another_is_seen_by_staff_only(rental: Rental, admin: User) -> None:
    assert info(admin, user_id=rental.user_id)["rental"]["rental_id"] == rental.pk
    for user_id in (rental.user_id, 10**12):
        answer = Api(UserFactory()).get("user/rental_info", {"user_id": user_id})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    missing = Api(admin).get("user/rental_info", {"user_id": 10**12})
    assert missing.status_code == 404
    wrong = Api(admin).get("user/rental_info", {"user_id": "x"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "user_id")


def test_time_that_is_over_runs_no_more_but_for_the_grace(settings: Any) -> None:
    settings.GRACE_DAYS = 3
    now = timezone.now()
    rental = RentalFactory(ends_at=now - timedelta(hours=1), runs_until=now + timedelta(days=3))
    shown = info(rental.user)["rental"]
    assert (shown["is_running"], shown["is_in_grace"], shown["days_left"]) == (True, True, 0)
    assert [span["is_current"] for span in shown["spans"]] == [True]
    Rental.objects.update(runs_until=now - timedelta(minutes=1))
    shown = info(rental.user)["rental"]
    assert (shown["is_running"], shown["is_in_grace"]) == (False, False)
    assert [span["is_current"] for span in shown["spans"]] == [False]


@pytest.mark.parametrize("hours", [1, 13, 25, 37, 24 * 30])
def test_the_days_left_are_those_that_pages_say(hours: int, english: None) -> None:
    rental = RentalFactory(ends_at=timezone.now() + timedelta(hours=hours))
    days = info(rental.user)["rental"]["days_left"]
    said = time_left(rental.ends_at)
    assert said.startswith(f"{days} day") or (days <= 1 and "hour" in said)


def test_staff_pause_and_resume(rental: Rental, admin: User) -> None:
    api = Api(admin)
    paused = api.post(f"rental/{rental.pk}/pause", {"reason": "dispute"})
    assert paused.status_code == 200, paused.content
    assert paused.json()["rental"]["status"] == "paused"
    assert "li@example.com is paused." in paused.json()["message"]
    pause = services.current_pause(Rental.objects.get(pk=rental.pk))
    assert pause is not None
    assert (pause.reason, pause.by) == ("dispute", admin)
    again = api.post(f"rental/{rental.pk}/pause", {})
    assert (again.status_code, again.json()["message"]) == (200, "This rental is paused already.")

    resumed = api.post(f"rental/{rental.pk}/resume")
    assert resumed.json()["rental"]["status"] == "active"
    assert "is resumed" in resumed.json()["message"]
    assert api.post(f"rental/{rental.pk}/resume").json()["message"] == "This rental is not paused."
    assert rental.redemptions.filter(kind="resumed").count() == 1


def test_customers_neither_pause_nor_resume(rental: Rental) -> None:
    services.pause_rental(rental=rental, by=None)
    for verb in ("pause", "resume"):
        own = Api(rental.user, scopes=list(Scope)).post(f"rental/{rental.pk}/{verb}", {})
        assert (own.status_code, own.json()["code"]) == (403, "not_allowed"), verb
        narrow = Api(rental.user).post(f"rental/{rental.pk}/{verb}", {})
        assert (narrow.status_code, narrow.json()["code"]) == (403, "scope_missing")
        other = Api(UserFactory(), scopes=list(Scope)).post(f"rental/{rental.pk}/{verb}", {})
        assert (other.status_code, other.json()["code"]) == (404, "not_found")
    rental.refresh_from_db()
    assert rental.status == "paused"


def test_a_rental_that_is_over_cannot_be_paused(admin: User) -> None:
    rental = RentalFactory(ends_at=timezone.now() - timedelta(days=1))
    answer = Api(admin).post(f"rental/{rental.pk}/pause", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_pause")
