"""Device checking that was switched off stays so only while what was sold allows it."""

from datetime import timedelta

import django_rq
import pytest
import time_machine
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts.models import Notice
from accounts.services import notices
from acl.devices import jobs, services
from acl.devices.models import DevicePolicy
from acl.devices.services import devices
from containers.models import Gate, Relay
from containers.services import gates
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import pause_rental
from tests.acl.asking import ALLOWED, REFUSED, A, approve, knock
from tests.acl.device_world import browser as browser
from tests.acl.device_world import show
from tests.acl.standing import rung
from tests.factories import DeviceFactory, DevicePolicyFactory, RelayFactory, RentalFactory, RentalSpanFactory

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def rental() -> Rental:
    """Everybody gets in; in ten days time begins that forbids it."""
    rental = RentalFactory(days=60)
    DevicePolicyFactory(rental=rental)
    span = rental.spans.get()
    begins = timezone.now() + timedelta(days=10)
    RentalSpan.objects.filter(pk=span.pk).update(ends_at=begins)
    RentalSpanFactory(
        rental=rental, redemption=span.redemption, starts_at=begins, ends_at=span.ends_at, may_open=False
    )
    devices.set_open(rental=rental, is_open=True, by=rental.user)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


def later(**delta: float) -> time_machine.travel:
    return time_machine.travel(timezone.now() + timedelta(**delta), tick=False)


def test_no_stranger_comes_in_from_the_moment_on_at_which_it_is_forbidden(
    rental: Rental, relay: Relay
) -> None:
    approve(rental, "77" * 32)
    assert knock(relay, A) == ALLOWED
    assert services.gate_list(relay.server_id) == [(relay.pk, "*")]
    with later(days=9, hours=23):
        assert knock(relay, A) == ALLOWED
    with later(days=10, seconds=1):
        assert knock(relay, A) == REFUSED
        assert services.gate_list(relay.server_id) == [(relay.pk, "77" * 32)]
    # The grace goes by the last span.
    RentalSpan.objects.filter(may_open=False).update(ends_at=timezone.now() + timedelta(days=20))
    Rental.objects.update(ends_at=timezone.now() + timedelta(days=20))
    with later(days=30):
        assert knock(relay, A) == REFUSED


def test_a_revoked_device_stays_out_of_open_relays_while_the_panel_is_away(
    rental: Rental, relay: Relay
) -> None:
    waiting = DeviceFactory(rental=rental, node_key="88" * 32)
    for change, key in ((services.ignore_device, "-" + "88" * 32), (services.approve_device, None)):
        Gate.objects.update(list_changed_at=None)
        change(device=waiting, by=rental.user)
        assert Gate.objects.get().list_changed_at
        shut_out = [(relay.pk, key)] if key else []
        assert services.gate_list(relay.server_id) == [(relay.pk, "*"), *shut_out]


def test_whether_it_is_allowed_costs_no_query_more(rental: Rental, relay: Relay) -> None:
    knock(relay, A)
    with CaptureQueriesContext(connection) as queries:
        assert knock(relay, A) == ALLOWED
    asked = [query["sql"] for query in queries if "containers_gate" not in query["sql"]]
    assert len(asked) == 2


def test_checking_comes_back_by_itself_and_the_customer_is_told(
    rental: Rental, relay: Relay, browser: Client
) -> None:
    jobs.sweep_checking()
    assert DevicePolicy.objects.get().is_open
    Gate.objects.update(list_changed_at=None)
    with later(days=10, seconds=1):
        assert "Device checking is off." not in show(browser)
        django_rq.get_queue("admission").empty()
        for _ in range(2):
            jobs.sweep_checking()
        assert rung() == [("cut_owed", rental.pk)]
    policy = DevicePolicy.objects.get()
    assert not policy.is_open
    assert policy.cut_owed_at is not None
    assert Gate.objects.get().is_list_late
    assert rental.user.suffered.filter(action="devices.checking_on", actor=None).count() == 1
    written = notices.render(Notice.objects.get(kind="checking_on"))
    assert "does not allow that" in written.text
    assert "http://testserver/devices/" in written.html


def test_checking_comes_back_at_once_when_such_time_begins_at_once(rental: Rental, relay: Relay) -> None:
    RentalSpan.objects.update(may_open=False)
    jobs.enforce_rental(rental.pk)
    assert not DevicePolicy.objects.get().is_open


def test_the_switch_stays_as_it_is_while_the_rental_rests(rental: Rental, relay: Relay) -> None:
    RentalSpan.objects.update(may_open=False)
    pause_rental(rental=rental, by=None)
    jobs.sweep_checking()
    assert DevicePolicy.objects.get().is_open
