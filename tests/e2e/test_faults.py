"""A server that is down, hangs, lies or dies in the middle: a readable reason, another server, and nothing left over."""

from datetime import timedelta

import pytest
from django.utils import timezone, translation

from containers.models import Deployment, Relay
from derpmgmt.lib.problems import sentence_of
from fleet import contact
from fleet.models import Server
from serials.rentals.models import Rental

from .conftest import IS_LAB, Fleet, assert_in_order, rest_no_more

pytestmark = pytest.mark.django_db(transaction=True)

FAULTS = {
    "refuses": {"refused", "unreachable"},
    "ssh_hung": {"timed_out", "silent"},
    "other_host_key": {"host_key_changed"},
    "docker_down": {"daemon_down", "no_docker"},
    "docker_hung": {"timed_out"},
}
LAB_ONLY = {"vanishes": {"timed_out", "silent", "unreachable", "no_route"}}
SANDBOX_ONLY = {
    "docker_absent": {"no_docker"},
    "disk_full": {"disk_full"},
    "POST /volumes/create": {"lost", "unreachable", "refused"},
    "POST /containers/create": {"lost", "unreachable", "refused"},
}


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contact, "ENGINE_SECONDS", 2.0)
    monkeypatch.setattr(contact, "SSH_SECONDS", 2.0)
    contact._pool_of.cache_clear()
    yield
    contact.pool().close()
    contact._pool_of.cache_clear()


@pytest.mark.parametrize("kind", [*FAULTS, *(LAB_ONLY if IS_LAB else SANDBOX_ONLY)])
def test_another_server_takes_over_and_nothing_is_left_when_a_server_fails(
    fleet: Fleet, work, rental: Rental, kind: str
):
    bad = fleet.servers[0]
    host = fleet.host_of(bad)
    if kind == "disk_full":
        with fleet.reach(bad) as reached:
            for image in reached.engine.images("derpmgmt/derper"):
                reached.engine.remove_image(image["Id"], force=True)
    host.break_it(kind)
    work()

    failed = Deployment.objects.filter(status="failed").order_by("pk").first()
    assert failed is not None
    assert failed.relay.server_id == bad.pk
    assert failed.error_code in {**FAULTS, **LAB_ONLY, **SANDBOX_ONLY}[kind]
    assert failed.error == ""  # a code and values are stored, and read in each one's language
    with translation.override("en"):
        english = failed.reason
        assert english == str(sentence_of(failed.error_code)) % failed.error_values
    assert failed.reason != english
    running = Relay.objects.filter(status="running")
    assert bad.pk not in {relay.server_id for relay in running}
    # Another server where there is one: the sandbox has four, the lab three.
    assert running.count() == min(3, len(fleet.servers) - 1)

    host.heal()
    contact.pool().close()
    rest_no_more()
    work(sweep=True)
    assert_in_order(fleet, rental)


def test_another_port_is_taken_when_a_strangers_program_has_the_first(fleet: Fleet, work, rental: Rental):
    bad = fleet.servers[0]
    fleet.host_of(bad).take_port(bad.tcp_port_first)
    work()
    rest_no_more()
    work(sweep=True)
    relays = assert_in_order(fleet, rental)
    assert Deployment.objects.filter(error_code="port_taken", relay__server=bad).exists()
    assert (bad.pk, bad.tcp_port_first) not in {(relay.server_id, relay.derp_port) for relay in relays}


def test_a_dead_server_costs_one_time_limit_and_is_then_skipped(fleet: Fleet, work, rental: Rental):
    bad = fleet.servers[0]
    fleet.host_of(bad).break_it("ssh_hung")
    work()
    bad.refresh_from_db()
    assert bad.contact_failures == 1
    assert bad.next_contact_at is not None
    assert (
        not Server.objects.due_for_contact(bad.last_contact_at or bad.created_at).filter(pk=bad.pk).exists()
    )
    tries = Deployment.objects.filter(relay__server=bad).count()
    Relay.objects.update(try_after=None)
    # The five seconds until then may be over on a busy machine.
    Server.objects.filter(pk=bad.pk).update(next_contact_at=timezone.now() + timedelta(minutes=5))
    work(sweep=True)
    bad.refresh_from_db()
    assert bad.contact_failures == 1  # it was not asked again
    assert Deployment.objects.filter(relay__server=bad).count() <= tries + 1


def test_a_panel_without_an_image_waits_instead_of_wandering_from_server_to_server(
    fleet: Fleet, work, rental: Rental, settings, tmp_path
):
    folder = settings.IMAGE_DIR
    settings.IMAGE_DIR = tmp_path
    work()
    rest_no_more()
    work(sweep=True)
    assert set(Relay.objects.values_list("status", "failure_code")) == {("failed", "no_image")}
    assert Relay.objects.count() == 3
    settings.IMAGE_DIR = folder
    rest_no_more()
    work(sweep=True)
    assert_in_order(fleet, rental)
