"""What somebody changed by hand on a host is put right by the next visit."""

import pytest
from django.conf import settings

from containers.deploy import make_so
from containers.jobs import visit_servers
from containers.services import images
from containers.services.relays import spec_of
from serials.models import Rental

from .conftest import Fleet, assert_in_order

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
    assert after["HostConfig"]["RestartPolicy"]["Name"] == "unless-stopped"


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
