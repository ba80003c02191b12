"""Copies of what live URLs answer: none outlives its URL, and that of an ended rental names no region."""

import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import time_machine
from django.db import OperationalError, connection
from django.test import Client
from django.utils import timezone

from accounts import services as accounts
from acl.maps import copies, derpmap, jobs, services
from acl.maps.models import LiveUrl
from acl.maps.services.regions import LETS_GO_AFTER
from containers.models import Relay
from derpmgmt import flow
from serials.rentals.models import Rental
from serials.rentals.services import close_rental
from tests.factories import RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db

EMPTY = derpmap.to_json(derpmap.EMPTY_MAP)


@pytest.fixture(autouse=True)
def folder(settings: Any, tmp_path: Path) -> Iterator[Path]:
    """Where the copies of this test lie; nothing is remembered as away."""
    settings.VAR_DIR = tmp_path
    for rest in (copies.redis_rest, copies.database_rest):
        rest.end()
    yield tmp_path / "live"
    for rest in (copies.redis_rest, copies.database_rest):
        rest.end()


@pytest.fixture
def rental() -> Rental:
    rental = RentalFactory(days=60)
    RelayFactory(rental=rental)
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    return rental


@pytest.fixture
def url(rental: Rental, django_capture_on_commit_callbacks: Any) -> LiveUrl:
    with django_capture_on_commit_callbacks(execute=True):
        return services.create_live_url(rental=rental, by=rental.user)


def ask(url: LiveUrl) -> Any:
    return Client().get(services.live_address(url).removeprefix("http://testserver"))


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def read(url: LiveUrl) -> copies.Copy:
    """The copy on disk."""
    copy = copies.read_file(url.secret_hash)
    assert copy
    return copy


def in_redis() -> list[str]:
    return sorted(copies._redis().keys("live:copy:*"))


def take_redis_away(settings: Any) -> None:
    lost = settings.CACHES["default"] | {"LOCATION": "unix:///nonexistent/valkey.sock?db=1"}
    settings.CACHES = {"default": lost}


def refuse(*args: Any) -> Any:
    raise OperationalError("server has gone away")


def test_copy_is_gone_at_once_when_the_url_is_revoked(
    rental: Rental, url: LiveUrl, folder: Path, django_capture_on_commit_callbacks: Any
) -> None:
    assert files(folder) == [f"{url.secret_hash}.json"]
    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_live_url(url=url, by=rental.user)
    assert files(folder) == []
    assert ask(url).status_code == 404
    assert files(folder) == [], "asking brings it back"


def test_copy_is_gone_when_the_rental_is_closed(rental: Rental, url: LiveUrl, folder: Path) -> None:
    accounts.close_account(user=rental.user, by=None)
    close_rental(rental=rental, by=None)
    Relay.objects.update(status="released", slot=None, released_at=timezone.now() - LETS_GO_AFTER)
    for job in (jobs.destroy_maps, *flow.JOBS["map_changed"]):
        job(rental.user_id if job is jobs.destroy_maps else rental.pk)
    assert files(folder) == []
    assert ask(url).text == EMPTY
    assert files(folder) == []
    with connection.execute_wrapper(refuse):
        assert ask(url).text == EMPTY


@pytest.mark.parametrize("end", ["revoked", "closed", "unknown"])
def test_copies_are_gone_with_the_sweep_when_the_process_died(
    rental: Rental, url: LiveUrl, folder: Path, end: str
) -> None:
    if end == "revoked":
        services.revoke_live_url(url=url, by=rental.user)
    elif end == "closed":
        Rental.objects.update(closed_at=timezone.now())
    else:
        LiveUrl.objects.all().delete()
    assert files(folder)
    assert in_redis()
    for _ in range(2):
        jobs.clean_copies()
        assert (files(folder), in_redis()) == ([], [])
    copies.redis_rest.end()
    with connection.execute_wrapper(refuse):
        answer = ask(url)
    assert (answer.status_code, answer.headers["Content-Type"]) == (503, "text/plain; charset=utf-8")


def test_copy_in_redis_is_gone_with_the_sweep_when_redis_was_away_at_the_revocation(
    rental: Rental, url: LiveUrl, settings: Any, folder: Path, django_capture_on_commit_callbacks: Any
) -> None:
    before = settings.CACHES
    take_redis_away(settings)
    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_live_url(url=url, by=rental.user)
    assert files(folder) == []
    jobs.clean_copies()  # finds no Redis either
    settings.CACHES = before
    copies.redis_rest.end()
    assert in_redis()
    jobs.clean_copies()
    assert in_redis() == []


def test_copy_of_a_slow_writer_is_gone_with_the_sweep(rental: Rental, url: LiveUrl, folder: Path) -> None:
    old = services.read_copy(url.secret_hash)
    assert old
    services.revoke_live_url(url=url, by=rental.user)
    jobs.clean_copies()
    copies.keep(url.secret_hash, old)
    assert files(folder)
    jobs.clean_copies()
    assert (files(folder), in_redis()) == ([], [])


def test_copy_names_no_region_when_the_rental_has_ended(rental: Rental, url: LiveUrl) -> None:
    kept = copies.read_file(url.secret_hash)
    assert kept
    assert kept.body != EMPTY
    Rental.objects.update(runs_until=timezone.now())
    Relay.objects.update(status="released", slot=None, released_at=timezone.now() - LETS_GO_AFTER)
    jobs.clean_copies()  # the bell for it was lost
    kept = copies.read_file(url.secret_hash)
    assert kept
    assert kept.body == EMPTY
    Rental.objects.update(runs_until=timezone.now() + timedelta(days=3))
    Relay.objects.update(status="running", slot=1)
    jobs.refresh_acl(rental.pk)
    jobs.clean_copies()
    kept = copies.read_file(url.secret_hash)
    assert kept
    assert kept.body != EMPTY


def test_copies_in_use_stay_and_half_written_ones_go_when_swept(
    url: LiveUrl, folder: Path, django_assert_num_queries: Any
) -> None:
    young, old = folder / ".x.json.1.1", folder / ".y.json.1.2"
    for file in (young, old):
        file.write_text("{")
    yesterday = timezone.now().timestamp() - 86400
    os.utime(old, (yesterday, yesterday))
    before = in_redis()
    with django_assert_num_queries(1):
        jobs.clean_copies()
    assert files(folder) == [young.name, f"{url.secret_hash}.json"]
    assert in_redis() == before


def test_nothing_happens_when_there_are_no_copies(folder: Path, django_assert_num_queries: Any) -> None:
    assert not folder.exists()
    with django_assert_num_queries(0):
        jobs.clean_copies()


def test_the_clock_rings_for_it_every_hour() -> None:
    assert [tick.seconds for tick in flow.CRON if tick.job is jobs.clean_copies] == [3600]


def test_newer_copy_is_kept_when_the_clock_was_wrong_and_is_set_back(
    rental: Rental, url: LiveUrl, folder: Path, django_assert_num_queries: Any
) -> None:
    with time_machine.travel(timezone.now() + timedelta(days=30)):
        jobs.publish_live(rental.pk)
    assert read(url).read_at > timezone.now().timestamp()
    RelayFactory(rental=rental, slot=2)
    jobs.refresh_acl(rental.pk)
    assert read(url).read_at <= timezone.now().timestamp()
    assert set(ask(url).json()["Regions"]) == {"901", "902"}
    with django_assert_num_queries(0):
        assert ask(url).status_code == 200


def test_copy_is_gone_at_once_when_the_url_is_revoked_after_a_wrong_clock(
    rental: Rental, url: LiveUrl, folder: Path, django_capture_on_commit_callbacks: Any
) -> None:
    with time_machine.travel(timezone.now() + timedelta(days=30)):
        jobs.publish_live(rental.pk)
    with django_capture_on_commit_callbacks(execute=True):
        services.revoke_live_url(url=url, by=rental.user)
    assert files(folder) == []
    with connection.execute_wrapper(refuse):
        assert ask(url).status_code == 404


def test_file_is_gone_when_redis_knows_of_the_revocation_already(
    rental: Rental, url: LiveUrl, folder: Path
) -> None:
    services.revoke_live_url(url=url, by=rental.user)
    revoked = services.read_copy(url.secret_hash)
    assert revoked
    copies.keep(url.secret_hash, replace(revoked, read_at=timezone.now().timestamp()))
    (folder / f"{url.secret_hash}.json").write_text("{}")
    copies.keep(url.secret_hash, revoked)
    assert files(folder) == []
