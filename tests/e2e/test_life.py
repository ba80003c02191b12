"""The rental's life on real hosts: the end, coming back, pause and resume, another certificate, closing."""

import socket
from datetime import timedelta
from typing import Any

import pytest
from django.conf import settings
from django.db.models import F
from django.utils import timezone

from accounts.models import Notice
from acl.devices.node_keys import NewDevice
from acl.devices.services.devices import add_devices
from acl.maps.derpmap import MapFormat
from acl.maps.jobs import sweep_maps
from acl.maps.models import AclConfig, MapRegion
from acl.maps.services.downloads import hand_out_map
from containers import jobs
from containers.derp import presence, stun
from containers.derp.client import DerpClient
from containers.derp.keys import generate_private_key, public_key_of
from containers.derp.probe import probe_relay
from containers.models import Relay
from containers.services.relays import target_of
from containers.services.rotation import rotate_relay
from fleet.models import Server
from serials.numbers.services import redeem_serial
from serials.rentals.models import Redemption, Rental, RentalSpan
from serials.rentals.services import (
    close_rental,
    credit_waiting_time,
    pause_rental,
    renew_rental,
    resume_rental,
)
from tests.factories import RedeemedRentalFactory, SerialNumberFactory

from .conftest import Fleet, assert_in_order, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)
DAY = timedelta(days=1)


def let_pass(time: timedelta) -> None:
    """What the passing of time does to rows: everything that was, or is to be, is so much nearer or longer ago."""
    moved: dict[type[Any], tuple[str, ...]] = {
        Rental: (
            "ends_at",
            "runs_until",
            "paused_at",
            "waiting_since",
            "plan_due_at",
            "remind_at",
            "created_at",
        ),
        RentalSpan: ("starts_at", "ends_at"),
        AclConfig: ("created_at", "ends_at"),
        Relay: (
            "certificate_ends_at",
            "failed_at",
            "try_after",
            "proven_at",
            "created_at",
            "retiring_since",
            "released_at",
        ),
        MapRegion: ("changed_at",),
    }
    for model, names in moved.items():
        # One row after the other, the earliest first: a span may move to where another one stood.
        for pk in model.objects.order_by(names[0]).values_list("pk", flat=True):
            model.objects.filter(pk=pk).update(**{name: F(name) - time for name in names})


def fresh(rental: Rental) -> Rental:
    return Rental.objects.get(pk=rental.pk)


def the_map(rental: Rental) -> dict[str, Any]:
    return AclConfig.objects.get(rental=rental, is_active=True).derp_map


def take_map(rental: Rental) -> None:
    """The customer pastes their newest map."""
    hand_out_map(rental=rental, file_format=MapFormat.HUJSON, by=rental.user)


def assert_silent(fleet: Fleet, relays: list[Relay]) -> None:
    """Of none of the relays answers either port, nothing is left on the hosts, and there is no map."""
    for relay in relays:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((relay.server.address, relay.derp_port), 5).close()
        with pytest.raises((ConnectionRefusedError, TimeoutError)):
            stun.query(relay.server.address, relay.stun_port, timeout=1)
    assert all(not fleet.containers(server) and not fleet.volumes(server) for server in fleet.servers)
    assert not AclConfig.objects.filter(is_active=True).exists()


def assert_map_works(rental: Rental, derp_map: dict[str, Any]) -> None:
    """The active map is this one, and a packet goes through every relay at the address, ports and pin that it names."""
    assert the_map(rental) == derp_map
    named = {
        (node["IPv4"], node["DERPPort"], node["STUNPort"], node["CertName"].removeprefix("sha256-raw:"))
        for region in derp_map["Regions"].values()
        for node in region["Nodes"]
    }
    targets = [target_of(relay) for relay in Relay.objects.in_map().filter(rental=rental)]
    assert {(to.host, to.derp_port, to.stun_port, to.cert_sha256) for to in targets} == named
    assert [probe_relay(target).ok for target in targets] == [True] * len(named)


def test_the_same_map_works_again_after_the_end_and_after_a_pause(fleet, work, customer):
    rental = RedeemedRentalFactory(user=customer, days=3)
    work()
    relays = assert_in_order(fleet, rental)
    derp_map = the_map(rental)
    assert_map_works(rental, derp_map)

    let_pass(2 * DAY)
    work(sweep=True)
    assert assert_in_order(fleet, rental) == relays

    # The end, and a week in which nothing swept.
    let_pass(8 * DAY)
    work(sweep=True)
    work(sweep=True)
    assert fresh(rental).status == Rental.Status.EXPIRED
    assert_silent(fleet, relays)
    assert set(Relay.objects.values_list("status", flat=True)) == {"released"}

    redeem_serial(code=SerialNumberFactory(days=30).code, user=customer, by=customer)
    work()
    assert assert_in_order(fleet, rental) == relays
    assert fresh(rental).status == Rental.Status.ACTIVE
    assert_map_works(rental, derp_map)
    assert AclConfig.objects.get(rental=rental, is_active=True).version == 2

    let_pass(DAY)
    left = fresh(rental).ends_at - timezone.now()
    pause_rental(rental=rental, by=None, reason="asked for")
    work()
    assert_silent(fleet, relays)
    let_pass(100 * DAY)
    work(sweep=True)
    assert fresh(rental).status == Rental.Status.PAUSED
    resume_rental(rental=rental, by=None)
    work()
    assert assert_in_order(fleet, rental) == relays
    assert_map_works(rental, derp_map)
    assert AclConfig.objects.get(rental=rental, is_active=True).version == 3
    given_back = Redemption.objects.filter(rental=rental, kind="waiting").order_by("pk").last()
    assert given_back is not None
    gained = fresh(rental).ends_at - timezone.now() - left
    assert abs(gained) < timedelta(seconds=60)
    assert list(Notice.objects.order_by("pk").values_list("kind", flat=True).filter(kind__startswith="rental_")) == [
        "rental_redeemed", "rental_renewed", "rental_paused", "rental_resumed"
    ]  # fmt: skip


def test_only_the_relay_whose_port_a_stranger_took_is_another_one(fleet, work, rental):
    work()
    relays = assert_in_order(fleet, rental)
    before = the_map(rental)
    let_pass(40 * DAY)
    work(sweep=True)
    assert_silent(fleet, relays)
    fleet.host_of(relays[0].server).take_port(relays[0].derp_port)
    renew_rental(rental=rental, until=timezone.now() + 9 * DAY, by=None)
    work()
    rest_no_more()
    work(sweep=True)
    after = assert_in_order(fleet, rental)
    assert after[1:] == relays[1:]
    assert after[0] != relays[0]
    assert len(the_map(rental)["Regions"]) == len(before["Regions"])


def test_the_end_comes_once_whenever_it_is_swept_and_planned(fleet, work, rental):
    work()
    relays = assert_in_order(fleet, rental)
    let_pass(31 * DAY)
    jobs.plan_rental(rental.pk)  # before any sweep: the clock alone decides
    jobs.plan_rental(rental.pk)
    work(sweep=True)
    work(sweep=True)
    assert_silent(fleet, relays)
    credit_waiting_time(rental_pk=rental.pk, now=timezone.now())
    work(sweep=True)
    assert_silent(fleet, relays)


def test_an_ended_rental_comes_back_on_other_servers_while_its_own_does_not_answer(fleet, work, rental):
    work()
    relays = assert_in_order(fleet, rental)
    gone = relays[0].server
    fleet.host_of(gone).break_it("refuses")
    let_pass(31 * DAY)
    work(sweep=True)
    # Nobody can remove it there, and that holds up nothing else.
    assert Relay.objects.live().count() == 1
    Server.objects.filter(pk=gone.pk).update(status=Server.Status.UNHEALTHY)
    renew_rental(rental=rental, until=timezone.now() + 9 * DAY, by=None)
    work()
    back = {relay.pk for relay in Relay.objects.wanted().filter(status="running")}
    assert {relays[1].pk, relays[2].pk} <= back
    assert relays[0].pk not in back
    fleet.host_of(gone).heal()
    Server.objects.filter(pk=gone.pk).update(status=Server.Status.HEALTHY)
    rest_no_more()
    work(sweep=True)
    assert_in_order(fleet, rental)


def known_device(rental: Rental) -> str:
    """The private key of a device that the customer has added."""
    key = generate_private_key()
    add_devices(rental=rental, devices=[NewDevice(public_key_of(key))], by=rental.user)
    return key


def test_a_new_pin_takes_the_region_over_and_the_old_relay_runs_until_nobody_uses_it(
    fleet, work, rental, monkeypatch
):
    work()
    relays = assert_in_order(fleet, rental)
    old = relays[0]
    Relay.objects.filter(pk=old.pk).update(certificate_ends_at=timezone.now() + 29 * DAY)
    # Our own client says that it is a test: let it pass for a customer's device.
    monkeypatch.setattr(presence, "_FLAG_PROBER", 0)
    to, before = target_of(old), the_map(rental)
    key = known_device(rental)
    work()
    with DerpClient.connect(to.host, to.derp_port, cert_sha256=to.cert_sha256, private_key=key) as device:
        jobs.rotate_certificates()
        jobs.rotate_certificates()
        work()
        successor = Relay.objects.get(replaces=old)
        assert (successor.slot, successor.server_id) == (old.slot, old.server_id)
        assert the_map(rental)["Regions"].keys() == before["Regions"].keys()
        assert_map_works(rental, the_map(rental))

        take_map(rental)
        let_pass(timedelta(hours=2))
        jobs.sweep_retiring()
        work()
        assert device.ping(timeout=5) > 0
        assert Relay.objects.live().count() == 4
    let_pass(timedelta(hours=2))
    jobs.sweep_retiring()
    work()
    assert successor in assert_in_order(fleet, rental)
    assert len(the_map(rental)["Regions"]) == 3
    assert_map_works(rental, the_map(rental))


def test_the_old_pin_goes_when_the_grace_is_over_though_it_is_used(fleet, work, rental, monkeypatch):
    work()
    old = assert_in_order(fleet, rental)[0]
    monkeypatch.setattr(presence, "_FLAG_PROBER", 0)
    before = the_map(rental)
    for relay in Relay.objects.wanted():
        rotate_relay(relay=relay)
    work()
    for _turn in range(2):
        let_pass(timedelta(minutes=1))
        sweep_maps()
    assert the_map(rental)["Regions"].keys() == before["Regions"].keys()
    assert_map_works(rental, the_map(rental))
    to = target_of(old)
    key = known_device(rental)
    work()
    with DerpClient.connect(to.host, to.derp_port, cert_sha256=to.cert_sha256, private_key=key):
        let_pass(timedelta(days=settings.ROTATION_GRACE_DAYS))
        jobs.sweep_retiring()
        work()
    relays = assert_in_order(fleet, rental)
    assert {relay.certificate_sha256 for relay in relays}.isdisjoint({old.certificate_sha256})
    assert_map_works(rental, the_map(rental))


def test_nothing_is_left_when_a_rental_is_closed(fleet, work, rental):
    work()
    relays = assert_in_order(fleet, rental)
    close_rental(rental=rental, by=None)
    work()
    work(sweep=True)
    assert_silent(fleet, relays)
    assert fresh(rental).spans.count() > 0
