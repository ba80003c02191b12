"""Connections follow rights: who is cut off relays that run, who stays, and what pages learn about who is there."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.core.cache import cache
from django.db import connections, transaction
from django.test import override_settings
from django.utils import timezone

from accounts.services import ban_user, unban_user
from acl import jobs, presence
from acl.models import Admission, Device, DevicePolicy
from acl.services import devices
from containers.derp import keys
from containers.derp.client import DerpClient
from containers.models import Gate
from containers.models import Relay as RelayRow
from containers.services import gates
from derpmgmt import flow
from derpmgmt.lib.workers import run_scheduler, run_worker
from serials.jobs import sweep_rentals
from serials.models import Rental, RentalSpan
from serials.services import pause_rental
from tests.acl.factories import make_relay, make_rental, make_server
from tests.derp.conftest import certificate as certificate
from tests.derp.conftest import loop_thread as loop_thread
from tests.derp.conftest import start_sandbox_relay as start_sandbox_relay
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE, Certificate, Relay, ScriptedServer
from tests.derp.test_derp_presence import is_cut

pytestmark = pytest.mark.django_db(transaction=True)

NOWHERE = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://127.0.0.1:1/0",
    }
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second look comes sooner, and no look outlives its test."""
    monkeypatch.setattr(presence, "LOOK_AGAIN_SECONDS", 0.1)
    yield
    drain()


def drain() -> None:
    """Wait for what runs in threads."""
    threads = presence._threads_of(os.getpid())
    deadline = time.monotonic() + PATIENCE
    while threads._work_queue.qsize() or threads._idle_semaphore._value < len(threads._threads):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def rental() -> Rental:
    return make_rental(days=60)


@pytest.fixture
def stand(start_sandbox_relay: Callable[..., Relay]) -> Callable[[Rental], tuple[RelayRow, Relay]]:
    """Put a running relay of a rental onto a server of its own on loopback."""

    def stand(rental: Rental) -> tuple[RelayRow, Relay]:
        runs = start_sandbox_relay()
        row = add_row(rental, runs.derp_port, runs.cert_sha256, runs.public_key, runs.mesh_key)
        return row, runs

    return stand


def add_row(rental: Rental, port: int, cert_sha256: str, public_key: str, mesh_key: str) -> RelayRow:
    server = make_server()
    server.ssh_port = port  # servers behind one address are told apart by it
    server.address = "127.0.0.1"
    server.save()
    slots = set(RelayRow.objects.filter(rental=rental).values_list("slot", flat=True))
    return make_relay(
        rental,
        slot=next(slot for slot in (1, 2, 3) if slot not in slots),
        server=server,
        derp_port=port,
        certificate_sha256=cert_sha256,
        public_key=public_key,
        mesh_key=mesh_key,
    )


def add_device(rental: Rental, client: DerpClient, **fields: Any) -> Device:
    values: dict[str, Any] = {"status": Device.Status.APPROVED, "approved_at": timezone.now()}
    return Device.objects.create(rental=rental, node_key=client.public_key, **(values | fields))


def rung(queue: str = "admission") -> list[tuple[str, Any]]:
    return [(job.func_name.rpartition(".")[2], job.args[0]) for job in django_rq.get_queue(queue).jobs]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the looks at relays that have ended; the second one leaves time for what happens between the two."""
    ended = threading.Semaphore(0)
    ask_each = presence._ask_each

    def ask_and_tell(*args: Any) -> Any:
        try:
            return ask_each(*args)
        finally:
            ended.release()

    monkeypatch.setattr(presence, "_ask_each", ask_and_tell)
    monkeypatch.setattr(presence, "LOOK_AGAIN_SECONDS", 2.0)
    return ended


def is_cut_soon(client: DerpClient) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_cut(client):
            return True
        time.sleep(0.02)
    return False


# Revoked devices


def test_only_the_revoked_device_is_cut_and_from_all_its_customers_relays(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    (_, one), (_, two) = stand(rental), stand(rental)
    _, others = stand(make_rental())
    private_key = keys.generate_private_key()
    with (
        one.connect(private_key=private_key) as here,
        two.connect(private_key=private_key) as there,
        others.connect(private_key=private_key) as elsewhere,
        one.connect() as friend,
    ):
        device = add_device(rental, here)
        devices.revoke_device(device=device, by=rental.user)
        assert ("cut_device", device.pk) in rung()
        jobs.cut_device(device.pk)
        assert is_cut_soon(here)
        assert is_cut_soon(there)
        drain()
        assert [is_cut(client) for client in (elsewhere, friend)] == [False, False]


def test_a_device_is_cut_that_came_in_just_after_the_first_look(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], looks: threading.Semaphore
) -> None:
    _, relay = stand(rental)
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as first:
        device = add_device(rental, first, status=Device.Status.REVOKED)
        future = presence.cut_device(device.pk)
        assert future is not None
        assert is_cut_soon(first)
    assert looks.acquire(timeout=PATIENCE)
    with relay.connect(private_key=private_key) as late:
        future.result(PATIENCE)
        assert is_cut(late)


def test_a_device_stays_when_it_is_approved_again(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _, relay = stand(rental)
    with relay.connect() as client:
        device = add_device(rental, client)
        assert presence.cut_device(device.pk) is None
        assert presence.cut_device(device.pk + 1) is None
        assert not is_cut(client)


def test_the_second_look_is_left_out_when_the_device_is_approved_meanwhile(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], looks: threading.Semaphore
) -> None:
    _, relay = stand(rental)
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as first:
        device = add_device(rental, first, status=Device.Status.REVOKED)
        future = presence.cut_device(device.pk)
        assert future is not None
        assert is_cut_soon(first)
    Device.objects.update(status=Device.Status.APPROVED)
    assert looks.acquire(timeout=PATIENCE)
    with relay.connect(private_key=private_key) as again:
        future.result(PATIENCE)
        assert not is_cut(again)


def test_the_others_are_cut_in_time_when_one_relay_hangs_and_one_is_away(
    rental: Rental,
    stand: Callable[[Rental], tuple[RelayRow, Relay]],
    start_scripted: Callable[..., ScriptedServer],
    certificate: Certificate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(presence, "RELAY_SECONDS", 1.0)
    hung = start_scripted(lambda connection: connection.recv(1) and time.sleep(3), certificate)
    add_row(rental, hung.port, certificate.sha256, "00" * 32, "ab" * 32)
    add_row(rental, 1, certificate.sha256, "00" * 32, "ab" * 32)
    _, relay = stand(rental)
    with relay.connect() as client:
        device = add_device(rental, client, status=Device.Status.REVOKED)
        started = time.monotonic()
        future = presence.cut_device(device.pk)
        assert future is not None
        assert is_cut_soon(client)
        future.result(PATIENCE)
        assert time.monotonic() - started < 4
        # Nobody's worker waits for it.
        started = time.monotonic()
        for _ in range(3):
            jobs.cut_device(device.pk)
        assert time.monotonic() - started < 1


def test_a_cut_is_finished_when_the_process_is_ending(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_count: int) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    monkeypatch.setattr(presence, "ThreadPoolExecutor", refuse)
    (_, one), (_, two) = stand(rental), stand(rental)
    with one.connect() as here, two.connect() as there:
        Rental.objects.update(runs_until=timezone.now())
        future = presence.cut_rental(rental.pk)
        assert future is not None
        future.result(PATIENCE)
        assert is_cut(here)
        assert is_cut(there)


# Rentals without rights


def end(rental: Rental) -> None:
    Rental.objects.filter(pk=rental.pk).update(runs_until=timezone.now() - timedelta(seconds=1))
    sweep_rentals()


@pytest.mark.parametrize(
    "take_away",
    [
        pytest.param(end, id="ended"),
        pytest.param(lambda rental: pause_rental(rental=rental, by=None), id="paused"),
        pytest.param(lambda rental: ban_user(user=rental.user, by=None), id="banned"),
    ],
)
def test_everybody_is_cut_when_a_rental_has_no_rights_any_more(
    take_away: Callable[[Rental], Any], rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, relay = stand(rental)
    gates.gate_of(row.server_id)
    _, others = stand(make_rental())
    with relay.connect() as client, relay.connect() as stranger, others.connect() as elsewhere:
        add_device(rental, client)
        take_away(rental)
        job, pk = next(one for one in rung() if one[0].startswith("enforce"))
        assert Gate.objects.get().list_changed_at is None
        getattr(jobs, job)(pk)
        assert is_cut_soon(client)
        assert is_cut_soon(stranger)
        drain()
        assert not is_cut(elsewhere)
        assert Gate.objects.get().is_list_late


def test_nobody_is_cut_and_no_list_changes_when_a_rental_has_its_rights(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    rental.redemptions.filter().update(at=timezone.now() - timedelta(days=1))
    row, relay = stand(rental)
    gates.gate_of(row.server_id)
    with relay.connect() as client:
        jobs.enforce_rental(rental.pk)
        drain()
        assert not is_cut(client)
    assert not Gate.objects.get().is_list_late


def test_the_lists_get_a_rental_back_when_it_has_new_time_or_its_owner_is_let_in_again(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, _relay = stand(rental)
    gates.gate_of(row.server_id)
    jobs.enforce_rental(rental.pk)  # its serial number was redeemed a moment ago
    assert Gate.objects.get().is_list_late
    Gate.objects.update(list_changed_at=None)
    ban_user(user=rental.user, by=None)
    django_rq.get_queue("admission").empty()
    unban_user(user=rental.user, by=None)
    assert rung() == [("enforce_user", rental.user_id)]
    jobs.enforce_user(rental.user_id)
    assert Gate.objects.get().is_list_late


def test_nothing_rings_when_a_ban_is_taken_back_with_its_transaction(rental: Rental) -> None:
    with transaction.atomic():
        ban_user(user=rental.user, by=None)
        transaction.set_rollback(True)
    assert rung() == []


@pytest.mark.parametrize("is_open", [False, True])
def test_only_known_devices_stay_when_devices_are_checked_again(
    is_open: bool, rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _, relay = stand(rental)
    now = timezone.now()
    DevicePolicy.objects.create(rental=rental, is_open=is_open)
    with (
        relay.connect() as known,
        relay.connect() as on_trial,
        relay.connect() as waiting,
        relay.connect() as stranger,
    ):
        add_device(rental, known)
        pending = Device.Status.PENDING
        add_device(rental, on_trial, status=pending, place_until=now + timedelta(minutes=1))
        add_device(rental, waiting, status=pending)
        jobs.enforce_devices(rental.pk)
        drain()
        assert [is_cut(one) for one in (known, on_trial)] == [False, False]
        assert [is_cut(one) for one in (waiting, stranger)] == [not is_open] * 2


def test_what_was_cut_lately_is_rung_for_again(rental: Rental) -> None:
    now = timezone.now()
    fields = {"rental": rental, "status": Device.Status.REVOKED}
    lately = Device.objects.create(node_key="aa" * 32, revoked_at=now - timedelta(seconds=30), **fields)
    Device.objects.create(node_key="bb" * 32, revoked_at=now - timedelta(hours=1), **fields)
    Device.objects.create(node_key="cc" * 32, revoked_at=now, rental=rental, status=Device.Status.APPROVED)
    ban_user(user=rental.user, by=None)
    django_rq.get_queue("admission").empty()
    for _ in range(2):
        jobs.sweep_cuts()
    assert sorted(rung()) == [("cut_device", lately.pk), ("enforce_user", rental.user_id)]


def test_checking_that_was_switched_on_again_lately_is_rung_for_again(rental: Rental) -> None:
    RentalSpan.objects.update(may_open=True)
    other = make_rental(days=60)
    DevicePolicy.objects.create(rental=other)
    for is_open in (True, False):
        devices.set_open(rental=rental, is_open=is_open, by=None)
    django_rq.get_queue("admission").empty()  # the bell is lost
    jobs.sweep_cuts()
    assert rung() == [("enforce_devices", rental.pk)]
    django_rq.get_queue("admission").empty()
    devices.set_open(rental=rental, is_open=True, by=None)
    jobs.sweep_cuts()
    assert rung() == []
    devices.set_open(rental=rental, is_open=False, by=None)
    django_rq.get_queue("admission").empty()
    with time_machine.travel(timezone.now() + presence.LOOK_BACK + timedelta(seconds=1), tick=False):
        jobs.sweep_cuts()
    assert rung() == []


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
        Admission.objects.create(rental=rental, node_key=client.public_key, at=at, **values)

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


def test_relays_are_asked_for_a_page_once_in_a_while(rental: Rental) -> None:
    for _ in range(3):
        presence.ask_presence(rental_pk=rental.pk)
    assert rung() == [("read_presence", rental.pk)]
    cache.clear()
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


# The whole way, with the clock and the worker in processes of their own


@pytest.fixture
def _running() -> Iterator[None]:
    connections.close_all()
    ticks = [tick for tick in flow.CRON if tick.queue == "admission"]
    processes = [
        multiprocessing.get_context("fork").Process(target=target, args=args)
        for target, args in ((run_worker, ("admission",)), (run_scheduler, (ticks,)))
    ]
    for process in processes:
        process.start()
    yield
    for process in processes:
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
