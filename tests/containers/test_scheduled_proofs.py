"""Every relay is proven on a schedule: evenly, soon again where it fails, once however often the clock rings."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone, translation

from containers.proof_times import next_proof
from containers.ticks import TICKS, relay_days, server_day
from tests.containers.test_outages import test_relay
from tests.factories import RelayHealthFactory

if TYPE_CHECKING:
    from containers.models import Relay
    from serials.rentals.models import Rental

MINUTE = timedelta(minutes=1)
NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


def test_a_fleets_tests_are_spread_evenly_over_the_interval() -> None:
    """10,000 relays that were all tested at the same moment, as after a pause of the panel."""
    due = [next_proof(pk, NOW, None) for pk in range(1, 10_001)]
    assert min(due) >= NOW + 7 * MINUTE
    assert max(due) <= NOW + 23 * MINUTE
    a_minute = Counter(int((moment - NOW) / MINUTE) for moment in due)
    assert max(a_minute.values()) <= 670  # 15 minutes, 667 each


def test_a_relays_moment_stays_its_own_whenever_it_is_tested_in_between() -> None:
    regular = next_proof(7, NOW, None)
    assert next_proof(7, regular, None) == regular + 15 * MINUTE
    for minutes in (1, 4, 7):
        off = (next_proof(7, regular + minutes * MINUTE, None) - regular) / (15 * MINUTE)
        assert abs(off - round(off)) < 1e-6


def test_a_relay_that_fails_is_tested_again_soon_and_then_less_and_less_often() -> None:
    moments = [NOW]
    while moments[-1] < NOW + timedelta(hours=1):
        moments.append(next_proof(7, moments[-1], NOW))
    pauses = [later - earlier for earlier, later in pairwise(moments)]
    assert pauses[:3] == [timedelta(seconds=30), timedelta(seconds=30), MINUTE]
    assert all(pause <= 15 * MINUTE for pause in pauses)
    assert pauses == sorted(pauses)


@pytest.fixture
def due(rental: Rental) -> list[Relay]:
    """Three relays whose scheduled tests are due."""
    rental.relays.update(prove_after=timezone.now() - MINUTE)
    return list(rental.relays.wanted())


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports that were tested; every test passes."""
    from containers.derp.probe import ProbeResult
    from containers.jobs import proofs

    ports: list[int] = []

    def probe(target: Any, *, measures_quality: bool) -> ProbeResult:
        assert measures_quality
        ports.append(target.derp_port)
        return ProbeResult(ok=True, packet_ms=1.0)

    monkeypatch.setattr(proofs, "probe_relay", probe)
    return ports


@pytest.mark.django_db
def test_each_relay_is_tested_once_however_often_the_clock_rings(due: list[Relay], found: list[int]) -> None:
    from containers.jobs import prove_relays

    for _time in range(2):
        prove_relays()
    assert len(found) == 3
    for relay in due:
        relay.refresh_from_db()
        assert relay.prove_after > timezone.now() + 7 * MINUTE
        assert relay.last_health is not None
        assert relay.last_health.is_ok


@pytest.mark.django_db
def test_a_scheduled_test_is_no_change_of_the_relay(due: list[Relay], found: list[int]) -> None:
    from containers.jobs import prove_relays
    from containers.models import Relay as Row

    before = dict(Row.objects.values_list("pk", "changed_at"))
    prove_relays()
    assert dict(Row.objects.values_list("pk", "changed_at")) == before


@pytest.mark.django_db
def test_a_test_whose_worker_died_is_made_a_minute_later(due: list[Relay]) -> None:
    from containers.services.proving import claim_due

    now = timezone.now()
    assert {relay.pk for relay in claim_due(now, 10)} == {relay.pk for relay in due}
    assert claim_due(now + timedelta(seconds=59), 10) == []
    assert len(claim_due(now + timedelta(seconds=61), 10)) == 3


@pytest.mark.django_db
def test_relays_in_the_making_and_those_that_go_are_not_tested(due: list[Relay]) -> None:
    from containers.models import Relay as Row
    from containers.services.proving import claim_due

    for relay, status in zip(due, ("planned", "removing", "failed"), strict=True):
        Row.objects.filter(pk=relay.pk).update(status=status)
    assert [relay.pk for relay in claim_due(timezone.now(), 10)] == [due[2].pk]


@pytest.mark.django_db
@pytest.mark.parametrize("fact", ["server_silent", "server_answers"])
def test_the_relays_of_a_server_are_tested_at_once_when_it_falls_silent_or_comes_back(
    rental: Rental, fact: str
) -> None:
    from containers.services.proving import claim_due
    from derpmgmt import flow

    relay = rental.relays.get(slot=1)
    rental.relays.update(prove_after=timezone.now() + 9 * MINUTE)
    for job in flow.JOBS[fact]:
        job(relay.server_id)
    assert [row.pk for row in claim_due(timezone.now(), 10)] == [relay.pk]


@pytest.mark.django_db
def test_old_results_go_but_never_the_last_one_of_a_relay(rental: Rental) -> None:
    from containers.jobs import prune_health
    from containers.models import RelayHealth

    first, second = rental.relays.get(slot=1), rental.relays.get(slot=2)
    now = timezone.now()
    for relay, days, passes in [
        (first, 40, False),
        (first, 20, False),
        (first, 3, True),
        (first, 1, True),
        (second, 3, True),
    ]:
        test_relay(relay, passes=passes)
        newest = RelayHealth.objects.latest("pk")
        RelayHealth.objects.filter(pk=newest.pk).update(at=now - timedelta(days=days))
    prune_health()
    left = {(row.relay_id, round((now - row.at) / timedelta(days=1))) for row in RelayHealth.objects.all()}
    assert left == {(first.pk, 20), (first.pk, 1), (second.pk, 3)}


@pytest.mark.django_db
def test_the_last_day_is_drawn_half_hour_by_half_hour(rental: Rental) -> None:

    relay = rental.relays.get(slot=1)
    for minutes, is_ok in [
        (0, True),
        (29, True),
        (31, False),
        (61, True),
        (62, False),
        (1411, True),
        (1470, False),
    ]:
        RelayHealthFactory(relay=relay, at=NOW + 29 * MINUTE - minutes * MINUTE, is_ok=is_ok)
    now = NOW + 29 * MINUTE
    with translation.override("en"):
        day = relay_days({relay.pk: None}, now)[relay.pk]
        assert day == server_day(relay.server_id, now)
        assert len(day.ticks) == TICKS
        assert [tick.state for tick in day.ticks[-3:]] == ["mixed", "failed", "ok"]
        assert day.ticks[0].state == "ok"
        assert {tick.state for tick in day.ticks[1:-3]} == {"none"}
        assert day.ticks[-1].title == "20:00–20:30 2 passed, 0 failed"
        assert day.sentence == "Last 24 hours: 4 of 6 tests passed"
        assert (
            relay_days({relay.pk: None}, now + timedelta(days=3))[relay.pk].sentence
            == "Last 24 hours: not tested"
        )
    with translation.override("zh-hans"):
        assert relay_days({relay.pk: None}, now)[relay.pk].sentence == "最近 24 小时：检测 6 次，通过 4 次"


@pytest.mark.django_db
def test_ticks_cost_one_query_and_stand_on_the_card_and_in_the_admin(
    rental: Rental, django_assert_num_queries: Any
) -> None:
    from django.test import Client
    from django.urls import reverse

    from tests.panel.world import enter

    for relay in rental.relays.wanted():
        for _time in range(3):
            test_relay(relay, passes=True)
    relays = list(rental.relays.wanted())
    with django_assert_num_queries(1):
        relay_days({relay.pk: relay.last_health_id for relay in relays}, timezone.now())
    client = Client()
    client.force_login(rental.user)
    page = client.get(reverse("home-relays")).content.decode()
    assert page.count('class="proof-ticks"') == 3
    assert page.count('class="is-ok"') == 3
    staff = enter("admin", has_factor=True)
    page = staff.get(reverse("admin:containers_relay_change", args=[relays[0].pk])).content.decode()
    assert page.count('class="proof-ticks"') == 1
    page = staff.get(reverse("admin:fleet_server_change", args=[relays[0].server_id])).content.decode()
    assert page.count('class="proof-ticks"') == 2


@pytest.mark.django_db
def test_a_day_is_counted_anew_when_there_was_another_test_or_the_half_hour_is_over(
    rental: Rental, django_assert_num_queries: Any
) -> None:
    relay = rental.relays.get(slot=1)

    def read(now: datetime) -> tuple[int, int, str]:
        day = relay_days({relay.pk: rental.relays.get(slot=1).last_health_id}, now)[relay.pk]
        assert day.strip.count("<span") == TICKS
        return day.passed, day.tests, day.sentence

    with translation.override("en"):
        test_relay(relay, passes=True)
        now = timezone.now()
        first = read(now)
        with django_assert_num_queries(1):  # the relay itself
            assert read(now) == first == (1, 1, "Last 24 hours: 1 of 1 test passed")
        test_relay(relay, passes=False)
        assert read(timezone.now()) == (1, 2, "Last 24 hours: 1 of 2 tests passed")
        assert read(now + timedelta(days=2))[:2] == (0, 0)
        with translation.override("zh-hans"):
            assert "最近" in read(timezone.now())[2]
