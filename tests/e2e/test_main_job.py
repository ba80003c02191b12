"""From a serial number to three proven relays, on real SSH and a real Engine API."""

import hashlib
import json
import ssl
from pathlib import Path

import pytest
from django.conf import settings
from django.test import Client

from acl.maps.models import AclConfig
from containers.jobs import check_server, visit_servers
from containers.models import Deployment, Relay, RelayHealth, ServerCheck
from containers.services.planning import plan_relays
from containers.services.relay_requests import request_repair
from fleet.models import Server
from fleet.services import confirm_host_key
from serials.rentals.models import Redemption, Rental
from tests.factories import SerialNumberFactory

from .conftest import IS_LAB, Fleet, assert_in_order, end_now, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)

# The colour of the word over all relays while there are fewer than three servers.
INCOMPLETE = '<span class="panel-state is-orange">'


def test_three_relays_on_three_servers_are_proven_when_a_serial_is_redeemed(fleet, work, rental, customer):
    work()

    relays = assert_in_order(fleet, rental)
    assert len({relay.server.region_id for relay in relays}) == 3
    health = RelayHealth.objects.filter(relay__in=relays, is_ok=True)
    assert health.count() == 3
    assert all(row.packet_ms is not None and row.stun_ms is not None for row in health)
    assert list(Deployment.objects.values_list("status", flat=True)) == ["done"] * 3
    # One version for all three, and none before.
    config = AclConfig.objects.get(rental=rental)
    assert config.is_active
    nodes = [node for region in config.derp_map["Regions"].values() for node in region["Nodes"]]
    for relay in relays:
        served = ssl.get_server_certificate((relay.server.address, relay.derp_port))
        pin = hashlib.sha256(ssl.PEM_cert_to_DER_cert(served)).hexdigest()
        (node,) = [node for node in nodes if node["HostName"] == relay.server.address]
        assert node["CertName"] == f"sha256-raw:{pin}"
        assert (node["DERPPort"], node["STUNPort"]) == (relay.derp_port, relay.stun_port)
    client = Client()
    client.force_login(customer)
    page = client.get("/home/relays/")
    assert page.status_code == 200
    cards, _section, overall = page.content.decode().partition("</section>")
    assert (cards.count("panel-state is-green"), overall.count("panel-state is-green")) == (3, 1)
    downloaded = client.get("/map/json/")
    assert json.loads(downloaded.content) == config.derp_map


def test_the_waiting_time_is_given_back_when_the_first_relay_is_proven(fleet, work, rental):
    before = Rental.objects.get(pk=rental.pk)
    assert before.waiting_since is not None
    work()
    after = Rental.objects.get(pk=rental.pk)
    given = Redemption.objects.get(rental=rental, kind=Redemption.Kind.WAITING)
    first = Relay.objects.filter(rental=rental).order_by("proven_at").first()
    assert after.waiting_since is None
    assert after.ends_at > before.ends_at
    assert given.old_ends_at == before.ends_at
    assert given.new_ends_at == after.ends_at
    assert (after.ends_at - before.ends_at).total_seconds() == pytest.approx(
        (first.proven_at - before.waiting_since).total_seconds(), abs=1.5
    )


def test_nothing_is_done_when_everything_is_as_it_should_be(fleet, work, rental):
    work()
    before = {found.container_id for server in fleet.servers for found in fleet.containers(server)}
    deployments = Deployment.objects.count()
    plan_relays(rental_pk=rental.pk)
    for relay in Relay.objects.all():
        request_repair(relay_pk=relay.pk)
    work(sweep=True)
    for shard in range(settings.SHARDS):
        visit_servers(shard)
    work(sweep=True)
    after = {found.container_id for server in fleet.servers for found in fleet.containers(server)}
    assert after == before
    assert Deployment.objects.count() == deployments + 3  # those that were asked for looked, and did nothing


def test_relays_are_removed_when_the_rental_has_ended(fleet, work, rental):
    work()
    end_now(rental)
    work(sweep=True)
    assert not Relay.objects.live().exists()
    assert Relay.objects.filter(status="released").count() == 3
    assert all(not fleet.containers(server) and not fleet.volumes(server) for server in fleet.servers)
    assert not AclConfig.objects.filter(is_active=True).exists()


def test_a_batch_bound_to_servers_uses_only_those(fleet, work, customer):
    from serials.numbers.services import redeem_serial

    bound = fleet.servers[:3]
    code = SerialNumberFactory(servers=bound).code
    rental = redeem_serial(code=code, user=customer, by=customer).rental
    work()
    assert {relay.server_id for relay in assert_in_order(fleet, rental)} == {server.pk for server in bound}


def test_what_is_possible_is_delivered_and_the_rest_follows_when_servers_are_few(
    fleet, work, rental, customer
):
    Server.objects.exclude(pk=fleet.servers[0].pk).update(status=Server.Status.MAINTENANCE)
    work()
    assert_in_order(fleet, rental, relays=1)
    client = Client()
    client.force_login(customer)
    assert INCOMPLETE in client.get("/home/").content.decode()
    Server.objects.update(status=Server.Status.HEALTHY)
    rest_no_more()
    work(sweep=True)
    assert_in_order(fleet, rental)
    assert INCOMPLETE not in client.get("/home/").content.decode()


def test_a_server_is_taken_into_use_when_its_checks_pass(fleet, work):
    server = fleet.servers[0]
    line = server.host_key
    Server.objects.filter(pk=server.pk).update(status=Server.Status.NEW, host_key="")
    server.refresh_from_db()
    confirm_host_key(server=server, line=line, by=None)
    work()
    server.refresh_from_db()
    check = ServerCheck.objects.get(server=server)
    assert (check.status, check.reason) == ("done", "")
    assert [finding["is_ok"] for finding in check.findings] == [True] * len(check.findings)
    assert {"connect", "docker", "machine", "ports", "relay"} <= {
        finding["step"] for finding in check.findings
    }
    assert server.status == Server.Status.HEALTHY
    assert not fleet.containers(server)
    assert not fleet.volumes(server)
    assert not Relay.objects.exists()


def test_a_check_says_what_is_wrong_when_the_login_is_refused(fleet, work):
    server = fleet.servers[0]
    server.credential.private_key = fleet.servers[1].credential.private_key if not IS_LAB else ""
    server.credential.username = "nobody-here"
    server.credential.save()
    Server.objects.filter(pk=server.pk).update(status=Server.Status.NEW)
    confirm_host_key(server=server, line=server.host_key, by=None)
    work()
    check = ServerCheck.objects.get(server=server)
    assert check.status == "failed"
    assert check.findings[-1]["is_ok"] is False
    server.refresh_from_db()
    assert server.status == Server.Status.NEW
    assert check_server(server.pk) is None  # nothing open: nothing happens
    server.credential.username = fleet.host_of(server).user
    server.credential.private_key = Path(fleet.host_of(server).private_key_path).read_text()
    server.credential.save()
    rest_no_more()


def test_hardening_is_seen_by_inspect(fleet: Fleet, work, rental):
    work()
    relay = assert_in_order(fleet, rental)[0]
    with fleet.reach(relay.server) as reached:
        inspected = reached.engine.inspect_container(f"derp-{settings.PANEL_ID}-{relay.pk}")
    host = inspected["HostConfig"]
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert "no-new-privileges" in host["SecurityOpt"]
    assert host["Memory"] > 0
    assert host["PidsLimit"] > 0
    assert host["RestartPolicy"]["Name"] == "always"
    assert host["LogConfig"]["Config"]["max-size"]
    assert inspected["Config"]["User"] == "65532:65532"
    text = json.dumps(inspected)
    for secret in (relay.private_key, relay.mesh_key, relay.certificate_key):
        assert secret not in text
