"""Connections follow rights: who is cut off relays that run, who stays, and what pages learn about who is there."""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.cache import cache
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from acl.devices import presence
from acl.devices.models import Admission, Device
from containers.derp import keys
from containers.models import Relay as RelayRow
from derpmgmt import flow
from derpmgmt.lib.kept import Kept
from derpmgmt.lib.workers import run_workers
from serials.rentals.models import Rental
from tests.acl.standing import NOWHERE, add_row, is_cut_soon, rung
from tests.acl.standing import _soon as _soon
from tests.acl.standing import looks as looks
from tests.acl.standing import rental as rental
from tests.acl.standing import stand as stand
from tests.derp.conftest import certificate as certificate
from tests.derp.conftest import loop_thread as loop_thread
from tests.derp.conftest import start_sandbox_relay as start_sandbox_relay
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE, Relay
from tests.derp.test_derp_presence import is_cut
from tests.factories import AdmissionFactory

pytestmark = pytest.mark.django_db(transaction=True)


# Who is there


def known(rental: Rental) -> dict[str, presence.Presence]:
    presence.read_presence(rental.pk).result(PATIENCE)
    found = presence.present_devices(rental)
    assert found is not None
    return found


def test_pages_learn_who_is_there_and_since_when(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    (first_row, first), (second_row, second) = stand(rental), stand(rental)
    assert presence.present_devices(rental) is None
    with first.connect() as one, second.connect() as two:
        before = timezone.now()
        found = known(rental)
        assert {key: (row.relay, row.ip) for key, row in found.items()} == {
            one.public_key: (first_row.pk, "127.0.0.1"),
            two.public_key: (second_row.pk, "127.0.0.1"),
        }
        assert before <= found[one.public_key].since <= timezone.now()
        assert known(rental) == found
    assert known(rental) == {}


def test_a_device_is_there_since_it_was_let_in(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, relay = stand(rental)
    let_in = timezone.now() - timedelta(hours=3)

    def admit(at: datetime, **fields: Any) -> None:
        values = {"relay": row, "reason": Admission.Reason.APPROVED, "is_allowed": True} | fields
        AdmissionFactory(rental=rental, node_key=client.public_key, at=at, **values)

    with relay.connect() as client:
        admit(let_in)
        admit(let_in + timedelta(hours=1), is_allowed=False)
        assert known(rental)[client.public_key].since == let_in
        # A later one is of another connection than the one that is still there.
        admit(timezone.now())
        assert known(rental)[client.public_key].since == let_in


def test_a_device_that_came_back_is_there_since_then(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _, relay = stand(rental)
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as client:
        first = known(rental)[client.public_key].since
    with relay.connect(private_key=private_key) as client:
        assert known(rental)[client.public_key].since > first


def test_nothing_is_known_when_the_last_reading_is_old(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], monkeypatch: pytest.MonkeyPatch
) -> None:
    stand(rental)
    assert known(rental) == {}
    monkeypatch.setattr(presence, "KNOWN_SECONDS", -1)
    assert presence.present_devices(rental) is None


def test_nothing_is_known_when_the_cache_is_away(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    stand(rental)
    with override_settings(CACHES=NOWHERE):
        presence.ask_presence(rental_pk=rental.pk)
        presence.read_presence(rental.pk).result(PATIENCE)
        assert presence.present_devices(rental) is None
    assert rung() == []


def test_relays_are_asked_for_a_page_once_in_a_while(rental: Rental, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(3):
        presence.ask_presence(rental_pk=rental.pk)
    assert rung() == [("read_presence", rental.pk)]
    Kept.forget_all()  # as another process, which asks the cache
    presence.ask_presence(rental_pk=rental.pk)
    assert len(rung()) == 1
    later = time.monotonic() + presence._ASK_PAUSE_SECONDS + 0.1
    cache.clear()
    presence.ask_presence(rental_pk=rental.pk)
    assert len(rung()) == 1
    monkeypatch.setattr(presence.time, "monotonic", lambda: later)
    presence.ask_presence(rental_pk=rental.pk)
    assert len(rung()) == 2


def test_relays_say_whether_a_device_is_there(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _row, relay = stand(rental)
    with relay.connect() as client:
        here = Device(rental=rental, node_key=client.public_key)
        elsewhere = Device(rental=rental, node_key="ab" * 32)
        is_present = presence.finder({rental.pk})
        assert [is_present(here), is_present(elsewhere)] == [True, False]
        add_row(rental, 1, relay.cert_sha256, relay.public_key, relay.mesh_key)  # nobody answers there
        is_present = presence.finder({rental.pk})
        assert [is_present(here), is_present(elsewhere)] == [True, None]


def test_a_silent_relay_has_not_nobody(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    answering, relay = stand(rental)
    silent = add_row(rental, 1, relay.cert_sha256, relay.public_key, relay.mesh_key)  # nobody answers there
    with relay.connect() as client:
        assert list(known(rental)) == [client.public_key]
        reading = presence.last_reading(rental)
        assert reading is not None
        assert reading.silent == {silent.pk}
        # What never carried a packet is in no map, and has nobody.
        RelayRow.objects.filter(pk=silent.pk).update(proven_at=None)
        known(rental)
        reading = presence.last_reading(rental)
        assert reading is not None
        assert not reading.silent
        RelayRow.objects.filter(pk=answering.pk).update(derp_port=1)
        presence.read_presence(rental.pk).result(PATIENCE)
        assert presence.present_devices(rental) is None
        reading = presence.last_reading(rental)
        assert reading is not None
        assert reading.silent == {answering.pk}


# The whole way, with the worker and its clock in a process of its own


@pytest.fixture
def _running() -> Iterator[None]:
    connections.close_all()
    process = multiprocessing.get_context("fork").Process(target=run_workers, args=(["admission"], flow.CRON))
    process.start()
    yield
    process.terminate()
    process.join(PATIENCE)


@pytest.mark.usefixtures("_running")
def test_an_end_is_felt_when_its_moment_comes(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _, relay = stand(rental)
    with relay.connect() as client:
        runs_until = timezone.now() + timedelta(seconds=3)
        Rental.objects.filter(pk=rental.pk).update(runs_until=runs_until)
        assert not is_cut(client)
        assert is_cut_soon(client)
        assert timezone.now() > runs_until
