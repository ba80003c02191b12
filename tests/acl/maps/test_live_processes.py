"""A change is answered at the next request, whichever process made it and whichever is asked: they share Redis and the database."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import django_rq
import pytest
from django.core.cache import cache
from django.db import connection
from django.utils import timezone
from rq import SimpleWorker

from acl.maps import jobs, services
from acl.maps.models import LiveUrl
from acl.maps.services.regions import LETS_GO_AFTER
from containers.models import Relay
from derpmgmt.lib import queue
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental, renew_rental
from tests.acl.reading import get, path_of
from tests.factories import RelayFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

ROOT = Path(__file__).parents[3]
# Answers each path by a line with status and body; its copies on disk are its own.
OTHER = """
import json, os, pathlib, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "derpmgmt.settings"
import django
from django.conf import settings
settings.VAR_DIR = pathlib.Path(sys.argv[2])
django.setup()
from django.db import connection
connection.settings_dict["NAME"] = sys.argv[1]
from tests.acl.reading import get
for line in sys.stdin:
    answer = get(line.strip())
    print(json.dumps([answer.status_code, answer.text]), flush=True)
"""
Ask = Callable[[str], tuple[int, set[str]]]


def _read(status: int, body: str) -> tuple[int, set[str]]:
    return status, set(json.loads(body)["Regions"]) if status == 200 else set()


@pytest.fixture(scope="module")
def other(django_db_setup: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Another process of the panel."""
    name, folder = str(connection.settings_dict["NAME"]), str(tmp_path_factory.mktemp("other"))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, name, folder],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        asks, answers = process.stdin, process.stdout
        assert asks
        assert answers

        def ask(path: str) -> tuple[int, set[str]]:
            print(path, file=asks, flush=True)
            return _read(*json.loads(answers.readline()))

        yield ask
        asks.close()


@pytest.fixture
def ask(other: Ask) -> Ask:
    """What both processes answer, which must be the same."""

    def ask_both(path: str) -> tuple[int, set[str]]:
        there, answer = other(path), get(path)
        assert _read(answer.status_code, answer.text) == there
        return there

    return ask_both


@pytest.fixture
def url(ask: Ask, rental: Rental) -> LiveUrl:
    """A live URL of which both processes have a copy that is young."""
    url = services.create_live_url(rental=rental, by=rental.user)
    cache.clear()
    assert ask(path_of(url)) == (200, {"901"})
    assert ask(path_of(url)) == (200, {"901"})
    return url


def work() -> None:
    """Do what has been rung for, except what would reach out to servers."""
    worker = SimpleWorker([django_rq.get_queue("default")], connection=django_rq.get_connection("default"))
    worker.work(burst=True, logging_level="ERROR")


def test_both_have_the_new_version_when_relays_changed(rental: Rental, url: LiveUrl, ask: Ask) -> None:
    RelayFactory(rental=rental, slot=2)
    queue.announce("rental_relays_changed", rental.pk)
    work()
    assert ask(path_of(url)) == (200, {"901", "902"})


def test_both_have_the_new_version_when_a_person_made_it(rental: Rental, url: LiveUrl, ask: Ask) -> None:
    region = rental.map_regions.get()
    services.change_region_id(rental=rental, map_region=region, region_id=955, by=rental.user)
    work()
    assert ask(path_of(url)) == (200, {"955"})


def test_both_have_no_regions_when_the_rental_is_paused(rental: Rental, url: LiveUrl, ask: Ask) -> None:
    pause_rental(rental=rental, by=None)
    Relay.objects.update(status="released", slot=None)
    work()
    assert ask(path_of(url)) == (200, set())


def test_both_end_with_the_rental_when_nothing_runs_and_go_on_when_it_is_renewed(
    rental: Rental, url: LiveUrl, ask: Ask
) -> None:
    end = timezone.now() + timedelta(seconds=2)
    # Its regions are let go two seconds from now.
    closed_at = end - LETS_GO_AFTER
    Rental.objects.update(ends_at=closed_at, runs_until=closed_at)
    RentalSpan.objects.update(ends_at=closed_at)
    Relay.objects.update(status="released", slot=None, released_at=closed_at)
    jobs.refresh_acl(rental.pk)
    assert ask(path_of(url)) == (200, {"901"})
    # The copy knows its end: nobody rings, sweeps or publishes.
    time.sleep(max(0.0, (end - timezone.now()).total_seconds()))
    assert ask(path_of(url)) == (200, set())
    Relay.objects.update(status="running", slot=1)
    renew_rental(rental=rental, until=timezone.now() + timedelta(days=3), by=None)
    work()
    assert ask(path_of(url)) == (200, {"901"})


def test_the_address_is_dead_in_both_at_once_when_it_is_revoked(
    rental: Rental, url: LiveUrl, ask: Ask
) -> None:
    path = path_of(url)
    # No worker runs: the process that revokes says so itself.
    assert services.revoke_live_url(url=url, by=rental.user)
    assert ask(path)[0] == 404
    cache.clear()
    assert ask(path)[0] == 404


def test_both_know_the_new_address_alone_when_it_is_replaced(rental: Rental, url: LiveUrl, ask: Ask) -> None:
    path = path_of(url)
    new = services.create_live_url(rental=rental, by=rental.user, instead_of=url.pk)
    assert ask(path)[0] == 404
    assert ask(path_of(new)) == (200, {"901"})
