"""Links that lose packets, go down, or all go down at once: what operators hear, by real visits and a clock that goes faster.

`python -m tests.lab.show_link` shows the same in true time, for ten minutes.
"""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.utils import timezone

from accounts.alerts import jobs as alerts
from accounts.alerts.models import Alert
from containers.jobs import visits
from derpmgmt import flow
from fleet.contact import pool
from fleet.models import Server

from .conftest import IS_LAB, Fleet

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(not IS_LAB, reason="a sandbox has no links"),
]
BEAT = timedelta(seconds=15)
# What a visit waits for at most where a link is down, in seconds.
SHORT = 1.0


@pytest.fixture
def clock(fleet: Fleet) -> Iterator[time_machine.Traveller]:
    """It goes on by itself, and by the beat of the visits."""
    with time_machine.travel(timezone.now(), tick=True) as traveller:
        yield traveller


def beat(clock: time_machine.Traveller) -> None:
    """One round of visits and what comes of it, fifteen seconds after the last."""
    begun = timezone.now()
    for shard in range(settings.SHARDS):
        visits.visit_servers(shard)
    alerts.sweep_alerts()
    clock.move_to(max(begun + BEAT, timezone.now()))


def raised(since: datetime) -> list[str]:
    """The rules of what was raised since then about servers and the panel's way to them."""
    rows = Alert.objects.filter(raised_at__gte=since).exclude(rule__in=["task", "panel"])
    return sorted(rows.values_list("rule", flat=True))


def until(clock: time_machine.Traveller, holds: Callable[[], bool], beats: int = 8) -> float:
    """For how many seconds of the panel's clock it took."""
    begun = timezone.now()
    for _number in range(beats):
        beat(clock)
        if holds():
            return (timezone.now() - begun).total_seconds()
    raise AssertionError("it does not come")


def test_a_link_that_is_down_is_an_alert_within_a_minute_loss_is_none_and_all_links_down_are_the_panels(
    fleet: Fleet, clock: time_machine.Traveller, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, patient = fleet.hosts[0], visits.VISIT_SECONDS
    monkeypatch.setattr(flow, "READINGS", [])

    def cut(*hosts: Any) -> datetime:
        monkeypatch.setattr(visits, "VISIT_SECONDS", SHORT)
        for host in hosts:
            host.break_it("vanishes")
        return timezone.now()

    def heal() -> None:
        monkeypatch.setattr(visits, "VISIT_SECONDS", patient)
        for host in fleet.hosts:
            host.heal()

    for host in fleet.hosts:
        host.break_it("lossy")
    since = timezone.now()
    for _number in range(6):
        beat(clock)
    assert raised(since) == []
    heal()

    since = cut(first)
    seconds = until(clock, lambda: bool(raised(since)))
    print(f"one link down: its alert after {seconds:.0f} s")
    assert seconds <= 60
    assert [alert.server for alert in Alert.objects.filter(rule="server_error")] == [fleet.servers[0].pk]
    heal()
    until(clock, lambda: not Alert.objects.filter(rule="server_error", gone_at=None).exists())
    assert raised(since) == ["server_error"]

    since = cut(*fleet.hosts)
    for _number in range(4):
        beat(clock)
    assert raised(since) == ["panel_cut_off"]
    heal()
    until(clock, lambda: not Server.objects.filter(silent_since__isnull=False).exists())
    until(clock, lambda: not Alert.objects.filter(rule="panel_cut_off", gone_at=None).exists())
    assert raised(since) == ["panel_cut_off"]
    pool().close()
