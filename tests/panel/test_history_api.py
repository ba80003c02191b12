"""A customer's history by the JSON API: the same lines as the page's, in pages that follow one another."""

from datetime import timedelta
from typing import Any, get_args

import pytest
import time_machine
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from accounts.models import Notice, OperationLog, User
from derpmgmt.history.api import Kind
from derpmgmt.history.sources import SOURCES
from derpmgmt.history.timeline import moments_of
from serials.rentals import services
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import UserFactory, WholeRentalFactory

pytestmark = [pytest.mark.django_db, pytest.mark.slow]


@pytest.fixture
def rental(db: None) -> Rental:
    rental = WholeRentalFactory()
    go_through(rental)
    return Rental.objects.get(pk=rental.pk)


def go_through(rental: Rental) -> None:
    services.pause_rental(rental=rental, by=None, reason="dispute")
    services.resume_rental(rental=rental, by=None)


def read_all(api: Api, user_id: int, page_size: int, **query: Any) -> list[dict[str, Any]]:
    """All entries, page by page."""
    found, cursor = [], ""
    while cursor is not None:
        answer = api.get(f"user/history/{user_id}", {"page_size": page_size, "cursor": cursor, **query})
        assert answer.status_code == 200, answer.content
        said = answer.json()
        assert len(said["entries"]) <= page_size
        found += said["entries"]
        cursor = said["next_cursor"]
    return found


def test_pages_have_every_line_once_and_in_the_pages_order(rental: Rental) -> None:
    moments = moments_of(rental.user, rental.user, SOURCES)
    lines = [(moment, kind) for moment, kind, _column, _pk in moments]
    assert len(lines) > 6
    assert len({kind for _at, kind in lines}) > 3
    for page_size in (1, 2, 5, 200):
        entries = read_all(Api(rental.user), rental.user_id, page_size)
        assert [(parse_datetime(entry["at"]), entry["kind"]) for entry in entries] == lines
        assert all(entry["title"] for entry in entries)


def test_lines_of_the_same_time_are_lost_by_no_page(rental: Rental) -> None:
    at = timezone.now()
    OperationLog.objects.filter(subject=rental.user).update(at=at)
    Notice.objects.filter(user=rental.user).update(created_at=at)
    go_through(rental)
    OperationLog.objects.filter(subject=rental.user).update(at=at)
    whole = read_all(Api(rental.user), rental.user_id, 200)
    assert len([entry for entry in whole if entry["kind"] == "rental"]) == 4
    for page_size in (1, 2, 3):
        assert read_all(Api(rental.user), rental.user_id, page_size) == whole


def test_what_is_new_moves_no_page(rental: Rental) -> None:
    api = Api(rental.user)
    whole = read_all(api, rental.user_id, 200)
    first = api.get(f"user/history/{rental.user_id}", {"page_size": 3}).json()
    with time_machine.travel(timezone.now() + timedelta(minutes=1)):
        go_through(rental)
    rest = read_all(api, rental.user_id, 200, cursor=first["next_cursor"])
    assert first["entries"] + rest == whole


def test_kinds_and_times_choose(rental: Rental) -> None:
    api, path = Api(rental.user), f"user/history/{rental.user_id}"
    assert list(get_args(Kind)) == list(SOURCES)
    for kind in SOURCES:
        entries = api.get(path, {"kind": kind}).json()["entries"]
        assert {entry["kind"] for entry in entries} <= {kind}
    whole = read_all(api, rental.user_id, 200)
    middle = whole[len(whole) // 2]["at"]
    newer = read_all(api, rental.user_id, 2, since=middle)
    older = read_all(api, rental.user_id, 2, until=middle)
    assert newer + older == whole
    assert newer
    assert older
    far = (timezone.now() + timedelta(days=1)).isoformat()
    assert read_all(api, rental.user_id, 2, since=far) == []
    wrong = api.get(path, {"kind": "gossip"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "kind")
    naive = api.get(path, {"since": "2026-01-01T00:00:00"})
    assert (naive.status_code, naive.json()["field"]) == (422, "since")


@pytest.mark.parametrize("cursor", ["5", "1.9.0.1", "1.0.7.1", f"1.0.0.{2**63}", "999999999999999999.0.0.1"])
def test_a_cursor_that_no_answer_gave_is_refused(rental: Rental, cursor: str) -> None:
    answer = Api(rental.user).get(f"user/history/{rental.user_id}", {"cursor": cursor})
    assert (answer.status_code, answer.json()["code"]) == (422, "wrong_cursor")


def test_only_staff_read_anothers(rental: Rental) -> None:
    assert Api(UserFactory()).get(f"user/history/{rental.user_id}").status_code == 404
    admin = Api(UserFactory(role=User.Role.ADMIN))
    said = admin.get(f"user/history/{rental.user_id}").json()
    assert said["user_id"] == rental.user_id
    assert said["entries"]
    assert admin.get("user/history/999999").status_code == 404


def test_it_costs_the_same_however_long_it_is(rental: Rental) -> None:
    api = Api(rental.user)

    def cost() -> int:
        api.get(f"user/history/{rental.user_id}")
        with CaptureQueriesContext(connection) as queries:
            api.get(f"user/history/{rental.user_id}", {"page_size": 200})
        return len(queries)

    few = cost()
    for _ in range(4):
        go_through(rental)
    assert cost() == few <= 8
