"""A server that rewrites the sender of UDP packets is found out, whatever else works on it; honest ones are not accused."""

import pytest
from django.conf import settings
from django.utils import translation

from containers.derp.probe import CAUSES
from containers.jobs import visit_servers
from containers.models import Deployment, Relay, RelayHealth, ServerCheck
from containers.services.checks import read_findings
from containers.services.relay_requests import ask_probe
from fleet.models import Server
from fleet.services import confirm_host_key
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order, rest_no_more, timezone

pytestmark = pytest.mark.django_db(transaction=True)
BRIDGE = "172.18.0.1"
sandbox_only = pytest.mark.skipif(IS_LAB, reason="the lab's hosts rewrite nothing")


def visit_all() -> None:
    for shard in range(settings.SHARDS):
        visit_servers(shard)


def test_what_a_server_sees_of_us_is_what_its_relays_must_tell(fleet: Fleet, work, rental: Rental):
    visit_all()
    seen = set(Server.objects.values_list("panel_seen_as", flat=True))
    assert seen == {fleet.hosts[0].panel_address}
    work()
    for relay in assert_in_order(fleet, rental):
        ask_probe(relay=relay, now=timezone.now())
    work()
    tests = RelayHealth.objects.all()
    assert len(tests) == 6
    assert {(test.is_ok, test.mapped_address) for test in tests} == {(True, *seen)}


@sandbox_only
def test_a_relay_is_not_proven_when_its_host_rewrites_senders(fleet: Fleet, work, rental: Rental):
    visit_all()
    # What this machine happens to bear at the moment of each visit decides between two servers of a region.
    Server.objects.update(load_ratio=None, memory_share=None)
    bad = fleet.servers[0]
    fleet.host_of(bad).break_it("rewrites_sources")
    work()
    [failed] = Deployment.objects.filter(status="failed")
    assert (failed.relay.server_id, failed.error_code) == (bad.pk, "mapped_differs")
    assert BRIDGE in failed.detail
    assert failed.error == str(CAUSES["mapped_differs"]) or failed.reason == str(CAUSES["mapped_differs"])
    assert not Relay.objects.filter(server=bad, status="running").exists()
    rest_no_more()
    work(sweep=True)
    assert bad.pk not in {relay.server_id for relay in assert_in_order(fleet, rental)}


@sandbox_only
@pytest.mark.parametrize(
    ("kind", "named", "unnamed"),
    [("rootless", "rootless", "iptables"), ("", '"iptables": false', "rootless")],
)
def test_a_servers_check_says_how_to_cure_it(fleet: Fleet, work, kind: str, named: str, unnamed: str):
    bad = fleet.servers[0]
    fleet.host_of(bad).break_it("rewrites_sources")
    if kind:
        fleet.host_of(bad).break_it(kind)
    Server.objects.filter(pk=bad.pk).update(status=Server.Status.NEW)
    confirm_host_key(server=bad, line=bad.host_key, by=None)
    work()
    check = ServerCheck.objects.get(server=bad)
    assert check.status == "failed"
    with translation.override("en"):
        found = read_findings(check)[-1]
    assert "admission log" in found["text"]
    assert named in found["remedy"]
    assert unnamed not in found["remedy"]
    assert not found["rules"]
    with translation.override("zh-hans"):
        assert named in read_findings(check)[-1]["remedy"]
        assert read_findings(check)[-1]["remedy"] != found["remedy"]
