"""Live URLs while the database, Redis or both are away: they are the most available thing of the panel."""

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.core.cache import cache
from django.db import OperationalError, connection
from django.utils import timezone

from acl.maps import copies, jobs, live
from acl.maps.models import LiveUrl
from containers.models import Relay
from derpmgmt.lib.files import write_private
from serials.rentals.models import Rental
from tests.acl.reading import EMPTY, database_away, get, is_passed_over, live_folder, regions
from tests.factories import RelayFactory

pytestmark = pytest.mark.django_db


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
        Relay.objects.update(status="released", slot=None)
        assert get(path).json() == EMPTY
        assert get("/live/" + "A" * 32 + ".json").status_code == 404


def test_copy_on_disk_is_served_when_both_are_away(rental: Rental, path: str, redis_away: Any) -> None:
    RelayFactory(rental=rental, slot=2)
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
        RelayFactory(rental=rental, slot=2)
        jobs.refresh_acl(rental.pk)
        assert regions(path) == {"901", "902"}
    with time_machine.travel(timezone.now() + timedelta(seconds=61)):
        assert regions(path) == {"901", "902"}
