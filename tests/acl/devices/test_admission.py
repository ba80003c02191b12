"""Relays' questions through the panel's whole stack: who is let in, who stays out, and what a stranger costs."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.services import ban_user
from acl.devices import admission, admission_writer
from acl.devices.services import devices
from containers.models import Gate, Relay
from containers.services import gates
from serials.rentals.models import Rental
from serials.rentals.services import pause_rental, resume_rental
from tests.acl.asking import ALLOWED, REFUSED, A, B, C, approve, ask, knock, post
from tests.acl.asking import relay as relay
from tests.acl.asking import rental as rental
from tests.factories import DevicePolicyFactory, RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


def test_a_pasted_device_comes_in_and_a_stranger_does_not(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    assert knock(relay, A) == ALLOWED
    assert knock(relay, B) == REFUSED


def test_a_device_of_another_customer_stays_out(rental: Rental, relay: Relay) -> None:
    other = RentalFactory(days=60)
    DevicePolicyFactory(rental=other)
    theirs = RelayFactory(rental=other)
    gates.gate_of(theirs.server_id)
    approve(other, A)
    assert knock(theirs, A) == ALLOWED
    assert knock(relay, A) == REFUSED


def test_every_change_counts_at_the_next_question(rental: Rental, relay: Relay) -> None:
    """There is no copy of the rows that could be late."""
    [device] = approve(rental, A)
    assert knock(relay, A) == ALLOWED
    devices.revoke_device(device=device, by=rental.user)
    assert knock(relay, A) == REFUSED
    devices.approve_device(device=device, by=rental.user)
    assert knock(relay, A) == ALLOWED
    pause_rental(rental=rental, by=None, reason="test")
    assert knock(relay, A) == REFUSED
    resume_rental(rental=rental, by=None)
    assert knock(relay, A) == ALLOWED
    Rental.objects.filter(pk=rental.pk).update(stopped_at=timezone.now())
    assert knock(relay, A) == REFUSED
    Rental.objects.filter(pk=rental.pk).update(stopped_at=None)
    assert knock(relay, A) == ALLOWED
    devices.set_open(rental=rental, is_open=True, by=rental.user)
    assert knock(relay, B) == ALLOWED
    devices.set_open(rental=rental, is_open=False, by=rental.user)
    assert knock(relay, B) == REFUSED
    ban_user(user=rental.user, by=None, reason="test")
    assert knock(relay, A) == REFUSED


def test_a_revoked_device_stays_out_while_devices_are_not_checked(rental: Rental, relay: Relay) -> None:
    [device] = approve(rental, A)
    devices.set_open(rental=rental, is_open=True, by=rental.user)
    devices.revoke_device(device=device, by=rental.user)
    assert knock(relay, A) == REFUSED
    assert knock(relay, B) == ALLOWED
    devices.approve_device(device=device, by=rental.user)
    assert knock(relay, A) == ALLOWED


def test_the_end_of_the_rental_counts_at_its_moment(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    rental.refresh_from_db()
    assert rental.runs_until is not None
    with time_machine.travel(rental.runs_until - timedelta(seconds=1), tick=False):
        assert knock(relay, A) == ALLOWED
    with time_machine.travel(rental.runs_until, tick=False):
        assert knock(relay, A) == REFUSED


def test_a_released_relay_has_nothing_to_ask(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    Relay.objects.filter(pk=relay.pk).update(status=Relay.Status.RELEASED, slot=None)
    assert knock(relay, A)[0] == 404


# Who may ask


def test_only_the_gate_of_the_relays_server_may_ask(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    question = json.dumps({"NodePublic": f"nodekey:{A}", "Source": "203.0.113.9"}).encode()
    other = RelayFactory(rental=RentalFactory(days=60))
    foreign = gates.gate_of(other.server_id).secret
    gates.gate_of(relay.server_id)
    assert post(relay.pk, question, foreign).status_code == 401
    assert post(relay.pk, question, "x" * 40).status_code == 401
    assert post(relay.pk, question, None).status_code == 401
    assert post(relay.pk + 1000, question, foreign).status_code == 404


def test_a_new_gate_is_known_within_a_second(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    assert knock(relay, A) == ALLOWED
    new = RelayFactory(rental=RentalFactory(days=60))
    gates.gate_of(new.server_id)
    admission._known._read_at -= 1
    assert knock(new, A)[0] == 200


def test_a_stranger_without_a_secret_costs_no_query(relay: Relay) -> None:
    post(relay.pk, b"{}", "x")
    admission._known._read_at += 60
    with CaptureQueriesContext(connection) as queries:
        post(relay.pk, b"{}", "y")
    assert len(queries) == 0


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b'"nodekey:"', 400),
        (b"null", 400),
        (b'{"NodePublic": 7}', 400),
        (b'{"NodePublic": "nodekey:abc", "Source": "1.2.3.4"}', 400),
        (b'{"NodePublic": "nodekey:' + b"\xff" * 64 + b'"}', 400),
        (b"[" * 4000, 400),
        (b" " * 4097, 413),
    ],
    ids=["empty", "broken", "list", "text", "null", "number", "short", "bytes", "deep", "large"],
)  # fmt: skip
def test_a_body_that_is_no_question_is_refused(relay: Relay, body: bytes, status: int) -> None:
    assert post(relay.pk, body, Gate.objects.get().secret).status_code == status


@pytest.mark.parametrize(
    "source", ["", "nonsense", 7, None, ["1.2.3.4"], "fe80::1%eth0", "::ffff:1.2.3.4", "2001:db8::1"]
)
def test_whatever_stands_as_the_source_a_known_device_comes_in(
    rental: Rental, relay: Relay, source: Any
) -> None:
    approve(rental, A)
    question = json.dumps({"NodePublic": f"nodekey:{A}", "Source": source}).encode()
    assert post(relay.pk, question, Gate.objects.get().secret).content == b'{"Allow":true}'
    assert admission_writer.flush() == 1


@pytest.mark.parametrize(
    "path",
    ["/admission/", "/admission/0", "/admission/x", "/admission/1/", "/admission/99999999999999999999"],
)
def test_other_addresses_are_nothing(path: str) -> None:
    assert ask(path, b"{}").status_code == 404
    assert ask("/admission/1", method="GET").status_code == 405


# What it costs


def test_a_known_device_costs_one_query_and_neither_session_nor_cookie(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    knock(relay, A)
    secret = Gate.objects.get().secret
    question = json.dumps({"NodePublic": f"nodekey:{A}", "Source": "203.0.113.9"}).encode()
    admission._known._read_at += 60
    with CaptureQueriesContext(connection) as queries:
        response = post(relay.pk, question, secret)
    assert [query["sql"].split()[0] for query in queries] == ["SELECT"]
    assert set(response.headers) == {"Content-Type", "Content-Length", "Cache-Control"}


def test_an_answer_without_a_database_has_the_gate_answer(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(rental, A)
    secret = Gate.objects.get().secret
    question = json.dumps({"NodePublic": f"nodekey:{A}", "Source": "203.0.113.9"}).encode()

    def away(*args: object) -> None:
        raise OperationalError("away")

    monkeypatch.setattr(admission, "_find", away)
    assert post(relay.pk, question, secret).status_code == 503


def test_a_strangers_loop_gets_no_more_than_a_no_and_hurts_nobody_else(rental: Rental, relay: Relay) -> None:
    approve(rental, A)
    devices.open_window(rental=rental, length=timedelta(hours=1), by=rental.user)
    for _number in range(admission.REFUSALS_PER_ADDRESS):
        admission._counts.add(("refused", relay.pk, "198.51.100.1"))
    assert knock(relay, B, "198.51.100.1") == REFUSED
    assert knock(relay, A, "198.51.100.1") == ALLOWED
    assert knock(relay, B, "198.51.100.2") == ALLOWED


def test_an_address_that_asks_without_end_is_sent_away(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(rental, A)
    monkeypatch.setattr(admission, "QUESTIONS_PER_ADDRESS", 3)
    assert [knock(relay, A, "198.51.100.1")[0] for _ in range(4)] == [200, 200, 200, 429]
    assert knock(relay, A, "198.51.100.2") == ALLOWED


# Many at once


class Held:
    """`_fetch` that lets its first call wait until it is released, and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.is_held = threading.Event()
        self.release = threading.Event()

    def __call__(self, query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        self.calls += 1
        if self.calls == 1:
            self.is_held.set()
            assert self.release.wait(10)
        return FETCH(query, values)


FETCH = admission._fetch


def ask_at_once(held: Held, questions: list[tuple[Relay, str]]) -> list[tuple[int, bool]]:
    """The answers to questions of which the first is being read while the others come."""

    def one(question: tuple[Relay, str]) -> tuple[int, bool]:
        try:
            return knock(*question)
        finally:
            connection.close()

    with ThreadPoolExecutor(len(questions)) as pool:
        first = pool.submit(one, questions[0])
        assert held.is_held.wait(10)
        rest = [pool.submit(one, question) for question in questions[1:]]
        until = time.monotonic() + 10
        while len(admission._reader._waiting) < len(rest) and time.monotonic() < until:
            time.sleep(0.01)
        held.release.set()
        return [future.result() for future in (first, *rest)]


def test_questions_of_the_same_moment_share_a_query_and_get_each_its_own_answer(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = RentalFactory(days=60)
    DevicePolicyFactory(rental=other)
    theirs = RelayFactory(rental=other, server=relay.server)
    approve(rental, A, B)
    approve(other, A, C)
    paused = RentalFactory(days=60)
    standing = RelayFactory(rental=paused, server=relay.server)
    approve(paused, A)
    pause_rental(rental=paused, by=None, reason="test")
    gone = RelayFactory(
        rental=RentalFactory(days=60), server=relay.server, slot=None, status=Relay.Status.RELEASED
    )
    held = Held()
    monkeypatch.setattr(admission, "_fetch", held)
    questions = [
        (relay, A), (relay, B), (relay, C), (theirs, A), (theirs, B), (theirs, C), (standing, A), (gone, A), (relay, A),
    ]  # fmt: skip
    answers = ask_at_once(held, questions)
    assert answers == [
        ALLOWED, ALLOWED, REFUSED, ALLOWED, REFUSED, ALLOWED, REFUSED, (404, False), ALLOWED,
    ]  # fmt: skip
    assert held.calls == 2


def test_a_database_that_fails_fails_all_who_asked_and_nobody_after_them(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve(rental, A)
    held = Held()

    def fail(query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        held(query, values)
        raise OperationalError("away")

    with monkeypatch.context() as patch:
        patch.setattr(admission, "_fetch", fail)
        assert ask_at_once(held, [(relay, A)] * 5) == [(503, False)] * 5
    assert knock(relay, A) == ALLOWED
