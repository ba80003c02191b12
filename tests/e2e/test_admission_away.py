"""Who gets in while the panel, the gate or the way to the server is gone: whom the gate knows, and never a stranger."""

import time
from collections.abc import Callable

import pytest
from django.conf import settings
from django.urls import reverse

from accounts.models import User
from acl.devices.models import Device
from acl.devices.node_keys import NewDevice
from acl.devices.services import add_devices, revoke_device
from containers.gate import gate_name
from containers.models import Gate, Relay
from derpmgmt.lib.crypto import keyed_hash
from fleet.engine import engine_errors
from fleet.models import Server
from serials.rentals.models import Rental
from tests.panel import world

from .conftest import Fleet, rest_no_more
from .door import Panel, Phone, assert_cut, assert_stays, let_in, visit_all, wait_for
from .door import browser as browser
from .door import new_relays as new_relays
from .door import panel as panel
from .door import relays as relays
from .door import workers as workers

pytestmark = pytest.mark.django_db(transaction=True)

ONE, TWO, STRANGER = Phone(1), Phone(2), Phone(9)
NAME = gate_name(settings.PANEL_ID)
# nginx takes a moment to read a new list.
NGINX_SECONDS = 1.0
IN, OUT = [True] * 3, [False] * 3


@pytest.fixture
def known(relays: list[Relay], rental: Rental, work: Callable[..., None]) -> list[Relay]:
    """The customer's relays, whose gates know their phones `ONE` and `TWO`."""
    devices = [NewDevice(phone.node_key) for phone in (ONE, TWO)]
    add_devices(rental=rental, devices=devices, by=rental.user)
    work()
    assert_delivered()
    return relays


def revoke(phone: Phone, rental: Rental) -> None:
    revoke_device(device=Device.objects.get(node_key=phone.node_key), by=rental.user)


def late() -> set[int]:
    """The servers whose gates do not have the newest list."""
    return {gate.server_id for gate in Gate.objects.all() if gate.is_list_late}


def assert_delivered() -> None:
    wait_for(lambda: not late())


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("how", ["stopped", "hung", "failing"])
def test_known_devices_get_in_by_the_list_while_the_panel_is_away(
    known: list[Relay], panel: Panel, rental: Rental, how: str
) -> None:
    assert ONE.gets_in(known[0])  # it was never at the others
    assert TWO.gets_in(known[0])
    revoke(TWO, rental)
    assert_delivered()
    time.sleep(NGINX_SECONDS)
    with panel.away(how):
        assert let_in([ONE, TWO, STRANGER], known) == {1: IN, 2: OUT, 9: OUT}
    assert let_in([ONE, TWO, STRANGER], known) == {1: IN, 2: OUT, 9: OUT}


def test_nobody_gets_in_while_the_gate_is_dead_and_a_visit_brings_it_back(
    fleet: Fleet, known: list[Relay], work: Callable[..., None], panel: Panel
) -> None:
    server = known[0].server
    with ONE.connect(known[0]) as stays:
        with fleet.reach(server) as reached, engine_errors():
            reached.engine.kill(NAME)  # by hand, so that it does not come back by itself
        assert let_in([ONE, STRANGER], known[:1]) == {1: [False], 9: [False]}
        with panel.away("stopped"):
            assert let_in([ONE, STRANGER], known[:1]) == {1: [False], 9: [False]}
        assert let_in([ONE, STRANGER], known[1:]) == {1: IN[1:], 9: OUT[1:]}
        visit_all()
        work()
        assert_stays(stays)
    assert let_in([ONE, STRANGER], known) == {1: IN, 9: OUT}
    with panel.away("stopped"):
        assert let_in([ONE, STRANGER], known) == {1: IN, 9: OUT}


@pytest.mark.usefixtures("workers")
def test_a_revocation_reaches_the_gate_when_its_server_is_back(
    fleet: Fleet, known: list[Relay], work: Callable[..., None], panel: Panel, rental: Rental
) -> None:
    away = known[0].server
    staff = world.enter(User.Role.ADMIN, has_factor=True)
    User.objects.update(language="en")

    def warns(server: Server) -> bool:
        page = staff.get(reverse("admin:fleet_server_change", args=[server.pk])).content.decode()
        assert 'id="gate"' in page
        return "have not been delivered since" in page

    fleet.host_of(away).break_it("ssh_hung")
    with TWO.connect(known[0]) as client:
        since = time.monotonic()
        revoke(TWO, rental)
        assert_cut(since, client)  # which takes no SSH
    assert let_in([ONE, TWO], known) == {1: IN, 2: OUT}  # nor does the panel's own answer
    wait_for(lambda: late() == {away.pk})
    assert [warns(relay.server) for relay in known] == [True, False, False]

    fleet.host_of(away).heal()
    rest_no_more()
    work(sweep=True)
    assert not late()
    assert not warns(away)
    time.sleep(NGINX_SECONDS)
    with panel.away("stopped"):
        assert let_in([ONE, TWO], known) == {1: IN, 2: OUT}


def test_nobody_gets_in_by_a_gate_with_a_wrong_secret(
    known: list[Relay], work: Callable[..., None], panel: Panel
) -> None:
    wrong = "w" * 43
    Gate.objects.filter(server=known[0].server).update(secret=wrong, secret_hash=keyed_hash("gate", wrong))
    wait_for(lambda: let_in([ONE], known[:1]) == {1: [False]})  # secrets are read once a second
    assert let_in([ONE, STRANGER], known) == {1: [False, True, True], 9: OUT}
    visit_all()  # it finds another secret at the gate than it should have
    work()
    assert let_in([ONE, STRANGER], known) == {1: IN, 9: OUT}
