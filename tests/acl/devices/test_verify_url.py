"""Relays' questions about devices of customers who have a verify address of their own."""

from collections.abc import Callable
from typing import Any

import pytest
from django.core.cache import cache

from acl.devices import admission as hot_path
from acl.devices import sources
from acl.devices.models import Device, DevicePolicy
from acl.devices.services import devices, set_verify_url
from acl.devices.sources import SENTENCES, Answer
from containers.models import Relay
from containers.services import gates
from serials.rentals.models import Rental
from serials.rentals.services import pause_rental
from tests.acl.answering import _fresh as _fresh
from tests.acl.answering import open_house as open_house
from tests.acl.asking import ALLOWED, REFUSED, A, B, knock
from tests.derp.conftest import admission as admission
from tests.derp.parts import AdmissionServer
from tests.factories import DevicePolicyFactory, RelayFactory, RentalFactory

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("open_house")]

YES, NO = b'{"Allow":true}', b'{"Allow":false}'


@pytest.fixture
def rental(admission: AdmissionServer) -> Rental:
    """A rental without a window, whose customer has an address of their own."""
    rental = RentalFactory(days=60)
    DevicePolicyFactory(rental=rental, verify_url=admission.url)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen while the address is being asked."""
    ask = sources.ask_verify_url

    def arrange(act: Callable[[], object]) -> None:
        def ask_and_act(**values: Any) -> Answer:
            answer = ask(**values)
            act()
            return answer

        monkeypatch.setattr(sources, "ask_verify_url", ask_and_act)

    return arrange


def sources_of(rental: Rental) -> list[tuple[str, str, str]]:
    return list(Device.objects.filter(rental=rental).values_list("node_key", "status", "source"))


def test_whom_the_address_knows_comes_in_and_whom_it_forgets_stays_out(
    rental: Rental, relay: Relay, admission: AdmissionServer
) -> None:
    assert knock(relay, A) == ALLOWED
    assert sources_of(rental) == [(A, "approved", "verify-url")]
    admission.body = NO
    cache.clear()
    assert knock(relay, A) == REFUSED
    assert sources_of(rental) == []


def test_whom_the_address_forgot_stays_out_when_too_many_knock(
    rental: Rental, relay: Relay, admission: AdmissionServer
) -> None:
    assert knock(relay, A) == ALLOWED
    admission.body = NO
    cache.clear()
    for _ in range(hot_path.REFUSALS_PER_ADDRESS):
        hot_path._counts.add(("refused", relay.pk, "203.0.113.9"))
    asked = len(admission.questions)
    assert knock(relay, B) == REFUSED
    assert len(admission.questions) == asked
    assert knock(relay, A) == REFUSED
    assert sources_of(rental) == []


def test_whom_the_address_knew_comes_in_while_it_is_silent(
    rental: Rental, relay: Relay, admission: AdmissionServer
) -> None:
    assert knock(relay, A) == ALLOWED
    admission.status = 500
    cache.clear()
    assert (knock(relay, A), knock(relay, B)) == (ALLOWED, REFUSED)
    assert DevicePolicy.objects.get().verify_problem == SENTENCES["status"]


# What changes while it is asked


@pytest.mark.parametrize("url", ["", "https://other.example/verify"], ids=["removed", "changed"])
def test_an_answer_of_the_address_before_counts_no_more(
    rental: Rental, relay: Relay, meanwhile: Callable[..., None], monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setattr(devices, "check_verify_url", lambda _url: None)
    meanwhile(lambda: set_verify_url(rental=rental, url=url, by=rental.user))
    assert knock(relay, A) == REFUSED
    assert sources_of(rental) == []


def test_a_no_of_the_address_before_forgets_nobody_and_its_silence_is_no_problem(
    rental: Rental, relay: Relay, admission: AdmissionServer, meanwhile: Callable[..., None]
) -> None:
    assert knock(relay, A) == ALLOWED
    meanwhile(lambda: set_verify_url(rental=rental, url="", by=rental.user))
    for status in (200, 500):
        DevicePolicy.objects.update(verify_url=admission.url)
        admission.status, admission.body = status, NO
        cache.clear()
        assert knock(relay, A) == ALLOWED, status
        assert sources_of(rental) == [(A, "approved", "verify-url")]
        assert DevicePolicy.objects.get().verify_problem == ""


def test_nobody_comes_in_when_the_rental_rests_meanwhile(
    rental: Rental, relay: Relay, meanwhile: Callable[..., None]
) -> None:
    meanwhile(lambda: pause_rental(rental=rental, by=None, reason="test"))
    assert knock(relay, A) == REFUSED
    assert sources_of(rental) == []
