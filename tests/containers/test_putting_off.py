"""Work of the sweeps that raises: it is logged, and done again later and after that of the others."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from django.utils import timezone, translation

from tests.containers.rentals import plan, prove
from tests.factories import RentalFactory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleet.models import Server
    from serials.rentals.models import Rental

pytestmark = pytest.mark.django_db

MINUTE = timedelta(minutes=1)


def put_off() -> list[str]:
    """What needs a person of what was put off; nothing of it is forgotten by the clock."""
    from accounts.jobs import forget_settled
    from derpmgmt.lib.matters import read_matters

    forget_settled()
    with translation.override("en"):
        return [matter.title for matter in read_matters() if matter.key.startswith("put_off:")]


def test_a_rental_that_cannot_be_planned_holds_nobody_up(
    servers: list[Server], announced: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from containers import jobs
    from containers.services import planning

    bad, other = RentalFactory(), RentalFactory()
    read = planning.read_state

    def cannot(rental: Rental, now: Any) -> Any:
        if rental.pk == bad.pk:
            raise ValueError("broken")
        return read(rental, now)

    with monkeypatch.context() as patch:
        patch.setattr(planning, "read_state", cannot)
        assert planning.due_rentals(timezone.now()) == [bad.pk, other.pk]
        jobs.plan_waiting(servers[0].pk)
        assert other.relays.wanted().count() == 3
        assert f"the plans of rentals: row {bad.pk} is put off" in caplog.text
        assert put_off() == [f"Planning of relays: {bad.user}"]
        assert planning.due_rentals(timezone.now()) == []
        jobs.plan_rental(bad.pk)
    assert planning.due_rentals(timezone.now() + MINUTE) == [bad.pk]
    jobs.plan_rental(bad.pk)
    assert bad.relays.wanted().count() == 3
    assert put_off() == []


def test_a_relay_that_cannot_be_retired_is_looked_at_again_later(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from containers import jobs
    from containers.models import Relay
    from containers.services import rotation

    relay = rental.relays.get(slot=1)
    assert rotation.rotate_relay(relay=relay)
    prove(rental)
    Relay.objects.filter(pk=relay.pk).update(try_after=timezone.now())

    def cannot(*_given: Any) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr(rotation, "may_go", cannot)
    assert rotation.due_retirements(timezone.now()) == [relay.pk]
    jobs.retire_relay(relay.pk)
    assert f"the retiring of relays: row {relay.pk} is put off" in caplog.text
    assert put_off() == [f"Retiring of relays: {rental.user}"]
    assert rotation.due_retirements(timezone.now()) == []
    assert rotation.due_retirements(timezone.now() + rotation.LOOK_EVERY) == [relay.pk]


def test_customers_are_told_of_silent_relays_behind_one_who_cannot_be(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from accounts.models import Notice
    from containers import jobs
    from containers.models import Relay
    from containers.services import proving
    from fleet.models import Server

    other = RentalFactory()
    plan(other)
    prove(other)
    now = timezone.now()
    Server.objects.update(last_contact_at=now)
    Relay.objects.filter(slot=1).update(failing_since=now - 20 * MINUTE)
    Relay.objects.filter(slot=1, rental=rental).update(failing_since=now - 30 * MINUTE)
    notify = proving.notify

    def cannot(**told: Any) -> Any:
        if told["user"] == rental.user:
            raise ValueError("broken")
        return notify(**told)

    with monkeypatch.context() as patch:
        patch.setattr(proving, "notify", cannot)
        jobs.sweep_outages()
    silent = Notice.objects.filter(kind="relay_silent")
    assert [notice.user for notice in silent] == [other.user]
    assert f"row {rental.relays.get(slot=1).pk} is put off" in caplog.text
    proving.sweep_failing(now + MINUTE)
    assert {notice.user_id for notice in silent.all()} == {rental.user_id, other.user_id}


def test_a_list_that_cannot_be_made_is_made_again_later(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from containers.jobs import gates as jobs
    from containers.models import LIST_RETRY
    from containers.services import gates

    now = timezone.now()
    gate = gates.gate_of(rental.relays.get(slot=1).server_id)
    gates.record_running(gate=gate, image="image", now=now)
    gates.note_list_changed(rental_pk=rental.pk, now=now)

    @contextmanager
    def reach(server: Server, **_seconds: float) -> Iterator[Any]:
        yield SimpleNamespace(engine=None)

    def cannot(*_given: Any) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(jobs, "contact", reach)
    monkeypatch.setattr(jobs, "_deliver", cannot)
    jobs.push_list(gate.server_id)
    assert f"list for the gate of {gate.server.name}" in caplog.text
    gate.refresh_from_db()
    assert gate.list_failures == 1
    assert LIST_RETRY.rests(gate, now)
    assert gate.server_id not in gates.late_lists(now)
