"""Live URLs as Headscale meets them: it does not look at the status, only at whether the body is JSON and what stands in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from acl import copies, jobs, live, services
from acl.models import AclConfig, AclEvent, LiveUrl
from containers.models import Relay
from derpmgmt.lib.files import write_private
from serials.models import Rental
from tests.acl.factories import make_relay, make_rental, set_paid

pytestmark = pytest.mark.django_db

EMPTY: dict[str, Any] = {"Regions": {}}


@pytest.fixture(autouse=True)
def _fresh(settings: Any, tmp_path: Any) -> Iterator[None]:
    """Copies on disk of each test's own, and nothing remembered as away."""
    settings.VAR_DIR = tmp_path
    copies.redis_rest.end()
    copies.database_rest.end()
    yield
    copies.redis_rest.end()
    copies.database_rest.end()


@pytest.fixture
def rental() -> Rental:
    rental = make_rental(days=60)
    make_relay(rental)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


@pytest.fixture
def path(rental: Rental, django_capture_on_commit_callbacks: Any) -> str:
    with django_capture_on_commit_callbacks(execute=True):
        return path_of(services.create_live_url(rental=rental, by=rental.user))


def path_of(url: LiveUrl) -> str:
    address = services.live_address(url)
    assert address.startswith("http://testserver/live/")
    return address.removeprefix("http://testserver")


def get(path: str, **headers: str) -> Any:
    return Client().get(path, headers={"User-Agent": "headscale", **headers}, REMOTE_ADDR="198.51.100.7")


def regions(path: str) -> set[str]:
    answer = get(path)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    return set(answer.json()["Regions"])


def is_passed_over(answer: Any) -> bool:
    """Whether Headscale keeps the map it has."""
    with pytest.raises(ValueError, match=r"Expecting|Extra"):
        json.loads(answer.content)
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-store"
    return True


@contextmanager
def database_away() -> Iterator[None]:
    def refuse(*args: Any) -> Any:
        raise OperationalError("server has gone away")

    with connection.execute_wrapper(refuse):
        yield


@pytest.fixture
def redis_away(settings: Any) -> Any:
    @contextmanager
    def away() -> Iterator[None]:
        before = settings.CACHES
        settings.CACHES = {
            "default": before["default"] | {"LOCATION": "unix:///nonexistent/valkey.sock?db=1"}
        }
        yield
        settings.CACHES = before
        copies.redis_rest.end()

    return away


# What is served


def test_current_map_is_served_when_the_rental_runs(rental: Rental, path: str) -> None:
    config = services.active_config(rental)
    assert config
    answer = get(path)
    assert (answer.status_code, answer.json()) == (200, config.derp_map)
    assert answer.headers["Cache-Control"] == "private, max-age=5"
    assert not answer.cookies
    assert "Vary" not in answer.headers
    assert answer.headers["Content-Length"] == str(len(answer.content))


def test_secret_is_long_and_never_in_the_clear_when_stored(rental: Rental, path: str) -> None:
    secret = path.removeprefix("/live/").removesuffix(".json")
    assert len(secret) == 32  # 192 bits
    with connection.cursor() as cursor:
        cursor.execute("SELECT secret, secret_hash FROM acl_liveurl")
        stored = str(cursor.fetchall())
    assert secret not in stored
    get(path)
    kept = [str(key) for key in copies._redis().keys("*")]
    kept += [file.name + file.read_text() for file in (live_folder()).iterdir()]
    assert kept
    assert secret not in "".join(kept)


def live_folder() -> Any:
    from django.conf import settings

    return settings.VAR_DIR / "live"


def test_copy_on_disk_is_for_its_owner_only(path: str) -> None:
    (file,) = live_folder().iterdir()
    assert (live_folder().stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_no_query_is_asked_when_the_copy_is_young(path: str, django_assert_num_queries: Any) -> None:
    with django_assert_num_queries(0):
        assert regions(path) == {"901"}


def test_few_queries_are_asked_when_there_is_no_copy(path: str, django_assert_num_queries: Any) -> None:
    cache.clear()
    with django_assert_num_queries(3):
        assert regions(path) == {"901"}
    with django_assert_num_queries(0):
        assert regions(path) == {"901"}


@pytest.mark.parametrize(
    "end",
    [
        lambda _rental: Rental.objects.update(runs_until=timezone.now()),
        lambda _rental: Rental.objects.update(paused_at=timezone.now()),
        lambda _rental: Rental.objects.update(closed_at=timezone.now()),
        lambda _rental: Relay.objects.update(status="released", slot=None),
        lambda rental: set_paid(rental, None),
    ],
    ids=["ended", "paused", "closed", "no relay", "unpaid"],
)
def test_regions_are_empty_when_there_is_no_map_to_be_had(rental: Rental, path: str, end: Any) -> None:
    assert regions(path) == {"901"}
    end(rental)
    jobs.refresh_acl(rental.pk)
    answer = get(path)
    assert (answer.status_code, answer.json()) == (200, EMPTY)


def test_map_is_back_under_the_same_address_when_the_rental_is_renewed(rental: Rental, path: str) -> None:
    before = get(path).json()
    Rental.objects.update(runs_until=timezone.now())
    jobs.refresh_acl(rental.pk)
    assert get(path).json() == EMPTY
    Rental.objects.update(runs_until=timezone.now() + timedelta(days=3))
    jobs.refresh_acl(rental.pk)
    assert get(path).json() == before


def test_map_ends_on_time_when_nothing_else_runs(rental: Rental, path: str) -> None:
    Rental.objects.update(runs_until=timezone.now() + timedelta(seconds=30))
    jobs.refresh_acl(rental.pk)
    with database_away():
        assert regions(path) == {"901"}
        with time_machine.travel(timezone.now() + timedelta(seconds=31)):
            assert get(path).json() == EMPTY
        # However long the database stays away.
        with time_machine.travel(timezone.now() + timedelta(days=3)):
            assert get(path).json() == EMPTY


def test_change_is_served_at_once_when_its_job_has_run(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    make_relay(rental, slot=2)
    jobs.refresh_acl(rental.pk)
    assert regions(path) == {"901", "902"}


def test_change_by_hand_is_served_when_the_fact_rings(
    rental: Rental, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[tuple[str, int]] = []
    monkeypatch.setattr("acl.services.versions.queue.announce", lambda fact, pk: rung.append((fact, pk)))
    services.change_region_id(
        rental=rental, map_region=rental.map_regions.get(), region_id=955, by=rental.user
    )
    assert rung == [("map_changed", rental.pk)]
    jobs.publish_live(rental.pk)
    assert regions(path) == {"955"}


def test_change_is_found_within_a_minute_when_its_bell_was_lost(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    make_relay(rental, slot=2)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert regions(path) == {"901"}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert regions(path) == {"901", "902"}


def test_old_copy_is_not_brought_back_when_a_slow_writer_comes_late(rental: Rental, path: str) -> None:
    hashed = LiveUrl.objects.get().secret_hash
    old = services.read_copy(hashed)
    assert old
    make_relay(rental, slot=2)
    jobs.refresh_acl(rental.pk)
    copies.keep(hashed, old)
    assert regions(path) == {"901", "902"}
    assert copies.read_file(hashed) != old


def test_jobs_leave_the_same_when_doubled(rental: Rental, path: str) -> None:
    for _ in range(2):
        jobs.publish_live(rental.pk)
        jobs.refresh_acl(rental.pk)
    jobs.publish_live(4711)
    assert regions(path) == {"901"}
    assert AclConfig.objects.count() == 1


def test_copy_is_written_when_the_version_could_not_be_made(
    rental: Rental, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(**_: Any) -> None:
        raise RuntimeError

    monkeypatch.setattr(services, "refresh_map", die)
    Rental.objects.update(paused_at=timezone.now())
    with pytest.raises(RuntimeError):
        jobs.refresh_acl(rental.pk)
    assert get(path).json() == EMPTY


def test_lapsed_version_is_not_served_when_nothing_made_the_next(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    with time_machine.travel(timezone.now() + timedelta(days=32, seconds=1)):
        answer = get(path)
        assert answer.status_code == 503
        assert is_passed_over(answer)
        jobs.sweep_maps()
        assert regions(path) == {"901"}


# ETag


def test_nothing_is_sent_again_when_the_reader_has_it(rental: Rental, path: str) -> None:
    etag = get(path).headers["ETag"]
    for known in (etag, f'"x", {etag}', f"W/{etag}", "*"):
        answer = get(path, If_None_Match=known)
        assert (answer.status_code, answer.content, answer.headers["ETag"]) == (304, b"", etag)
    assert get(path, If_None_Match='"other"').status_code == 200
    make_relay(rental, slot=2)
    jobs.refresh_acl(rental.pk)
    answer = get(path, If_None_Match=etag)
    assert answer.status_code == 200
    assert answer.headers["ETag"] != etag


def test_head_has_no_body_when_asked(path: str) -> None:
    answer = Client().head(path)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["Content-Length"] == str(len(get(path).content))


# What is refused


@pytest.mark.parametrize(
    "name", ["x", "A" * 32, "A" * 32 + ".json/", "../../etc/passwd", "A" * 32 + ".yaml", ""]
)
def test_unknown_address_is_plain_text_when_asked(path: str, name: str) -> None:
    answer = get(f"/live/{name}" if "." in name else f"/live/{name}.json")
    assert answer.status_code == 404
    assert is_passed_over(answer)


def test_only_reading_is_answered_when_others_are_tried(path: str) -> None:
    answer = Client(enforce_csrf_checks=True).post(path)
    assert answer.status_code == 405
    assert is_passed_over(answer)


def test_address_is_dead_at_once_when_revoked(
    rental: Rental, path: str, django_capture_on_commit_callbacks: Any
) -> None:
    assert regions(path) == {"901"}
    with django_capture_on_commit_callbacks(execute=True):
        assert services.revoke_live_url(rental=rental, by=rental.user)
    assert not services.revoke_live_url(rental=rental, by=rental.user)
    answer = get(path)
    assert answer.status_code == 404
    assert is_passed_over(answer)
    with database_away():
        assert get(path).status_code == 404
    cache.clear()
    assert get(path).status_code == 404


def test_old_address_is_dead_when_replaced(
    rental: Rental, path: str, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        new = path_of(services.create_live_url(rental=rental, by=rental.user))
    assert get(path).status_code == 404
    assert regions(new) == {"901"}
    assert LiveUrl.objects.filter(revoked_at=None).count() == 1


def test_each_address_leads_to_its_own_map_when_there_are_two(rental: Rental, path: str) -> None:
    other = make_rental()
    pin = make_relay(other).certificate_sha256
    services.refresh_map(rental=other, reason=services.RELAYS_CHANGED)
    theirs = path_of(services.create_live_url(rental=other, by=other.user))
    assert pin in get(theirs).text
    assert pin not in get(path).text


def test_limit_is_plain_text_when_one_address_is_asked_too_often(path: str) -> None:
    moment = timezone.now().replace(second=5)
    with time_machine.travel(moment, tick=False):
        statuses = [get(path).status_code for _ in range(copies.PER_URL + 1)]
        assert statuses == [200] * copies.PER_URL + [429]
        answer = get(path)
        assert is_passed_over(answer)
        assert answer.headers["Retry-After"] == "55"
    with time_machine.travel(moment + timedelta(minutes=1), tick=False):
        assert get(path).status_code == 200


def test_guessing_is_limited_when_one_network_tries(
    path: str, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Any
) -> None:
    monkeypatch.setattr(copies, "PER_ADDRESS", 5)
    with time_machine.travel(timezone.now().replace(second=5), tick=False):
        for number in range(5):
            assert get(f"/live/{number:032}.json").status_code == 404
        with django_assert_num_queries(0):
            assert get("/live/" + "z" * 32 + ".json").status_code == 429
        assert Client().get(path, REMOTE_ADDR="203.0.113.9").status_code == 200


def test_error_is_plain_text_when_there_is_a_bug(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(copies, "glance", fail)
    answer = get(path)
    assert answer.status_code == 503
    assert is_passed_over(answer)
    assert path not in answer.text


# Things that are away


def test_copy_is_served_when_the_database_is_away(path: str) -> None:
    body = get(path).content
    with database_away(), time_machine.travel(timezone.now() + timedelta(days=2)):
        copies.database_rest.end()
        assert get(path).content == body
        assert get(path).content == body


def test_database_is_left_alone_for_a_while_when_it_was_away(path: str) -> None:
    tries = 0

    def refuse(*args: Any) -> Any:
        nonlocal tries
        tries += 1
        raise OperationalError

    with connection.execute_wrapper(refuse), time_machine.travel(timezone.now() + timedelta(days=1)):
        for _ in range(5):
            assert get(path).status_code == 200
    assert tries == 1


def test_others_are_served_when_one_request_hangs_at_the_database(
    path: str, django_assert_num_queries: Any
) -> None:
    with live._reading, time_machine.travel(timezone.now() + timedelta(days=1)), django_assert_num_queries(0):
        assert regions(path) == {"901"}


def test_database_answers_when_redis_is_away(rental: Rental, path: str, redis_away: Any) -> None:
    with redis_away():
        assert regions(path) == {"901"}
        Rental.objects.update(paused_at=timezone.now())
        assert get(path).json() == EMPTY
        assert get("/live/" + "A" * 32 + ".json").status_code == 404


def test_copy_on_disk_is_served_when_both_are_away(rental: Rental, path: str, redis_away: Any) -> None:
    make_relay(rental, slot=2)
    jobs.refresh_acl(rental.pk)
    with redis_away(), database_away():
        assert regions(path) == {"901", "902"}
        with time_machine.travel(timezone.now() + timedelta(days=61)):
            assert get(path).json() == EMPTY


def test_failure_is_plain_text_when_nobody_knows(path: str, redis_away: Any) -> None:
    with redis_away(), database_away():
        answer = get("/live/" + "A" * 32 + ".json")
        assert answer.status_code == 503
        assert is_passed_over(answer)
    hashed = LiveUrl.objects.get().secret_hash
    write_private(live_folder() / f"{hashed}.json", "{half")
    cache.clear()
    with database_away():
        assert is_passed_over(get(path))


def test_newest_copy_wins_when_redis_comes_back_with_an_old_one(
    rental: Rental, path: str, redis_away: Any
) -> None:
    assert regions(path) == {"901"}
    with redis_away():
        make_relay(rental, slot=2)
        jobs.refresh_acl(rental.pk)
        assert regions(path) == {"901", "902"}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert regions(path) == {"901", "902"}


# The log


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
    written = services.live_urls._write

    def write(lines: Any) -> None:
        written(lines)
        get(path)

    with monkeypatch.context() as patch:
        patch.setattr(services.live_urls, "_write", write)
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
