"""What becomes of relays when an operator changes, rests or removes their server."""

import hashlib
import ssl

import pytest

from acl.maps.models import AclConfig
from containers.models import Relay
from fleet import services
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order, end_now

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.mark.skipif(not IS_LAB, reason="a host of the sandbox has one address and gets no other")
def test_relays_get_new_certificates_and_the_map_follows_when_a_server_moves(
    fleet: Fleet, work, rental: Rental
):
    work()
    relay = assert_in_order(fleet, rental)[0]
    before = AclConfig.objects.get(rental=rental, is_active=True)
    server = relay.server
    old = server.address
    new = old.rsplit(".", 1)[0] + ".77"
    fleet.host_of(server).add_address(new)
    services.update_server(server=server, by=None, address=new, ssh_host=old)
    work()

    moved = Relay.objects.select_related("server").get(pk=relay.pk)
    assert moved.status == "running"
    assert moved.certificate_sha256 != relay.certificate_sha256
    assert moved.public_key == relay.public_key
    served = ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate((new, moved.derp_port)))
    assert hashlib.sha256(served).hexdigest() == moved.certificate_sha256
    after = AclConfig.objects.get(rental=rental, is_active=True)
    assert after.version > before.version
    hosts = {node["HostName"] for region in after.derp_map["Regions"].values() for node in region["Nodes"]}
    assert new in hosts
    assert old not in hosts


def test_relays_keep_running_when_their_server_is_in_maintenance(fleet: Fleet, work, rental: Rental):
    work()
    relays = assert_in_order(fleet, rental)
    services.start_maintenance(server=relays[0].server, by=None)
    work(sweep=True)
    assert assert_in_order(fleet, rental) == relays


def test_a_server_is_removed_only_when_it_is_empty(fleet: Fleet, work, rental: Rental):
    work()
    relay = assert_in_order(fleet, rental)[0]
    with pytest.raises(services.ServerNotEmpty):
        services.retire_server(server=relay.server, by=None)
    end_now(rental)
    work(sweep=True)
    services.retire_server(server=relay.server, by=None)
    relay.server.refresh_from_db()
    assert relay.server.status == "retired"


def test_a_change_that_concerns_no_relay_leaves_them_alone(fleet: Fleet, work, rental: Rental):
    work()
    relay = assert_in_order(fleet, rental)[0]
    services.update_server(server=relay.server, by=None, capacity=9)
    assert Relay.objects.get(pk=relay.pk).status == "running"
    work()
    assert relay.deployments.count() == 1
