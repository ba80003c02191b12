"""Who gets in while the panel is there: the customer's devices and nobody else, and out again within two seconds.

Real relays ask real gates, which ask the panel's own endpoint over HTTP; devices are keys that connect.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta

import pytest
import time_machine
from django.test import Client
from django.utils import timezone

from accounts.models import Notice, User
from accounts.services import ban_user, unban_user
from acl.devices import admission_writer
from acl.devices import jobs as acl_jobs
from acl.devices.models import Device
from acl.devices.node_keys import NewDevice
from acl.devices.services import add_devices, close_window
from containers.derp.client import DerpClient
from containers.models import Relay
from serials.numbers.services import redeem_serial
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental, resume_rental
from tests.factories import RedeemedRentalFactory, SerialNumberFactory, UserFactory

from .door import Phone, assert_cut, assert_stays, let_in, press, wait_for
from .door import browser as browser
from .door import new_relays as new_relays
from .door import panel as panel
from .door import relays as relays
from .door import workers as workers

pytestmark = pytest.mark.django_db(transaction=True)

ONE, TWO, THREE, STRANGER = Phone(1), Phone(2), Phone(3), Phone(9)
IN, OUT = [True] * 3, [False] * 3


def add(rental: Rental, *phones: Phone) -> None:
    devices = [NewDevice(phone.node_key, f"phone {phone.number}") for phone in phones]
    add_devices(rental=rental, devices=devices, by=rental.user)


def row(phone: Phone) -> Device:
    return Device.objects.get(node_key=phone.node_key)


def approved() -> set[str]:
    return set(Device.objects.filter(status="approved").values_list("node_key", flat=True))


@pytest.fixture
def other_relays(new_relays: list[Relay], work: Callable[..., None]) -> list[Relay]:
    """Another customer's, on the same servers; the phone `TWO` is theirs."""
    other = UserFactory()
    rental = RedeemedRentalFactory(user=other)
    work()
    close_window(rental=rental, by=other)
    add(rental, TWO)
    work()
    made = list(Relay.objects.in_map().filter(rental=rental).select_related("server"))
    assert len(made) == 3
    return made


# Ways in


def test_a_stranger_stays_out_and_a_pasted_device_comes_in(relays: list[Relay], browser: Client) -> None:
    assert let_in([ONE, STRANGER], relays) == {1: OUT, 9: OUT}
    press(browser, "device-add", text=f"my phone nodekey:{ONE.node_key}", sure=1, key=ONE.node_key)
    assert let_in([ONE, STRANGER], relays) == {1: IN, 9: OUT}


def test_devices_are_approved_by_themselves_up_to_the_limit_and_not_one_more(
    new_relays: list[Relay], rental: Rental, work: Callable[..., None]
) -> None:
    # All knock from one address, which takes half of the places at most by itself.
    RentalSpan.objects.update(device_limit=4)
    add(rental, Phone(4), Phone(5))
    mine = approved() | {ONE.node_key, TWO.node_key}
    home, visited, _last = new_relays
    with time_machine.travel(timezone.now(), tick=True) as clock, ONE.connect(home) as stays:
        assert let_in([TWO, THREE], new_relays) == {2: IN, 3: IN}  # on trial
        admission_writer.flush()
        for _ in range(2):
            clock.shift(timedelta(seconds=91))
            settle()
        assert TWO.gets_in(visited)  # it comes again after longer than a diagnosis takes
        assert approved() == mine
        assert_stays(stays)
        work()
        for _ in range(2):
            assert let_in([ONE, TWO, THREE], new_relays) == {1: IN, 2: IN, 3: OUT}
            clock.shift(timedelta(seconds=92))
            settle()
        assert approved() == mine


def test_the_keys_of_a_diagnosis_leave_no_trace_and_refuse_nobody(
    relays: list[Relay], browser: Client, work: Callable[..., None]
) -> None:
    RentalSpan.objects.update(device_limit=4)
    press(browser, "window-open", minutes=60)
    throw_away = [Phone(number) for number in range(20, 26)]
    with time_machine.travel(timezone.now(), tick=True) as clock:
        with ExitStack() as left_open:
            for phone in throw_away:
                left_open.enter_context(phone.connect(relays[0]))
            assert let_in([ONE], relays) == {1: IN}
            admission_writer.flush()
            for seconds in (31, 20):
                clock.shift(timedelta(seconds=seconds))
                settle()
            assert not approved()
        # Their connections are gone now; the customer's device stays.
        with ONE.connect(relays[0]):
            admission_writer.flush()
            for _ in range(2):
                clock.shift(timedelta(seconds=91))
                settle()
        assert approved() == {ONE.node_key}
        clock.shift(timedelta(minutes=61))
        acl_jobs.tidy_devices()
        work()
        assert list(Device.objects.values_list("node_key", flat=True)) == [ONE.node_key]
        assert not Notice.objects.filter(kind="device_waiting").exists()


def settle() -> None:
    """What the clock rings for every five seconds; the relays are asked who is connected."""
    acl_jobs.settle_trials()
    if acl_jobs._settling is not None:
        acl_jobs._settling.result(10)


def test_a_device_that_knocked_in_vain_comes_in_after_a_click(relays: list[Relay], browser: Client) -> None:
    assert not ONE.gets_in(relays[1])
    admission_writer.flush()  # which the web server's own thread does every second
    page = browser.get("/devices/").content.decode()
    assert f"/devices/{row(ONE).pk}/approve/" in page
    press(browser, "device-approve", row(ONE).pk)
    assert let_in([ONE, STRANGER], relays) == {1: IN, 9: OUT}


# Out again, within two seconds


@pytest.mark.usefixtures("workers")
def test_a_revoked_device_is_cut_at_once_and_stays_out_everywhere(
    relays: list[Relay], rental: Rental, browser: Client
) -> None:
    add(rental, ONE, THREE)
    with ONE.connect(relays[0]) as home, ONE.connect(relays[2]) as visit, THREE.connect(relays[0]) as stays:
        since = time.monotonic()
        press(browser, "device-revoke", row(ONE).pk)
        assert_cut(since, home, visit)
        assert let_in([ONE], relays) == {1: OUT}
        assert_stays(stays)
        press(browser, "device-approve", row(ONE).pk)
        assert let_in([ONE], relays) == {1: IN}
        assert_stays(stays)


def end(rental: Rental) -> float:
    """The rental's last moment, as the passing of time brings it; its time.monotonic()."""
    ends_at = timezone.now() + timedelta(seconds=1.5)
    RentalSpan.objects.filter(rental=rental).update(ends_at=ends_at)
    Rental.objects.filter(pk=rental.pk).update(ends_at=ends_at, runs_until=ends_at)
    return time.monotonic() + 1.5


def pause(rental: Rental) -> float:
    pause_rental(rental=rental, by=None)
    return time.monotonic()


def ban(rental: Rental) -> float:
    ban_user(user=rental.user, by=None)
    return time.monotonic()


def renew(rental: Rental) -> None:
    redeem_serial(code=SerialNumberFactory().code, user=rental.user, by=rental.user)


def resume(rental: Rental) -> None:
    resume_rental(rental=rental, by=None)


def unban(rental: Rental) -> None:
    unban_user(user=User.objects.get(pk=rental.user_id), by=None)


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(("lose", "regain"), [(end, renew), (pause, resume), (ban, unban)])
def test_everybody_of_one_customer_is_cut_until_he_has_his_rights_back(
    other_relays: list[Relay],
    relays: list[Relay],
    rental: Rental,
    work: Callable[..., None],
    lose: Callable[[Rental], float],
    regain: Callable[[Rental], None],
) -> None:
    add(rental, ONE, THREE)
    with ExitStack() as stack:

        def connect(phone: Phone, relay: Relay) -> DerpClient:
            return stack.enter_context(phone.connect(relay))

        mine = [connect(ONE, relays[0]), connect(ONE, relays[1]), connect(THREE, relays[2])]
        others = [connect(TWO, relay) for relay in other_relays]
        since = lose(rental)
        assert_stays(*(mine if since > time.monotonic() else []))
        assert_cut(since, *mine)
        wait_for(lambda: let_in([ONE, THREE], relays) == {1: OUT, 3: OUT})  # a ban counts within a second
        assert let_in([ONE, THREE], relays) == {1: OUT, 3: OUT}
        assert_stays(*others)
        work()
        regain(rental)
        work()
        back = list(Relay.objects.in_map().filter(rental=rental).select_related("server"))
        assert [relay.pk for relay in back] == [relay.pk for relay in relays]
        wait_for(lambda: let_in([ONE, THREE], back) == {1: IN, 3: IN})
        assert let_in([STRANGER], back) == {9: OUT}
        assert_stays(*others)


@pytest.mark.usefixtures("workers")
def test_strangers_get_in_only_while_the_customer_does_not_check_devices(
    relays: list[Relay], rental: Rental, browser: Client
) -> None:
    add(rental, ONE)
    press(browser, "checking-stop", is_sure="on")
    assert let_in([ONE, STRANGER], relays) == {1: IN, 9: IN}
    with (
        ONE.connect(relays[0]) as stays,
        STRANGER.connect(relays[0]) as guest,
        STRANGER.connect(relays[1]) as other,
    ):
        since = time.monotonic()
        press(browser, "checking-start")
        assert_cut(since, guest, other)
        assert let_in([ONE, STRANGER], relays) == {1: IN, 9: OUT}
        assert_stays(stays)
