"""Gates as rows: secrets, states, and how late their lists are."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from django.utils import timezone, translation

from containers.gate import list_hash
from containers.models import Gate, Relay
from containers.services import gates
from containers.services.relays import spec_of
from derpmgmt.lib import queue
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.jobs import Problem
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import WholeRentalFactory

pytestmark = pytest.mark.django_db
NOW = timezone.now()


@pytest.fixture
def rental() -> Rental:
    made = WholeRentalFactory()
    Gate.objects.update(list_changed_at=None)
    return made


@pytest.fixture
def gate(rental: Rental) -> Gate:
    """One that runs and has the list of a minute ago."""
    made = Gate.objects.order_by("pk").first()
    assert made
    gates.record_delivered(gate=made, list_hash=list_hash(b""), as_of=NOW - timedelta(minutes=1))
    made.refresh_from_db()
    return made


@pytest.fixture
def rung(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What was announced."""
    heard: list[tuple[str, int]] = []
    monkeypatch.setattr(queue, "announce", lambda fact, pk: heard.append((fact, pk)))
    return heard


def test_secret_is_its_server_s_own_and_found_by_its_hash(rental: Rental) -> None:
    made = list(Gate.objects.all())
    assert len({gate.secret for gate in made}) == len({gate.secret_hash for gate in made}) == 3
    for gate in made:
        assert len(gate.secret) >= 40
        assert gate.secret_hash == keyed_hash("gate", gate.secret)
        assert gates.gate_of(gate.server_id).secret == gate.secret
        assert gate.secret in gates.spec_of(gate, "image").files["/gate/nginx.conf"].decode()


def test_public_authorities_are_trusted_unless_the_operator_names_one(gate: Gate, settings: Any) -> None:
    settings.RELAY_CA = ""
    assert gates.spec_of(gate, "image").ca_pem.count("BEGIN CERTIFICATE") > 50
    settings.RELAY_CA = "their own"
    assert gates.spec_of(gate, "image").ca_pem == "their own"


def relay_spec(server: Server) -> Any:
    relay = Relay.objects.get(server=server.pk)
    fields = {"private_key": "1f" * 32, "mesh_key": "2e" * 32}
    for name, value in fields.items():
        setattr(relay, name, value)
    return spec_of(relay, "image")


def test_relay_asks_nobody_until_its_gate_has_run_and_ever_after_then(gate: Gate) -> None:
    server = gate.server
    Gate.objects.filter(pk=gate.pk).delete()
    assert relay_spec(server).verify_url == ""
    fresh = gates.gate_of(server.pk)
    gates.record_failure(gate=fresh, problem=Problem("no_gate_image", ""), now=NOW)
    assert relay_spec(server).verify_url == ""
    gates.record_running(gate=fresh, image="image", now=NOW)
    assert relay_spec(server).verify_url.endswith(f"/relay/{server.relays.get().pk}")
    gates.record_failure(gate=fresh, problem=Problem("timed_out", ""), now=NOW)
    assert relay_spec(server).verify_url
    assert relay_spec(server).fail_open is False
    Server.objects.filter(pk=server.pk).update(is_fail_open=True)
    assert relay_spec(server).fail_open is True


def test_gates_of_a_rental_are_rung_for_when_its_devices_change(
    rental: Rental, gate: Gate, rung: list[tuple[str, int]]
) -> None:
    other = WholeRentalFactory()
    Gate.objects.update(list_changed_at=None)
    rung.clear()
    gates.note_list_changed(rental_pk=rental.pk, now=NOW)
    mine = set(rental.relays.values_list("server_id", flat=True))
    assert sorted(rung) == sorted(("gate_list_outdated", pk) for pk in mine)
    assert {row.server_id for row in Gate.objects.all() if row.is_list_late} == mine
    assert not any(relay.server.gate.is_list_late for relay in other.relays.all())
    assert set(gates.late_lists(NOW)) == mine


def test_first_change_that_is_missing_is_remembered_when_more_follow(rental: Rental, gate: Gate) -> None:
    later = NOW + timedelta(minutes=5)
    gates.note_list_changed(rental_pk=rental.pk, now=NOW)
    gates.note_list_changed(rental_pk=rental.pk, now=later)
    gate.refresh_from_db()
    assert gate.list_changed_at == NOW
    assert gates.record_delivered(gate=gate, list_hash="new", as_of=NOW + timedelta(minutes=1))
    gates.note_list_changed(rental_pk=rental.pk, now=later)
    gate.refresh_from_db()
    assert (gate.list_changed_at, gate.is_list_late) == (later, True)


def test_older_list_is_no_delivery_when_a_newer_one_was_there(gate: Gate) -> None:
    assert gates.record_delivered(gate=gate, list_hash="new", as_of=NOW)
    assert not gates.record_delivered(gate=gate, list_hash="old", as_of=NOW - timedelta(seconds=1))
    gate.refresh_from_db()
    assert (gate.list_hash, gate.list_delivered_at) == ("new", NOW)


def test_pauses_grow_when_it_fails_again_and_again(gate: Gate) -> None:
    waits = []
    for _try in range(9):
        gates.record_failure(gate=gate, problem=Problem("runtime", ""), now=NOW)
        gate.refresh_from_db()
        waits.append((gate.try_after - NOW).total_seconds())
    assert waits == [5, 10, 20, 40, 80, 160, 300, 300, 300]
    assert (gate.status, gate.failure_code, gate.failed_at) == ("failed", "runtime", NOW)
    gates.record_running(gate=gate, image="image", now=NOW)
    gate.refresh_from_db()
    assert (gate.status, gate.failures, gate.failure_code, gate.running_since) == ("running", 0, "", NOW)
    gates.record_running(gate=gate, image="image", now=NOW + timedelta(hours=1))
    gate.refresh_from_db()
    assert gate.running_since == NOW


def test_gate_is_due_when_relays_stand_and_it_does_not(rental: Rental, gate: Gate) -> None:
    assert gates.due_gates(NOW) == []
    server = gate.server
    Gate.objects.filter(pk=gate.pk).delete()
    assert gates.due_gates(NOW) == [server.pk]
    made = gates.gate_of(server.pk)
    assert gates.due_gates(NOW) == [server.pk]
    gates.record_failure(gate=made, problem=Problem("no_gate_image", ""), now=NOW)
    assert gates.due_gates(NOW) == []
    assert gates.due_gates(NOW + timedelta(seconds=5)) == [server.pk]
    gates.wake_imageless()
    assert gates.due_gates(NOW) == [server.pk]
    Server.objects.filter(pk=server.pk).update(next_contact_at=NOW + timedelta(minutes=1))
    assert gates.due_gates(NOW) == []
    Server.objects.filter(pk=server.pk).update(next_contact_at=None, status=Server.Status.RETIRED)
    assert gates.due_gates(NOW) == []
    Server.objects.filter(pk=server.pk).update(status=Server.Status.DRAINING)
    Relay.objects.filter(server=server).update(status=Relay.Status.RELEASED, slot=None)
    assert gates.due_gates(NOW) == []


def test_pauses_grow_when_a_list_is_refused_and_the_server_says_so_until_it_is_taken(
    rental: Rental, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    from containers.gate_list import ListNotTaken
    from containers.jobs import gates as jobs
    from fleet.services import record_contact

    tried: list[int] = []

    @contextmanager
    def reach(server: Server, **_seconds: float) -> Iterator[Any]:
        yield SimpleNamespace(engine=None)

    def refuse(_engine: Any, gate: Gate) -> None:
        tried.append(gate.pk)
        raise ListNotTaken()

    monkeypatch.setattr(jobs, "contact", reach)
    monkeypatch.setattr(jobs, "_deliver", refuse)
    gates.record_running(gate=gate, image="image", now=NOW)
    gates.note_list_changed(rental_pk=rental.pk, now=NOW)
    pauses = []
    for number in range(1, 9):
        before = timezone.now()
        jobs.push_list(gate.server_id)
        jobs.push_list(gate.server_id)
        assert len(tried) == number
        gate.refresh_from_db()
        assert gate.list_try_after is not None
        pauses.append(round((gate.list_try_after - before).total_seconds()))
        assert gate.server_id not in gates.late_lists(before)
        assert gate.server_id in gates.late_lists(gate.list_try_after)
        record_contact(server_pk=gate.server_id)
        server = Server.objects.get(pk=gate.server_id)
        assert server.status == ("healthy" if number < 3 else "unhealthy")
        Gate.objects.filter(pk=gate.pk).update(list_try_after=None)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300]
    assert "list of devices" in server.status_reason

    gates.record_delivered(gate=gate, list_hash=list_hash(b""), as_of=timezone.now())
    record_contact(server_pk=gate.server_id)
    gate.refresh_from_db()
    server.refresh_from_db()
    assert (gate.list_failures, server.status, server.status_reason) == (0, "healthy", "")


def test_list_waits_when_its_server_rests(rental: Rental, gate: Gate) -> None:
    gates.note_list_changed(rental_pk=rental.pk, now=NOW)
    Server.objects.filter(pk=gate.server_id).update(next_contact_at=NOW + timedelta(minutes=1))
    assert gate.server_id not in gates.late_lists(NOW)
    assert gate.server_id in gates.late_lists(NOW + timedelta(minutes=1))


def test_current_image_is_taken_when_an_admin_has_it_made_again(gate: Gate, rung: list[Any]) -> None:
    gates.record_failure(gate=gate, problem=Problem("runtime", ""), now=NOW)
    gates.retry_gate(gate=gate, by=None)
    gate.refresh_from_db()
    assert (gate.status, gate.try_after, gate.image) == ("planned", None, "")
    assert rung == [("gate_to_apply", gate.server_id)]


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("no_gate_image", "image_build --only gate"),
        ("crashed", "The gate stopped"),
        ("unreachable", "cannot be reached"),
        ("disk_full", "disk is full"),
        ("internal", "made a mistake"),
        ("", ""),
    ],
)
def test_failure_is_a_sentence_when_it_is_shown(gate: Gate, code: str, words: str) -> None:
    gate.failure_code = code
    with translation.override("en"):
        assert words in str(gates.failure_text(gate))
