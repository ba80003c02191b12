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
from acl.devices import cutting, jobs, presence, services, sources
from acl.devices.models import Device, DevicePolicy
from acl.devices.services import devices
from containers.derp import keys
from containers.models import Gate
from containers.models import Relay as RelayRow
from containers.services import gates
from serials.rentals.jobs import sweep_rentals
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental
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
from tests.factories import DevicePolicyFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)


# Revoked devices


def test_only_the_revoked_device_is_cut_and_from_all_its_customers_relays(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    (_, one), (_, two) = stand(rental), stand(rental)
    _, others = stand(RentalFactory())
    private_key = keys.generate_private_key()
    with (
        one.connect(private_key=private_key) as here,
        two.connect(private_key=private_key) as there,
        others.connect(private_key=private_key) as elsewhere,
        one.connect() as friend,
    ):
        device = add_device(rental, here)
        add_device(rental, friend)
        devices.revoke_device(device=device, by=rental.user)
        assert ("cut_owed", rental.pk) in rung()
        jobs.cut_owed(rental.pk)
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
        devices.revoke_device(device=add_device(rental, first), by=None)
        future = cutting.cut(rental.pk)
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
        assert cutting.cut(rental.pk) is None
        devices.revoke_device(device=device, by=None)
        devices.approve_device(device=device, by=None)
        future = cutting.cut(rental.pk)
        assert future is not None
        future.result(PATIENCE)
        assert not is_cut(client)


def test_the_second_look_spares_who_was_approved_meanwhile(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], looks: threading.Semaphore
) -> None:
    _, relay = stand(rental)
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as first:
        devices.revoke_device(device=add_device(rental, first), by=None)
        future = cutting.cut(rental.pk)
        assert future is not None
        assert is_cut_soon(first)
    Device.objects.update(status=Device.Status.APPROVED)
    assert looks.acquire(timeout=PATIENCE)
    with relay.connect(private_key=private_key) as again:
        future.result(PATIENCE)
        assert not is_cut(again)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_look_that_goes_on_spares_who_was_approved_meanwhile(
    is_open: bool, rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    _, relay = stand(rental)
    devices.set_open(rental=rental, is_open=is_open, by=None)
    private_key = keys.generate_private_key()
    with relay.connect(private_key=private_key) as first:
        device = add_device(rental, first)
        devices.revoke_device(device=device, by=None)
        future = cutting.cut(rental.pk)
        assert future is not None
        assert is_cut_soon(first)
    # The relay was not silent long enough yet: who comes now is named in the same look.
    Device.objects.update(status=Device.Status.APPROVED)
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
        devices.revoke_device(device=add_device(rental, client), by=None)
        started = time.monotonic()
        future = cutting.cut(rental.pk)
        assert future is not None
        assert is_cut_soon(client)
        future.result(PATIENCE)
        assert time.monotonic() - started < 4
        # Nobody's worker waits for it.
        started = time.monotonic()
        for _ in range(3):
            jobs.cut_owed(rental.pk)
        assert time.monotonic() - started < 1


def test_a_cut_is_finished_when_the_process_is_ending(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_count: int) -> None:
        raise RuntimeError("cannot schedule new futures after interpreter shutdown")

    presence.start_apart(lambda: None).result(PATIENCE)  # The process has had its threads before.
    monkeypatch.setattr(presence, "ThreadPoolExecutor", refuse)
    (_, one), (_, two) = stand(rental), stand(rental)
    with one.connect() as here, two.connect() as there:
        Rental.objects.update(runs_until=timezone.now())
        assert cutting.record_loss(rental.pk)
        future = cutting.cut(rental.pk)
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
    _, others = stand(RentalFactory())
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
    DevicePolicyFactory(rental=rental, is_open=is_open)
    with (
        relay.connect() as known,
        relay.connect() as on_trial,
        relay.connect() as waiting,
        relay.connect() as stranger,
    ):
        add_device(rental, known)
        pending = Device.Status.PENDING
        add_device(rental, on_trial, status=pending, trial_until=now + timedelta(minutes=1))
        add_device(rental, waiting, status=pending)
        with transaction.atomic():
            devices.enforce(rental, now)
        jobs.cut_owed(rental.pk)
        drain()
        assert [is_cut(one) for one in (known, on_trial)] == [False, False]
        assert [is_cut(one) for one in (waiting, stranger)] == [not is_open] * 2


def test_a_device_that_the_own_verify_address_knows_no_longer_is_cut(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], monkeypatch: pytest.MonkeyPatch
) -> None:
    row, relay = stand(rental)
    DevicePolicyFactory(rental=rental, verify_url="https://hs.example.com/verify")
    answer = sources.Answer(sources.Verdict.NO)
    monkeypatch.setattr(sources, "ask_verify_url", lambda **_question: answer)
    with relay.connect() as client:
        add_device(rental, client, source=Device.Source.VERIFY_URL)
        services.ask_sources(rental_pk=rental.pk, relay_pk=row.pk, node_key=client.public_key, ip=None)
        assert rung() == [("cut_owed", rental.pk)]
        jobs.cut_owed(rental.pk)
        assert is_cut_soon(client)


# What is owed


def fail_once(rental: Rental) -> None:
    """A cut whose second look a relay did not answer."""
    future = cutting.cut(rental.pk)
    assert future is not None
    future.result(PATIENCE)
    assert DevicePolicy.objects.get(rental=rental).cut_owed_at


def swept(seconds: float) -> list[tuple[str, Any]]:
    """What the sweep rings for so much later."""
    django_rq.get_queue("admission").empty()
    with time_machine.travel(timezone.now() + timedelta(seconds=seconds), tick=False):
        jobs.sweep_cuts()
    return rung()


def test_a_revoked_device_is_cut_once_its_relay_can_be_asked_however_late(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, relay = stand(rental)
    with relay.connect() as client:
        device = add_device(rental, client)
        RelayRow.objects.update(derp_port=1)
        devices.revoke_device(device=device, by=None)
        fail_once(rental)
        assert not is_cut(client)
        assert swept(1) == []
        assert swept(3600) == [("cut_owed", rental.pk)]
        RelayRow.objects.update(derp_port=row.derp_port)
        jobs.cut_owed(rental.pk)
        assert is_cut_soon(client)
        drain()
    policy = DevicePolicy.objects.get()
    assert (policy.cut_owed_at, policy.cut_after) == (None, None)
    assert swept(3600) == []


def test_the_pause_between_tries_grows(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    stand(rental)
    RelayRow.objects.update(derp_port=1)
    with transaction.atomic():
        devices.enforce(rental, timezone.now())
    pauses = []
    for _time in range(7):
        now = timezone.now()
        fail_once(rental)
        cut_after = DevicePolicy.objects.get().cut_after
        assert cut_after
        pauses.append(round((cut_after - now).total_seconds(), -1))
    assert pauses == [30, 60, 120, 240, 480, 600, 600]
    with transaction.atomic():
        devices.enforce(rental, timezone.now())
    fail_once(rental)
    assert DevicePolicy.objects.get().cut_failures == 1, "what is owed anew has a count of its own"


def test_a_cut_that_raises_is_owed_on_and_tried_again_later(
    rental: Rental, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with transaction.atomic():
        devices.enforce(rental, timezone.now())

    def cannot(_rental_pk: int) -> bool:
        raise ValueError("broken")

    monkeypatch.setattr(cutting, "_look", cannot)
    fail_once(rental)
    assert f"the cut of rental {rental.pk}" in caplog.text
    policy, now = DevicePolicy.objects.get(), timezone.now()
    assert policy.cut_failures == 1
    assert cutting.due_cuts(now) == []
    assert cutting.due_cuts(now + timedelta(seconds=30)) == [rental.pk]


def test_a_cut_whose_bell_is_lost_is_rung_for_by_the_sweep(rental: Rental) -> None:
    RentalSpan.objects.update(may_open=True)
    for is_open in (True, False):
        devices.set_open(rental=rental, is_open=is_open, by=None)
    assert swept(1) == []  # the bell may still ring
    for _ in range(2):
        assert swept(11) == [("cut_owed", rental.pk)]


def test_a_ban_whose_bell_is_lost_is_found_while_relays_stand(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, relay = stand(rental)
    gates.gate_of(row.server_id)
    with relay.connect() as client:
        add_device(rental, client)
        ban_user(user=rental.user, by=None)
        assert swept(0) == [("cut_owed", rental.pk)]
        assert Gate.objects.get().is_list_late
        jobs.cut_owed(rental.pk)
        assert is_cut_soon(client)
        drain()
        assert swept(3600) == []
    # Another ban is another loss.
    unban_user(user=rental.user, by=None)
    assert swept(0) == []
    rental.user.refresh_from_db()
    ban_user(user=rental.user, by=None)
    assert swept(0) == [("cut_owed", rental.pk)]


def test_a_change_that_comes_while_a_cut_is_under_way_stays_owed(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]], looks: threading.Semaphore
) -> None:
    _, relay = stand(rental)
    with relay.connect() as one, relay.connect() as two:
        first, second = add_device(rental, one), add_device(rental, two)
        devices.revoke_device(device=first, by=None)
        future = cutting.cut(rental.pk)
        assert future is not None
        assert looks.acquire(timeout=PATIENCE)
        devices.revoke_device(device=second, by=None)
        future.result(PATIENCE)
    assert DevicePolicy.objects.get().cut_owed_at is not None


def test_a_cut_stays_owed_while_a_gate_may_let_in_by_an_old_list(
    rental: Rental, stand: Callable[[Rental], tuple[RelayRow, Relay]]
) -> None:
    row, relay = stand(rental)
    gate = gates.gate_of(row.server_id)
    Gate.objects.update(running_since=timezone.now())
    with relay.connect() as client:
        devices.revoke_device(device=add_device(rental, client), by=None)
    fail_once(rental)
    gates.record_delivered(gate=gate, list_hash="x", as_of=timezone.now())
    future = cutting.cut(rental.pk)
    assert future is not None
    future.result(PATIENCE)
    assert DevicePolicy.objects.get().cut_owed_at is None
