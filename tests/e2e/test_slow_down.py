"""The end of an allowance on real hosts: devices are slowed down to the lifeline and let go again while their connections live on."""

import time
from collections.abc import Callable

import pytest
from django.conf import settings as panel_settings
from django.utils import timezone

from acl.devices.node_keys import NewDevice
from acl.devices.services import add_devices
from containers import deploy
from containers.derp.client import ConnectionClosed, DerpClient
from containers.jobs.allowances import judge_rentals
from containers.models import Relay
from containers.services import images
from containers.services.relays import spec_of
from containers.spec import relay_name
from serials.rentals.models import Rental
from serials.rentals.services import add_traffic

from .conftest import Fleet, assert_in_order, rest_no_more, standing
from .door import Phone, assert_stays, visit_all, wait_for
from .door import browser as browser
from .door import new_relays as new_relays
from .door import panel as panel
from .door import relays as relays

pytestmark = pytest.mark.django_db(transaction=True)

ONE, TWO = Phone(1), Phone(2)
LIFELINE = 64_000
PACKET = b"p" * 1200
# So many packets are on their way at most: a relay drops what a receiver does not take.
WINDOW = 20
# What passes at once before the limit is felt, in bytes.
BURST = 65_568
# Through a relay that nobody slows down, on the slowest machine, in bytes a second.
FREE = 3 * LIFELINE


class Pair:
    """Two devices that stay connected to a relay, one sending to the other."""

    def __init__(self, relay: Relay) -> None:
        self.sender, self.receiver = ONE.connect(relay), TWO.connect(relay)

    @property
    def clients(self) -> tuple[DerpClient, DerpClient]:
        return self.sender, self.receiver

    def pump(self, seconds: float, most: int = 2**63) -> float:
        """Send for a while, or so many bytes; returns the bytes a second that arrived."""
        began, arrived, on_the_way = time.monotonic(), 0, 0
        while time.monotonic() - began < seconds and arrived < most:
            while on_the_way < WINDOW:
                self.sender.send_packet(TWO.node_key, PACKET, timeout=10)
                on_the_way += 1
            arrived += len(self.receiver.receive_packet(timeout=10).data)
            on_the_way -= 1
        rate = arrived / (time.monotonic() - began)
        for _packet in range(on_the_way):
            self.receiver.receive_packet(timeout=10)
        return rate

    def measure(self, seconds: float = 3.0) -> float:
        """Bytes a second once what may pass at once has passed."""
        self.pump(10.0, 2 * BURST)
        return self.pump(seconds)

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def ready(relays: list[Relay], rental: Rental, work: Callable[..., None], settings) -> list[Relay]:
    settings.LIFELINE_RATE = LIFELINE
    add_devices(rental=rental, devices=[NewDevice(phone.node_key) for phone in (ONE, TWO)], by=rental.user)
    work()
    return relays


@pytest.fixture
def judge(work: Callable[..., None]) -> Callable[[], None]:
    """What the clock does every few seconds: visits, verdicts, and what these ring for."""

    def run() -> None:
        visit_all()
        judge_rentals()
        work()
        for _time in range(5):
            if not Relay.objects.filter(rate_owed_at__isnull=False).exists():
                break
            # One that could not be made at once is tried again, as by the passing of time.
            rest_no_more()
            Relay.objects.update(rate_try_after=None)
            work(sweep=True)

    return run


def is_gone(client: DerpClient) -> bool:
    """Whether its relay does not answer any more."""
    try:
        client.ping(timeout=2)
    except (ConnectionClosed, OSError):
        return True
    return False


def comes_in(relay: Relay) -> bool:
    """Whether it listens, and lets a device in."""
    try:
        return ONE.gets_in(relay)
    except (ConnectionClosed, OSError):
        return False


def sell(rental: Rental, quota: int | None, at_quota: str = "throttle") -> None:
    rental.spans.update(quota_bytes=quota, at_quota=at_quota)


def slowed() -> list[int | None]:
    owed = Relay.objects.filter(rate_owed_at__isnull=False)
    assert not [(relay.status, relay.failure_code, relay.takes_rate, relay.rate_failures) for relay in owed]
    return sorted(set(Relay.objects.live().values_list("rate", flat=True)), key=str)


def ids(fleet: Fleet) -> set[str]:
    return {item.container_id for server in fleet.servers for item in fleet.containers(server)}


def test_devices_are_slowed_down_and_let_go_while_connected_and_the_relay_still_starts_again(
    fleet: Fleet, ready: list[Relay], rental: Rental, judge: Callable[[], None], capsys
) -> None:
    relay, before_all = ready[0], ids(fleet)
    pair = Pair(relay)
    sell(rental, 10**9)
    judge()
    before = pair.measure()
    assert slowed() == [None]

    sell(rental, 1000)
    judge()
    assert slowed() == [LIFELINE]
    under = pair.measure()
    assert_stays(*pair.clients)

    add_traffic(rental=rental, size_bytes=10**12, by=None)
    judge()
    assert slowed() == [None]
    after = pair.measure()
    assert_stays(*pair.clients)
    assert ids(fleet) == before_all
    with capsys.disabled():
        print(f"\nbytes a second: before {before:.0f}, under {under:.0f}, after {after:.0f}")
    assert 0.8 * LIFELINE < under < 1.1 * LIFELINE
    assert before > FREE
    assert after > FREE

    # Slowed down again, it dies: it comes back by itself, as slow as it was.
    rental.traffic_grants.all().delete()
    judge()
    name = relay_name(panel_settings.PANEL_ID, relay.pk)
    with fleet.reach(relay.server) as reached:
        reached.engine.kill(name, signal="SIGQUIT")
        wait_for(lambda: is_gone(pair.sender), 60)
        wait_for(lambda: reached.engine.inspect_container(name)["RestartCount"] == 1, 60)
        wait_for(lambda: reached.engine.inspect_container(name)["State"]["Status"] == "running", 60)
    pair.close()
    wait_for(lambda: comes_in(relay), 60)
    pair = Pair(relay)
    assert pair.measure() < 1.1 * LIFELINE
    pair.close()
    visit_all()
    assert_in_order(fleet, rental)


def test_a_relay_from_before_is_left_alone_until_it_has_to_be_slowed_down(
    fleet: Fleet, ready: list[Relay], rental: Rental, judge: Callable[[], None]
) -> None:
    make_as_before(fleet, ready[0])
    old = ids(fleet)
    sell(rental, 10**9)
    pair = Pair(ready[0])
    pair.pump(10.0, BURST)
    pair.close()
    judge()
    judge()
    assert ids(fleet) == old

    sell(rental, 1000)
    judge()
    assert slowed() == [LIFELINE]
    # The others took their rates as they stood.
    assert len(ids(fleet) & old) == len(ready) - 1
    assert_in_order(fleet, rental)
    pair = Pair(ready[0])
    assert pair.measure() < 1.1 * LIFELINE
    pair.close()
    made = ids(fleet)
    sell(rental, None)
    judge()
    assert slowed() == [None]
    assert ids(fleet) == made


def test_what_was_sold_to_stop_stops_and_comes_back_as_it_was(
    fleet: Fleet, ready: list[Relay], rental: Rental, judge: Callable[[], None]
) -> None:
    ways = [(relay.pk, relay.server_id, relay.derp_port, relay.public_key) for relay in ready]
    sell(rental, 1000, "stop")
    judge()
    assert not any(standing(fleet).values())
    assert Rental.objects.get(pk=rental.pk).is_entitled(timezone.now())
    add_traffic(rental=rental, size_bytes=10**12, by=None)
    judge()
    back = assert_in_order(fleet, rental)
    assert [(relay.pk, relay.server_id, relay.derp_port, relay.public_key) for relay in back] == ways
    assert ONE.gets_in(back[0])


def make_as_before(fleet: Fleet, relay: Relay) -> None:
    """Put the container in its place that relays had before they took rates."""
    Relay.objects.filter(pk=relay.pk).update(takes_rate=False)
    relay = Relay.objects.select_related("server__gate").get(pk=relay.pk)
    with fleet.reach(relay.server) as reached:
        archive = images.find_image(relay.image, reached.engine.architecture)
        deploy.make_so(reached.engine, spec_of(relay, archive.tag), archive, lambda _step: None)
        host = reached.engine.inspect_container(relay_name(panel_settings.PANEL_ID, relay.pk))["HostConfig"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
