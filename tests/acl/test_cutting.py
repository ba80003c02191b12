"""Who may not be at a relay any more is cut off it."""

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.db import transaction
from django.utils import timezone

from accounts.services import ban_user, unban_user
from acl import jobs, presence
from acl.models import Device, DevicePolicy
from acl.services import devices
from containers.derp import keys
from containers.models import Gate
from containers.models import Relay as RelayRow
from containers.services import gates
from serials.jobs import sweep_rentals
from serials.models import Rental, RentalSpan
from serials.services import pause_rental
from tests.acl.factories import make_rental
from tests.acl.standing import _soon as _soon
from tests.acl.standing import add_device, add_row, drain, is_cut_soon, rung
from tests.acl.standing import looks as looks
from tests.acl.standing import rental as rental
from tests.acl.standing import stand as stand
from tests.derp.conftest import certificate as certificate
from tests.derp.conftest import loop_thread as loop_thread
from tests.derp.conftest import start_sandbox_relay as start_sandbox_relay
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE, Certificate, Relay, ScriptedServer
from tests.derp.test_derp_presence import is_cut

pytestmark = pytest.mark.django_db(transaction=True)


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
