"""A worker killed with SIGKILL between any two steps leaves nothing that the sweep does not put right."""

import os
import signal
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections

from containers import jobs
from containers.models import Deployment, Relay, ServerCheck
from derpmgmt.lib.jobs import LOST_AFTER, JobRecord
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import DeploymentFactory

from .conftest import Fleet, assert_in_order, end_now

pytestmark = pytest.mark.django_db(transaction=True)

MAKING = [
    "connect",
    "gate",
    "network",
    "image",
    "clean",
    "volume",
    "create",
    "files",
    "start",
    "check",
    "probe",
    "done",
]


def run_and_die(job: Callable[[int], None], pk: int, step: str) -> None:
    """Run `job(pk)` in a process of its own that is killed as `step` is about to begin."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        write = JobRecord.write

        def write_or_die(record: JobRecord, *args: Any, **values: Any) -> bool:
            if values.get("step") == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return write(record, *args, **values)

        JobRecord.write = write_or_die  # type: ignore[method-assign]
        try:
            job(pk)
        finally:
            os._exit(1)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), f"the job ended before the step {step}"


def let_time_pass() -> None:
    """What twenty silent seconds do to the rows: heartbeat and lease grow old."""
    old = LOST_AFTER + timedelta(seconds=1)
    for model in (Deployment, ServerCheck):
        for record in model.objects.filter(status="running"):
            model.objects.filter(pk=record.pk).update(heartbeat_at=record.heartbeat_at - old)
    for server in Server.objects.exclude(busy_until=None):
        Server.objects.filter(pk=server.pk).update(busy_until=server.busy_until - old)


@pytest.mark.parametrize("step", MAKING)
def test_three_relays_and_nothing_else_when_apply_is_killed(fleet: Fleet, work, rental: Rental, step: str):
    jobs.plan_rental(rental.pk)
    relay = Relay.objects.order_by("pk").first()
    if step == "image":  # it is there from other tests; without it the step has something to do
        with fleet.reach(relay.server) as reached:
            for image in reached.engine.images("derpmgmt/derper"):
                reached.engine.remove_image(image["Id"], force=True)
    run_and_die(jobs.apply_relay, relay.pk, step)

    assert Deployment.objects.get(relay=relay).status == "running"
    work()  # before its time is up nobody touches what the dead worker has
    assert Deployment.objects.filter(relay=relay).count() == 1
    let_time_pass()
    work(sweep=True)

    relays = assert_in_order(fleet, rental)
    assert relay in relays
    assert list(Deployment.objects.filter(relay=relay).order_by("pk").values_list("status", flat=True)) == [
        "lost",
        "done",
    ]


@pytest.mark.parametrize("step", ["connect", "remove"])
def test_nothing_is_left_when_a_removal_is_killed(fleet: Fleet, work, rental: Rental, step: str):
    work()
    end_now(rental)
    jobs.plan_rental(rental.pk)
    relay = Relay.objects.order_by("pk").first()
    run_and_die(jobs.apply_relay, relay.pk, step)
    let_time_pass()
    work(sweep=True)
    assert not Relay.objects.live().exists()
    assert all(not fleet.containers(server) and not fleet.volumes(server) for server in fleet.servers)


@pytest.mark.parametrize("step", ["clean", "volume", "start", "ports"])
def test_a_server_is_checked_anew_when_its_check_is_killed(fleet: Fleet, work, step: str):
    from containers.services.checks import request_check

    server = fleet.servers[0]
    Server.objects.filter(pk=server.pk).update(status=Server.Status.NEW)
    request_check(server_pk=server.pk)
    run_and_die(jobs.check_server, server.pk, step)
    let_time_pass()
    work(sweep=True)
    server.refresh_from_db()
    assert server.status == Server.Status.HEALTHY
    assert not Relay.objects.exists()
    assert not fleet.containers(server)
    assert not fleet.volumes(server)
    assert list(ServerCheck.objects.order_by("pk").values_list("status", flat=True)) == ["lost", "done"]


def test_a_deployment_that_was_opened_but_not_taken_up_is_taken_up_by_the_sweep(
    fleet: Fleet, work, rental: Rental
):
    jobs.plan_rental(rental.pk)
    relay = Relay.objects.order_by("pk").first()
    DeploymentFactory(relay=relay)  # and there its worker was killed
    work_queue_lost()
    work(sweep=True)
    assert_in_order(fleet, rental)


def work_queue_lost() -> None:
    """Redis lost everything that was rung for."""
    import django_rq

    django_rq.get_connection("default").flushdb()
