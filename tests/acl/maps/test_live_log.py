"""Who fetched a live URL: one line for each reader, version and day, never lost, never much."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from acl.maps import copies, jobs
from acl.maps.models import AclEvent, LiveUrl
from acl.maps.services import live_urls
from serials.rentals.models import Rental
from tests.acl.reading import get, regions

pytestmark = pytest.mark.django_db


def fetched() -> list[tuple[Any, ...]]:
    rows = AclEvent.objects.filter(kind="fetched").order_by("pk")
    return list(rows.values_list("version", "ip", "browser", "count"))


def test_fetches_are_one_line_a_day_when_one_reader_polls(rental: Rental, path: str) -> None:
    for _ in range(3):
        get(path)
    get(path, If_None_Match="*")
    Client().get(path, REMOTE_ADDR="203.0.113.9", headers={"User-Agent": "curl\x00\n/8"})
    assert fetched() == []
    jobs.record_fetches()
    assert sorted(fetched()) == [(1, "198.51.100.7", "headscale", 4), (1, "203.0.113.9", "curl /8", 1)]
    url = LiveUrl.objects.get()
    assert (url.last_ip, url.last_browser) == ("203.0.113.9", "curl /8")
    get(path)
    jobs.record_fetches()
    assert min(fetched())[3] == 5
    url.refresh_from_db()
    assert url.last_ip == "198.51.100.7"
    with time_machine.travel(timezone.now() + timedelta(days=1)):
        get(path)
        jobs.record_fetches()
    assert sorted(row[3] for row in fetched()) == [1, 1, 5]


def test_log_says_the_same_when_the_job_is_killed_or_doubled(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(path)
    get(path)
    with monkeypatch.context() as patch:

        def die(until: float) -> None:
            raise SystemExit

        patch.setattr(copies, "forget_fetches", die)
        with pytest.raises(SystemExit):
            jobs.record_fetches()
    jobs.record_fetches()
    jobs.record_fetches()
    assert fetched() == [(1, "198.51.100.7", "headscale", 2)]
    assert copies._redis().zcard("live:fetched") == 0


def test_fetch_is_not_lost_when_it_comes_while_the_log_is_written(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    get(path)
    written = live_urls._write

    def write(lines: Any) -> None:
        written(lines)
        get(path)

    with monkeypatch.context() as patch:
        patch.setattr(live_urls, "_write", write)
        jobs.record_fetches()
    jobs.record_fetches()
    assert fetched()[0][3] == 2


def test_log_stays_short_when_a_reader_has_a_thousand_names(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LINES_A_DAY", 3)
    for number in range(9):
        get(path, User_Agent=f"reader {number}")
    jobs.record_fetches()
    assert len(fetched()) == 4
    assert fetched()[-1] == (1, None, "", 6)


def test_known_reader_keeps_his_name_when_the_day_has_all_its_lines(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "LINES_A_DAY", 3)
    for number in (0, 1, 2, 3, 1):
        get(path, User_Agent=f"reader {number}")
    jobs.record_fetches()
    assert sorted(row[2:] for row in fetched()) == [
        ("", 1),
        ("reader 0", 1),
        ("reader 1", 2),
        ("reader 2", 1),
    ]
    assert LiveUrl.objects.get().last_browser == "reader 1"


def test_fetches_are_served_but_not_logged_when_the_log_is_full(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copies, "_LONGEST_LOG", 0)
    assert regions(path) == {"901"}
    jobs.record_fetches()
    assert fetched() == []


def test_nothing_happens_when_the_log_is_empty_or_redis_away(
    redis_away: Any, django_assert_num_queries: Any
) -> None:
    with django_assert_num_queries(0):
        jobs.record_fetches()
        with redis_away():
            jobs.record_fetches()


def test_log_costs_the_same_when_many_fetched(path: str, django_assert_max_num_queries: Any) -> None:
    for number in range(20):
        get(path, User_Agent=f"reader {number}")
    with django_assert_max_num_queries(8):
        jobs.record_fetches()
    for number in range(20):
        get(path, User_Agent=f"reader {number}")
    with django_assert_max_num_queries(8):
        jobs.record_fetches()
    assert [row[3] for row in fetched()] == [2] * 20
