"""What the clock rings for about devices, and what becomes of them when their account is closed."""

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.core.cache import cache
from django.utils import timezone

from accounts.models import OperationLog, User
from accounts.services import close_account
from acl.devices import jobs, presence, services
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.node_keys import NewDevice
from acl.devices.services import admission_rows, erasure
from containers.models import Relay
from derpmgmt import flow
from serials.rentals.jobs import close_rental
from serials.rentals.models import Rental
from tests.factories import DeviceFactory, RelayFactory, RentalFactory

pytestmark = pytest.mark.django_db(transaction=True)

KEYS = [f"{number:02x}" * 32 for number in range(1, 30)]
A, B, C = KEYS[:3]


@pytest.fixture
def rental() -> Rental:
    return RentalFactory(days=60)


@pytest.fixture
def relay(rental: Rental) -> Relay:
    return RelayFactory(rental=rental)


def on_trial(rental: Rental, relay: Relay, key: str) -> Device:
    """A device that has a provisional place and may have proven itself."""
    now = timezone.now()
    return DeviceFactory(
        rental=rental, node_key=key, knocks=1, first_seen_at=now - timedelta(minutes=4),
        last_seen_at=now - timedelta(minutes=4), last_relay=relay, stayed_at=now - timedelta(minutes=2),
        trial_until=now + timedelta(minutes=3),
    )  # fmt: skip


def asked(rental: Rental, relay: Relay, key: str, **fields: Any) -> services.Asked:
    values: dict[str, Any] = {"ip": "203.0.113.77", "is_allowed": True, "reason": "approved"}
    return services.Asked(
        relay=relay.pk, rental=rental.pk, node_key=key, at=timezone.now(), **(values | fields)
    )


def settle() -> None:
    """Ring, and wait for the thread."""
    jobs.settle_trials()
    if jobs._settling is not None:
        jobs._settling.result(timeout=30)


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[set[int]]]:
    """Has relays answer with these keys (None: they cannot be asked); returns whose were asked, look by look."""

    def answer(*present: str | None) -> list[set[int]]:
        looks: list[set[int]] = []

        def finder(rentals: set[int]) -> Callable[[Device], bool | None]:
            looks.append(rentals)
            return lambda device: None if present == (None,) else device.node_key in present

        monkeypatch.setattr(presence, "finder", finder)
        return looks

    return answer


def test_no_relay_is_asked_when_no_device_is_on_trial(
    rental: Rental, relay: Relay, look: Callable[..., list[set[int]]]
) -> None:
    looks = look(A)
    settle()
    assert looks == []


def test_devices_on_trial_are_settled_by_what_relays_say(
    rental: Rental, relay: Relay, look: Callable[..., list[set[int]]]
) -> None:
    stays, went = on_trial(rental, relay, A), on_trial(rental, relay, B)
    looks = look(A)
    settle()
    stays.refresh_from_db()
    went.refresh_from_db()
    assert (stays.status, went.status) == ("approved", "pending")
    assert looks == [{rental.pk}]


@pytest.mark.parametrize(
    ("present", "is_cut"), [(None, True), (B, False)], ids=["unasked", "gone"]
)  # fmt: skip
def test_who_lost_his_place_is_cut_unless_he_is_known_to_be_gone(
    rental: Rental, relay: Relay, look: Callable[..., list[set[int]]], present: str | None, is_cut: bool
) -> None:  # fmt: skip
    on_trial(rental, relay, A)
    Device.objects.update(trial_until=timezone.now())
    look(present)
    for _ in range(2):
        settle()
    rung = [job.func_name for job in django_rq.get_queue("admission").jobs]
    assert rung == ["acl.devices.jobs.cut_owed"] * is_cut
    # Should this bell be lost, the sweep finds it.
    django_rq.get_queue("admission").empty()
    with time_machine.travel(timezone.now() + timedelta(seconds=11), tick=False):
        jobs.sweep_cuts()
    assert len(django_rq.get_queue("admission").jobs) == is_cut
    assert services.window_until(rental) == rental.created_at + DevicePolicy.ENROL_FOR


def test_nothing_is_asked_twice_when_relays_hang(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_trial(rental, relay, A)
    looks: list[int] = []

    def hang(_rentals: set[int]) -> Callable[[Device], bool | None]:
        looks.append(1)
        time.sleep(0.5)
        return lambda _device: None

    monkeypatch.setattr(presence, "finder", hang)
    for _ in range(3):
        jobs.settle_trials()
    assert jobs._settling is not None
    jobs._settling.result(timeout=30)
    assert len(looks) == 1
    settle()
    assert len(looks) == 2


def test_old_admissions_go_however_many_there_are(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission_rows, "_DELETE_AT_ONCE", 10)
    services.record_admissions([asked(rental, relay, key) for key in KEYS[:25]])
    Admission.objects.exclude(node_key=A).update(at=timezone.now() - timedelta(days=31))
    jobs.tidy_devices()
    assert Admission.objects.get().node_key == A


def test_the_rest_is_tidied_when_one_part_fails(
    rental: Rental, relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_now: object) -> int:
        raise ValueError("broken")

    monkeypatch.setattr(services, "tell_waiting", fail)
    DeviceFactory(rental=rental, node_key=A, knocks=1, last_seen_at=timezone.now() - timedelta(hours=1))
    jobs.tidy_devices()
    assert not Device.objects.exists()


def test_the_clock_rings_for_devices() -> None:
    rung = {tick.job: tick.seconds for tick in flow.CRON}
    assert rung[jobs.settle_trials] == 5
    assert rung[jobs.sweep_checking] == 5
    assert rung[jobs.sweep_cuts] == 10
    assert rung[jobs.tidy_devices] == 60


# Closing the account


@pytest.fixture
def lived(rental: Rental, relay: Relay) -> Rental:
    """A customer with devices in every state, who was seen, with rules of their own."""
    devices = services.add_devices(
        rental=rental, devices=[NewDevice(A, "wang's-laptop"), NewDevice(B, "old")], by=rental.user, ip="203.0.113.77"
    ).added  # fmt: skip
    services.revoke_device(device=devices[1], by=rental.user)
    DeviceFactory(rental=rental, node_key=C, last_seen_at=timezone.now(), last_ip="203.0.113.77")
    services.set_open(rental=rental, is_open=True, by=rental.user)
    DevicePolicy.objects.update(verify_url="https://hs.example.com/verify")
    services.record_admissions([asked(rental, relay, key) for key in (A, C)])
    services.record_seen([asked(rental, relay, A)])
    cache.set(f"presence:{rental.pk}", {"at": time.time(), "present": {}})
    return rental


def begin_closing(rental: Rental) -> User:
    close_account(user=rental.user, by=None)
    close_rental(rental.user_id)
    return User.objects.get(pk=rental.user_id)


def assert_forgotten(rental: Rental) -> None:
    assert set(Device.objects.filter(rental=rental).values_list("node_key", "status", "name", "last_ip")) == {
        (A, "revoked", "", None),
        (B, "revoked", "", None),
    }
    assert not Admission.objects.filter(rental=rental).exists()
    policy = DevicePolicy.objects.get(rental=rental)
    assert (policy.enrol_until, policy.is_open, policy.verify_url) == (None, False, "")
    log = OperationLog.objects.filter(subject=rental.user_id)
    assert not log.filter(target__contains="laptop").exists()
    assert log.filter(action="device.added").count() == 1
    assert list(services.devices_left(rental.user)) == []


def test_devices_are_forgotten_when_their_account_is_closed(lived: Rental) -> None:
    user = begin_closing(lived)
    assert len(list(services.devices_left(user))) == 1
    told = user.notices.count()
    for _ in range(2):
        jobs.destroy_devices(user.pk)
        assert_forgotten(lived)
    assert presence.present_devices(lived) is None
    assert cache.get(f"presence:{lived.pk}") is None
    assert user.notices.count() == told


def test_nothing_is_forgotten_before_the_rental_is_closed(lived: Rental) -> None:
    close_account(user=lived.user, by=None)
    jobs.destroy_devices(lived.user_id)
    assert Device.objects.filter(rental=lived, status=Device.Status.APPROVED).count() == 1
    assert Admission.objects.count() == 2


@pytest.mark.parametrize("step", ["note_changed", "DevicePolicy", "OperationLog", "Admission"])
def test_what_is_left_is_forgotten_later_when_it_dies_at_a_step(
    lived: Rental, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = begin_closing(lived)

    class Dies:
        def __getattr__(self, _name: str) -> Any:
            raise KeyboardInterrupt

        def __call__(self, *_values: Any) -> Any:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(erasure, step, Dies())
        with pytest.raises(KeyboardInterrupt):
            jobs.destroy_devices(user.pk)
    assert len(list(services.devices_left(user))) == 1
    jobs.destroy_devices(user.pk)
    assert_forgotten(lived)


def test_relays_that_still_ask_leave_no_trace_when_the_account_is_closed(lived: Rental, relay: Relay) -> None:
    user = begin_closing(lived)
    jobs.destroy_devices(user.pk)
    late = [asked(lived, relay, A), asked(lived, relay, KEYS[9], is_allowed=False, reason="unknown")]
    services.record_admissions(late)
    services.record_seen(late)
    assert_forgotten(lived)


def test_closing_goes_on_ringing_while_devices_are_left(lived: Rental) -> None:
    django_rq.get_connection("default").flushdb()
    close_account(user=lived.user, by=None)
    rung = {job.func_name for job in django_rq.get_queue("default").jobs}
    assert "acl.devices.jobs.destroy_devices" in rung
    assert services.devices_left in flow.ANSWERS["closing_left"]
