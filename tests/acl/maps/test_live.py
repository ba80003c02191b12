"""Live URLs as Headscale meets them: it does not look at the status, only at whether the body is JSON and what stands in it."""

from contextlib import ExitStack
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.utils import timezone

from acl.maps import copies, jobs, services
from acl.maps.models import AclConfig, LiveUrl
from containers.models import Relay
from serials.rentals.models import Rental
from tests.acl.reading import EMPTY, database_away, get, is_passed_over, live_folder, path_of, regions
from tests.acl.steps import set_paid
from tests.factories import RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db


# What is served


def close_ports(at: Any = None) -> None:
    """Nothing of the relays is left on their servers, since `at` or since long ago."""
    at = at or timezone.now() - timedelta(minutes=1)
    Relay.objects.exclude(status="released").update(status="released", slot=None, released_at=at)


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
    kept += [file.name + file.read_text() for file in live_folder().iterdir()]
    assert kept
    assert secret not in "".join(kept)


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
    close_ports()
    jobs.refresh_acl(rental.pk)
    answer = get(path)
    assert (answer.status_code, answer.json()) == (200, EMPTY)


@pytest.mark.parametrize(
    "end",
    [
        lambda _rental: Rental.objects.update(runs_until=timezone.now()),
        lambda _rental: Rental.objects.update(paused_at=timezone.now()),
        lambda _rental: Rental.objects.update(closed_at=timezone.now()),
    ],
    ids=["ended", "paused", "closed"],
)
@pytest.mark.parametrize("source", ["redis", "database", "disk"])
def test_regions_are_let_go_twelve_seconds_after_the_ports_closed_wherever_they_are_read(
    rental: Rental, path: str, redis_away: Any, end: Any, source: str
) -> None:
    def names_region() -> bool:
        with ExitStack() as away:
            if source != "redis":
                away.enter_context(redis_away())
            if source != "database":
                away.enter_context(database_away())
            answer = get(path)
            assert answer.status_code == 200
            return bool(answer.json()["Regions"])

    now = timezone.now()
    with time_machine.travel(now, tick=False) as clock:
        end(rental)
        jobs.refresh_acl(rental.pk)
        assert names_region()
        clock.shift(timedelta(seconds=5))
        close_ports(timezone.now())
        jobs.refresh_acl(rental.pk)
        clock.shift(timedelta(seconds=11.9))
        assert names_region()
        clock.shift(timedelta(seconds=0.1))
        assert not names_region()


def test_regions_stay_when_it_is_not_paid_and_its_relays_run(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    services.record_fetches()
    set_paid(rental, None)
    jobs.refresh_acl(rental.pk)
    assert regions(path) == {"901"}
    cache.clear()
    with time_machine.travel(timezone.now() + timedelta(minutes=5)):
        assert regions(path) == {"901"}


def test_region_of_a_relay_that_cannot_be_removed_stays_longer_than_the_others(
    rental: Rental, path: str
) -> None:
    stuck = RelayFactory(rental=rental, slot=2)
    jobs.refresh_acl(rental.pk)
    assert regions(path) == {"901", "902"}
    Rental.objects.update(runs_until=timezone.now())
    close_ports()
    Relay.objects.filter(pk=stuck.pk).update(status="removing")
    jobs.refresh_acl(rental.pk)
    assert regions(path) == {"902"}
    with time_machine.travel(timezone.now() + timedelta(days=1)):
        assert regions(path) == {"902"}


def test_map_is_back_under_the_same_address_when_the_rental_is_renewed(rental: Rental, path: str) -> None:
    before = get(path).json()
    Rental.objects.update(runs_until=timezone.now())
    close_ports()
    jobs.refresh_acl(rental.pk)
    assert get(path).json() == EMPTY
    Rental.objects.update(runs_until=timezone.now() + timedelta(days=3))
    Relay.objects.update(status="running", slot=1)
    jobs.refresh_acl(rental.pk)
    assert get(path).json() == before


def test_map_ends_on_time_when_nothing_else_runs(rental: Rental, path: str) -> None:
    Rental.objects.update(runs_until=timezone.now() + timedelta(seconds=30))
    jobs.refresh_acl(rental.pk)
    with database_away():
        assert regions(path) == {"901"}
        # A minute for the ports to close, and 12 s.
        with time_machine.travel(timezone.now() + timedelta(seconds=30 + 71)):
            assert regions(path) == {"901"}
        with time_machine.travel(timezone.now() + timedelta(seconds=30 + 73)):
            assert get(path).json() == EMPTY
        # However long the database stays away.
        with time_machine.travel(timezone.now() + timedelta(days=3)):
            assert get(path).json() == EMPTY


def test_change_is_served_at_once_when_its_job_has_run(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    RelayFactory(rental=rental, slot=2)
    jobs.refresh_acl(rental.pk)
    assert regions(path) == {"901", "902"}


def test_change_by_hand_is_served_when_the_fact_rings(
    rental: Rental, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rung: list[tuple[str, int]] = []
    monkeypatch.setattr("acl.maps.services.versions.queue.announce", lambda fact, pk: rung.append((fact, pk)))
    services.change_region_id(
        rental=rental, map_region=rental.map_regions.get(), region_id=955, by=rental.user
    )
    assert rung == [("map_changed", rental.pk)]
    jobs.publish_live(rental.pk)
    assert regions(path) == {"955"}


def test_change_is_found_within_a_minute_when_its_bell_was_lost(rental: Rental, path: str) -> None:
    assert regions(path) == {"901"}
    RelayFactory(rental=rental, slot=2)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    assert regions(path) == {"901"}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert regions(path) == {"901", "902"}


def test_old_copy_is_not_brought_back_when_a_slow_writer_comes_late(rental: Rental, path: str) -> None:
    hashed = LiveUrl.objects.get().secret_hash
    old = services.read_copy(hashed)
    assert old
    RelayFactory(rental=rental, slot=2)
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
    close_ports()
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
    RelayFactory(rental=rental, slot=2)
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
        assert services.revoke_live_url(url=LiveUrl.objects.get(), by=rental.user)
    assert not services.revoke_live_url(url=LiveUrl.objects.get(), by=rental.user)
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
        old = LiveUrl.objects.get()
        new = path_of(services.create_live_url(rental=rental, by=rental.user, instead_of=old.pk))
    assert get(path).status_code == 404
    assert regions(new) == {"901"}
    assert LiveUrl.objects.filter(revoked_at=None).count() == 1


def test_each_address_leads_to_its_own_map_when_there_are_two(rental: Rental, path: str) -> None:
    other = RentalFactory()
    pin = RelayFactory(rental=other).certificate_sha256
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
