"""What somebody changed by hand on a host is put right by the next visit."""

import shutil
from contextlib import ExitStack
from pathlib import Path

import pytest
from django.conf import settings

from containers.deploy import make_so, remove_relay
from containers.derp.stun import KeptPort
from containers.jobs import visit_servers
from containers.models import Relay
from containers.services import images
from containers.services.relays import spec_of
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)


def visit_all() -> None:
    for shard in range(settings.SHARDS):
        visit_servers(shard)


@pytest.fixture
def relays(fleet: Fleet, work, rental: Rental):
    work()
    return assert_in_order(fleet, rental)


def name_of(relay) -> str:
    return f"derp-{settings.PANEL_ID}-{relay.pk}"


def test_a_removed_container_comes_back(fleet, work, rental, relays):
    with fleet.reach(relays[0].server) as reached:
        reached.engine.remove_container(name_of(relays[0]), force=True)
    visit_all()
    work()
    assert assert_in_order(fleet, rental) == relays


def test_a_stopped_container_is_started(fleet, work, rental, relays):
    with fleet.reach(relays[0].server) as reached:
        reached.engine.stop(name_of(relays[0]), timeout=1)
    visit_all()
    work()
    assert assert_in_order(fleet, rental) == relays


def test_a_changed_container_is_made_anew(fleet, work, rental, relays):
    relay = relays[0]
    with fleet.reach(relay.server) as reached:
        # Another restart policy, a memory limit lifted: what `docker update` does.
        reached.engine.update_container(name_of(relay), restart_policy={"Name": "no"})
        before = reached.engine.inspect_container(name_of(relay))["Id"]
    visit_all()
    work()
    assert assert_in_order(fleet, rental) == relays
    with fleet.reach(relay.server) as reached:
        after = reached.engine.inspect_container(name_of(relay))
    assert after["Id"] != before
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "always"


def test_an_orphan_is_removed_with_its_volume(fleet, work, rental, relays):
    relay = relays[0]
    archive = images.current_image()
    with fleet.reach(relay.server) as reached:
        orphan = spec_of(relay, archive.tag)
        object.__setattr__(orphan, "relay_id", 999_999)
        object.__setattr__(orphan, "derp_port", 20900)
        object.__setattr__(orphan, "stun_port", 20900)
        make_so(reached.engine, orphan, archive, lambda _step: None)
    assert len(fleet.containers(relay.server)) == 2
    visit_all()
    work()
    assert assert_in_order(fleet, rental) == relays


def test_another_panels_containers_are_left_alone(fleet, work, rental, relays):
    relay = relays[0]
    archive = images.current_image()
    with fleet.reach(relay.server) as reached:
        other = spec_of(relay, archive.tag)
        object.__setattr__(other, "panel_id", "0123abcd")
        object.__setattr__(other, "derp_port", 20901)
        object.__setattr__(other, "stun_port", 20901)
        make_so(reached.engine, other, archive, lambda _step: None)
        visit_all()
        work()
        state = reached.engine.inspect_container(other.container_name)["State"]["Status"]
        reached.engine.remove_container(other.container_name, force=True, v=True)
        reached.engine.remove_volume(other.container_name)
    assert state == "running"
    assert_in_order(fleet, rental)


def stun_ports(fleet, relay) -> dict[str, str]:
    """STUN's port inside the container → on the host."""
    with fleet.reach(relay.server) as reached:
        bound = reached.engine.inspect_container(name_of(relay))["HostConfig"]["PortBindings"]
    return {inner: on[0]["HostPort"] for inner, on in bound.items() if inner.endswith("/udp")}


def test_stun_has_the_hosts_number_inside_from_the_first_remaking_on(fleet, work, rental, relays):
    relay = relays[0]
    port = relay.stun_port
    assert stun_ports(fleet, relay) == {f"{port}/udp": str(port)}
    # As on a panel from before that: it stays as it is until it has to be made anyway.
    Relay.objects.filter(pk=relay.pk).update(inner_stun_port=3478, status="planned")
    with fleet.reach(relay.server) as reached:
        remove_relay(reached.engine, settings.PANEL_ID, relay.pk)
        old = spec_of(
            Relay.objects.select_related("server__gate").get(pk=relay.pk), images.current_image().tag
        )
        make_so(reached.engine, old, images.current_image(), lambda _step: None)
    work(sweep=True)
    visit_all()
    work()
    assert_in_order(fleet, rental)
    assert stun_ports(fleet, relay) == {"3478/udp": str(port)}
    with fleet.reach(relay.server) as reached:
        reached.engine.remove_container(name_of(relay), force=True)
    visit_all()
    work()
    assert_in_order(fleet, rental)
    assert stun_ports(fleet, relay) == {f"{port}/udp": str(port)}


def test_clients_that_keep_their_port_are_led_right_after_a_repair(fleet, work, rental, relays):
    if IS_LAB and not (shutil.which("conntrack") or Path("/usr/sbin/conntrack").exists()):
        pytest.skip("the hosts have no conntrack, and Docker before 23 leads clients nowhere")
    # The lab's first host has a proxy, which tells such clients its own address; the second has none, so that nobody would answer.
    mine = [relay for relay in relays if relay.server in fleet.servers[:2]]
    assert len(mine) == 2
    with ExitStack() as stack:
        clients = [stack.enter_context(KeptPort(relay.server.address, relay.stun_port)) for relay in mine]
        for relay in mine:
            with fleet.reach(relay.server) as reached:
                reached.engine.remove_container(name_of(relay), force=True)
        visit_all()
        work()
        assert_in_order(fleet, rental)
        answers = [client.query(timeout=5) for client in clients]
    assert [answer.address for answer in answers] == [answer.asked_from for answer in answers]


def test_a_relay_whose_users_are_led_nowhere_is_not_proven_but_made_anew(
    fleet, work, rental, relays, monkeypatch
):
    relay = relays[0]
    before = {}
    with fleet.reach(relay.server) as reached:
        before["id"] = reached.engine.inspect_container(name_of(relay))["Id"]
    with monkeypatch.context() as patch:

        def query(_kept: KeptPort, *, timeout: float) -> None:
            raise TimeoutError("no answer")

        patch.setattr(KeptPort, "query", query)
        Relay.objects.filter(pk=relay.pk).update(status="planned")
        work(sweep=True)
        failed = Relay.objects.get(pk=relay.pk)
        assert (failed.status, failed.failure_code) == ("failed", "stun_stale")
        # Made anew once. Where that does not help, the relay is there for all others, and is not taken away from them again and again.
        rest_no_more()
        work(sweep=True)
    assert_in_order(fleet, rental)
    with fleet.reach(relay.server) as reached:
        assert reached.engine.inspect_container(name_of(relay))["Id"] != before["id"]
    assert "stun_stays_stale" in relay.deployments.order_by("pk").last().log
