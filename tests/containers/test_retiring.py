"""When an old relay goes: its successor runs, and nobody uses it or needs it any more, or its time is over."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone

from tests.containers.rentals import DAY, prove

if TYPE_CHECKING:
    from containers.models import Relay
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db
HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _all_are_off(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, False)


def answer(monkeypatch: pytest.MonkeyPatch, has_devices: bool | None) -> None:
    """What relays say when they are asked whether devices are connected to them."""
    from containers.jobs import rotations

    monkeypatch.setattr(rotations, "has_devices", lambda _target: has_devices)


@pytest.fixture
def old(rental: Rental) -> Relay:
    """A relay that retires beside its proven successor for more than an hour; its customer took no map yet."""
    return replace(rental.relays.get(slot=1))


def replace(relay: Relay) -> Relay:
    """The relay once its successor has taken its place over, more than an hour ago."""
    from containers.models import Relay
    from containers.services.rotation import rotate_relay

    assert rotate_relay(relay=relay)
    prove(relay.rental)  # type: ignore[arg-type]
    since = timezone.now() - HOUR
    Relay.objects.filter(pk=relay.pk).update(retiring_since=since, try_after=since)
    return Relay.objects.get(pk=relay.pk)


def change(relay: Relay | None, **fields: Any) -> None:
    from containers.models import Relay

    assert relay
    Relay.objects.filter(pk=relay.pk).update(**fields)


def is_gone(relay: Relay) -> bool:
    """Whether it is on its way out after the clock has rung."""
    from containers import jobs
    from containers.services.rotation import due_retirements

    if relay.pk in due_retirements(timezone.now()):
        jobs.retire_relay(relay.pk)
    relay.refresh_from_db()
    return relay.status == "removing"


def refresh(rental: Rental) -> None:
    from acl.maps import services

    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)


def paste(rental: Rental) -> None:
    """The customer takes their newest map."""
    from acl.maps import derpmap, services

    refresh(rental)
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.HUJSON, by=rental.user)


def fetch(rental: Rental) -> None:
    """Their live URL is asked."""
    from acl.maps import services
    from acl.maps.models import AclEvent

    refresh(rental)
    config = services.active_config(rental)
    assert config
    services.record_event(rental=rental, kind=AclEvent.Kind.FETCHED, version=config.version)


@pytest.mark.parametrize(("has_devices", "goes"), [(False, True), (True, False), (None, False)])
def test_an_old_relay_goes_when_it_says_that_nobody_is_connected(
    rental: Rental, old: Relay, monkeypatch: pytest.MonkeyPatch, has_devices: bool | None, goes: bool
) -> None:
    from containers.services.rotation import due_retirements

    paste(rental)
    answer(monkeypatch, has_devices)
    assert is_gone(old) is goes
    assert due_retirements(timezone.now()) == []


def test_an_old_relay_is_not_asked_within_the_first_hour(rental: Rental, old: Relay) -> None:
    paste(rental)
    change(old, retiring_since=timezone.now() - HOUR / 2)  # devices may only be restarting
    assert not is_gone(old)


@pytest.mark.parametrize("age", [HOUR, 8 * DAY])
def test_an_old_relay_stays_while_its_successor_does_not_run(
    rental: Rental, old: Relay, age: timedelta
) -> None:
    paste(rental)
    successor = old.successors.get()
    change(old, retiring_since=timezone.now() - age)
    for status in ("failed", "planned", "removing"):
        change(successor, status=status)
        assert not is_gone(old)
        change(old, try_after=timezone.now() - HOUR)
    change(successor, status="running")
    assert is_gone(old)


def test_it_goes_with_its_grace_when_its_certificate_has_ended_whatever_its_successor_does(
    old: Relay,
) -> None:
    change(old.successors.get(), status="failed")
    change(old, retiring_since=timezone.now() - 8 * DAY, certificate_ends_at=timezone.now())
    assert is_gone(old)


def test_whoever_came_after_the_successor_counts_too(rental: Rental, old: Relay) -> None:
    between = replace(old.successors.get())
    paste(rental)
    change(between, status="released", retiring_since=None)
    latest = between.successors.get()
    change(latest, status="failed")
    assert not is_gone(old)
    change(latest, status="running")
    change(old, try_after=None)
    assert is_gone(old)


@pytest.mark.parametrize("get", [paste, fetch])
def test_it_stays_until_the_customer_has_the_way_to_its_successor(
    rental: Rental, old: Relay, get: Any
) -> None:
    assert not is_gone(old)
    get(rental)
    change(old, try_after=timezone.now())
    assert is_gone(old)


def test_a_map_from_before_its_successor_is_not_enough(rental: Rental) -> None:
    from acl.maps import derpmap, services

    paste(rental)
    old = replace(rental.relays.get(slot=1))
    refresh(rental)
    # What somebody else took is not where the customer's devices look.
    services.hand_out_map(rental=rental, file_format=derpmap.MapFormat.JSON, by=None)
    assert not is_gone(old)
    change(old, retiring_since=timezone.now() - 7 * DAY)
    assert is_gone(old)


def test_a_way_that_leads_to_the_successors_old_certificate_is_not_enough(rental: Rental, old: Relay) -> None:
    from containers.services.relay_certificates import renew_certificate

    paste(rental)
    renew_certificate(relay=old.successors.get(), now=timezone.now())
    prove(rental)
    assert not is_gone(old)
    paste(rental)
    change(old, try_after=timezone.now())
    assert is_gone(old)


def test_one_that_does_not_run_goes_as_soon_as_its_successor_runs(
    rental: Rental, old: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    successor = old.successors.get()
    # Soon after the change, with no map taken, and in the middle of the pause before the next try.
    later = timezone.now() + HOUR / 12
    change(old, status="failed", retiring_since=timezone.now(), try_after=later)
    change(successor, status="planned")
    assert not is_gone(old)
    change(successor, status="running")
    answer(monkeypatch, True)  # only the way by which the panel reaches its server is broken
    assert not is_gone(old)
    answer(monkeypatch, None)
    assert is_gone(old)
