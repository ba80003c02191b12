"""How many rows strangers make, whatever they do: some a minute, the rest counted together, and only so many are kept."""

import random
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.db import OperationalError
from django.db.models import Sum
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from acl.devices import admission_writer, jobs
from acl.devices.models import Admission
from acl.devices.networks import network_of
from acl.devices.services import admission_rows, pace
from acl.devices.services.pace import Asked, Pace
from containers.models import Relay
from derpmgmt.admin_site import PanelAdminSite
from serials.rentals.models import Rental
from tests.acl.device_world import browser as browser
from tests.acl.device_world import relay as relay
from tests.acl.device_world import rental as rental
from tests.acl.device_world import show, words
from tests.factories import RentalFactory, UserFactory

pytestmark = pytest.mark.django_db(transaction=True)


def asked(
    number: int, at: datetime, ip: str | None = "203.0.113.66", rental: int = 1, **fields: Any
) -> Asked:
    values: dict[str, Any] = {"is_allowed": False, "reason": "unknown", "relay": 1}
    return Asked(node_key=f"{number:064x}", ip=ip, rental=rental, at=at, **(values | fields))


def noon() -> datetime:
    return timezone.now().replace(minute=0, second=5, microsecond=0)


def record(questions: list[Asked]) -> None:
    for one in questions:
        admission_writer.record(one)
    admission_writer.flush()


def test_one_address_makes_some_rows_a_minute_however_often_it_knocks(
    rental: Rental, relay: Relay, browser: Client
) -> None:
    """4,300 made-up keys within 20 seconds, at all that the customer has."""
    start = noon()
    for second in range(20):
        at = start + timedelta(seconds=second)
        record([asked(second * 215 + n, at, rental=rental.pk, relay=relay.pk) for n in range(215)])
    rows = Admission.objects.all()
    assert rows.count() == pace.ROWS_PER_NETWORK + 1
    assert rows.aggregate(all=Sum("count"))["all"] == 4300
    counted = rows.get(node_key="")
    assert (counted.count, counted.ip, counted.at) == (4280, "203.0.113.66", start.replace(second=0))
    text = words(show(browser, "acl:admission-list"))
    assert "several, counted together refused unknown device 203.0.113.66" in text
    assert "4280 ×" in text
    record([asked(9999, start + timedelta(minutes=1), rental=rental.pk, relay=relay.pk)])
    assert rows.count() == pace.ROWS_PER_NETWORK + 2


@pytest.mark.parametrize("network", ["198.51.100.{}", "2001:db8:{:x}::1", "2001:db8::{:x}"])
def test_many_addresses_make_no_more_than_a_rental_may_have(
    rental: Rental, relay: Relay, network: str
) -> None:
    at = noon()
    for batch in range(4):
        numbers = range(250 * batch, 250 * batch + 250)
        record(
            [
                asked(
                    n, at, network.format(n % 250 if "198" in network else n + 1), rental.pk, relay=relay.pk
                )
                for n in numbers
            ]
        )
    rows = Admission.objects.all()
    assert rows.aggregate(all=Sum("count"))["all"] == 1000
    is_one_network = network == "2001:db8::{:x}"
    most = pace.ROWS_PER_NETWORK + 1 if is_one_network else pace.ROWS_PER_RENTAL + pace.COUNTS_PER_RENTAL + 1
    assert rows.count() == most
    assert rows.filter(node_key="", ip=None).count() == (not is_one_network)
    if is_one_network:
        assert rows.get(node_key="").ip == "2001:db8::"


def test_strangers_take_nothing_from_devices_that_are_let_in(rental: Rental, relay: Relay) -> None:
    at = noon()
    record([asked(n, at, rental=rental.pk, relay=relay.pk) for n in range(500)])
    mine = [
        asked(n, at, rental=rental.pk, relay=relay.pk, is_allowed=True, reason="approved") for n in range(10)
    ]
    record(mine)
    assert Admission.objects.filter(is_allowed=True).exclude(node_key="").count() == 10


def test_strangers_take_nothing_from_devices_of_anybody() -> None:
    """However many customers they knock at, so that all rows that there are for strangers are taken."""
    sorting, at = Pace(), noon()
    knocks = [
        asked(n, at, f"198.51.100.{n % 250}", rental=n % 100) for n in range(100 * (pace.ROWS_PER_RENTAL + 1))
    ]
    assert len(sorting.sort(knocks)[0]) == pace.ROWS_IN_ALL
    mine = [asked(n, at, rental=1, is_allowed=True, reason="approved") for n in range(10)]
    assert sorting.sort(mine) == (mine, [], 0)


def test_what_fails_on_its_way_is_counted_once(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_asked: object) -> None:
        raise OperationalError("deadlock")

    questions = [asked(n, noon(), rental=rental.pk, relay=relay.pk) for n in range(100)]
    with monkeypatch.context() as patch:
        patch.setattr(admission_rows, "_note_waiting", fail)
        record(questions)
        assert not Admission.objects.exists()
    admission_writer.flush()
    assert Admission.objects.aggregate(all=Sum("count"))["all"] == 100


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_the_bounds_hold_for_any_mix(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(seed)
    monkeypatch.setattr(pace, "ROWS_IN_ALL", chance.choice([50, 3000]))
    monkeypatch.setattr(pace, "COUNTS_IN_ALL", chance.choice([10, 2000]))
    addresses = [
        lambda: f"198.51.100.{chance.randrange(256)}",
        lambda: f"2001:db8::{chance.randrange(1, 9999):x}",
        lambda: f"2001:db8:{chance.randrange(9999):x}::1",
        lambda: "203.0.113.66",
        lambda: None,
    ]
    rentals = chance.choice([1, 3, 300])
    minutes: dict[datetime, list[Any]] = {}
    sorting, start, total, lost = Pace(), noon(), 0, 0
    for batch in range(40):
        at = start + timedelta(seconds=4 * batch)
        questions = [
            asked(
                chance.randrange(10**6),
                at,
                chance.choice(addresses)(),
                chance.randrange(rentals),
                is_allowed=chance.random() < 0.3,
                reason=chance.choice(["unknown", "full", "revoked"]),
                count=chance.randrange(1, 4),
            )
            for _ in range(100)
        ]
        rows, counts, dropped = sorting.sort(questions)
        written = sum(one.count for one in (*rows, *counts)) + dropped
        assert written == sum(one.count for one in questions)
        lost += dropped
        total += written
        minute = at.replace(second=0)
        minutes.setdefault(minute, []).extend(rows)
        minutes[minute] += [(one.rental, one.is_allowed, one.reason, one.ip) for one in counts]
    for found in minutes.values():
        rows = [one for one in found if isinstance(one, Asked)]
        counts = {one for one in found if not isinstance(one, Asked)}
        assert len(rows) <= 2 * pace.ROWS_IN_ALL
        assert len(counts) <= pace.COUNTS_IN_ALL
        for owner in range(rentals):
            mine = [one for one in rows if one.rental == owner]
            assert len(mine) <= 2 * pace.ROWS_PER_RENTAL
            # A row for each network while these are few, and one for each answer.
            assert len([one for one in counts if one[0] == owner]) <= pace.COUNTS_PER_RENTAL + 6
            for network in {network_of(one.ip) for one in mine}:
                for is_allowed in (True, False):
                    same = [
                        one for one in mine if network_of(one.ip) == network and one.is_allowed == is_allowed
                    ]
                    assert len(same) <= pace.ROWS_PER_NETWORK
    assert total
    assert not lost or pace.COUNTS_IN_ALL == 10


# What is kept


def fill(rental: Rental, relay: Relay, count: int, **fields: Any) -> None:
    now = timezone.now()
    Admission.objects.bulk_create(
        Admission(rental=rental, relay=relay, node_key=f"{n:064x}", is_allowed=False, reason="unknown", at=now - timedelta(seconds=n), **fields)
        for n in range(count)
    )  # fmt: skip


def test_a_rental_keeps_its_newest_rows_and_takes_none_from_others(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_rows, "MOST_OF_RENTAL", 30)
    monkeypatch.setattr(admission_rows, "_DELETE_AT_ONCE", 20)
    quiet = RentalFactory(days=60)
    fill(quiet, relay, 10)
    fill(rental, relay, 100)
    jobs.tidy_devices()
    kept = Admission.objects.filter(rental=rental).order_by("-at")
    assert [row.node_key for row in kept] == [f"{n:064x}" for n in range(30)]
    assert Admission.objects.filter(rental=quiet).count() == 10


def test_in_all_so_many_are_kept(rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission_rows, "MOST_IN_ALL", 50)
    monkeypatch.setattr(admission_rows, "_DELETE_AT_ONCE", 7)
    for _ in range(8):
        fill(RentalFactory(days=60), relay, 20)
    jobs.tidy_devices()
    assert Admission.objects.count() == 50
    oldest = Admission.objects.order_by("at").values_list("node_key", flat=True)[0]
    assert int(oldest, 16) < 10
    # The other end: nothing goes that may stay, though numbers were skipped.
    Admission.objects.filter(pk__lt=Admission.objects.order_by("-pk")[20].pk).exclude(
        pk=Admission.objects.order_by("pk")[0].pk
    ).delete()
    left = Admission.objects.count()
    jobs.tidy_devices()
    assert Admission.objects.count() == left


@pytest.mark.slow
def test_tidying_keeps_pace_with_a_flood(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A minute's rows that one process can write are gone within one tidying."""
    monkeypatch.setattr(admission_rows, "MOST_OF_RENTAL", 100)
    fill(rental, relay, 2 * pace.ROWS_IN_ALL + pace.COUNTS_IN_ALL)
    jobs.tidy_devices()
    assert Admission.objects.count() == 100


def test_staff_sees_that_rows_were_counted_together(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PanelAdminSite, "has_permission", lambda _site, request: request.user.is_staff)
    record([asked(n, noon(), rental=rental.pk, relay=relay.pk) for n in range(50)])
    staff = Client()
    staff.force_login(UserFactory(email="boss@example.com", role="superadmin", language="en"))
    assert (
        "several, counted together" in staff.get(reverse("admin:acl_admission_changelist")).content.decode()
    )
