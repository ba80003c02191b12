"""A worker that is killed in the middle of a job: the row is taken up again within the heartbeat's time, whatever RQ believes."""

import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.db import connections
from django.utils import timezone
from rq.job import Job

from accounts import jobs as accounts
from accounts.models import Notice
from accounts.services import notices, notify
from acl.devices import cutting
from acl.devices import jobs as acl
from acl.devices.models import DevicePolicy
from containers import jobs as containers
from containers.jobs import deployments, server_checks
from containers.jobs import gates as gate_jobs
from containers.services import planning, rotation
from containers.services.checks import request_check
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import LOST_AFTER
from derpmgmt.lib.workers import KeepingWorker, run_workers
from serials.rentals.models import Rental
from tests.factories import GateFactory, RelayFactory, RentalFactory, ServerFactory, UserFactory
from tests.panel.running import START_SECONDS

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]

# A sweep comes every few seconds; a retired relay's, the slowest, once a minute.
SWEEP = timedelta(seconds=5)


def due_plan() -> int:
    rental = RentalFactory()
    Rental.objects.update(plan_due_at=timezone.now())
    return rental.pk


def planned_relay() -> int:
    return RelayFactory(server__healthy=True, planned=True).pk


def asked_check() -> int:
    server = ServerFactory()
    request_check(server_pk=server.pk)
    return server.pk


def missing_gate() -> int:
    return RelayFactory(server__healthy=True).server_id


def late_list() -> int:
    server = RelayFactory(server__healthy=True).server
    GateFactory(server=server, running=True, list_changed_at=timezone.now())
    return server.pk


def retiring_relay() -> int:
    return RelayFactory(retiring_since=timezone.now() - timedelta(days=100)).pk


def waiting_notice() -> int:
    (notice,) = notify(user=UserFactory(), kind="test", key="test", context={})
    return notice.pk


def owed_cut() -> int:
    rental, now = RentalFactory(), timezone.now()
    DevicePolicy.objects.update_or_create(rental=rental, defaults={"cut_owed_at": now, "cut_after": now})
    return rental.pk


@dataclass(frozen=True)
class Kind:
    """A job that a sweep rings for: its row, and the function of `module` in which its worker is killed."""

    job: Callable[[int], object]
    queue: Callable[[int], str]
    sweep: Callable[[], object]
    make_row: Callable[[], int]
    module: Any
    middle: str

    def __str__(self) -> str:
        return self.job.__name__


KINDS = [
    Kind(
        containers.plan_rental,
        lambda _pk: "default",
        containers.sweep,
        due_plan,
        planning,
        "plan_relays",
    ),
    Kind(
        containers.apply_relay,
        containers.apply_queue,
        containers.sweep,
        planned_relay,
        deployments,
        "_make_so",
    ),
    Kind(
        containers.check_server,
        containers.server_queue,
        containers.sweep,
        asked_check,
        server_checks,
        "_check",
    ),
    Kind(
        containers.apply_gate,
        containers.server_queue,
        containers.sweep,
        missing_gate,
        gate_jobs,
        "contact",
    ),
    Kind(containers.push_list, containers.gate_queue, containers.sweep, late_list, gate_jobs, "contact"),
    Kind(
        containers.retire_relay,
        lambda _pk: "slow",
        containers.sweep_retiring,
        retiring_relay,
        rotation,
        "may_go",
    ),
    Kind(
        accounts.send_notice, lambda _pk: "notices", accounts.sweep_notices, waiting_notice, notices, "_send"
    ),
    Kind(acl.cut_owed, lambda _pk: "admission", acl.sweep_cuts, owed_cut, cutting, "cut"),
]


def waiting(name: str, kind: Kind, pk: int) -> list[Job]:
    """The rings for this work that no worker has taken."""
    jobs = django_rq.get_queue(name).jobs
    return [job for job in jobs if job.func_name.endswith(f".{kind.job.__name__}") and job.args == (pk,)]


def kill_in_the_middle(name: str, kind: Kind) -> None:
    """Have a worker of its own take what waits in the queue `name`, and kill it in the middle of it."""
    hears, tells = os.pipe()
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:

            def stay(*_args: Any, **_options: Any) -> None:
                os.write(tells, b".")
                time.sleep(600)

            setattr(kind.module, kind.middle, stay)
            run_workers([name])
        finally:
            os._exit(1)
    os.close(tells)
    came = os.read(hears, 1) if select.select([hears], [], [], START_SECONDS)[0] else b""
    os.close(hears)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert came, "the worker did not come to the job's middle"


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_row_is_taken_up_again_within_the_heartbeats_time(
    kind: Kind, monkeypatch: pytest.MonkeyPatch
) -> None:
    pk = kind.make_row()
    name = kind.queue(pk)
    django_rq.get_queue(name).empty()  # the bell was lost
    kind.sweep()
    assert len(waiting(name, kind, pk)) == 1
    kill_in_the_middle(name, kind)
    assert waiting(name, kind, pk) == []

    taken_up = []
    monkeypatch.setattr(kind.module, kind.middle, lambda *args, **_options: taken_up.append(args))
    with time_machine.travel(timezone.now() + LOST_AFTER + SWEEP):
        for _sweep in range(3):
            kind.sweep()
        # A check that was lost is followed by another, for which a bell rings too.
        assert 1 <= len(waiting(name, kind, pk)) <= 2
        served = django_rq.get_queue(name)
        KeepingWorker([served], connection=served.connection).work(burst=True, logging_level="CRITICAL")
    assert taken_up


def test_a_notice_that_was_being_sent_waits_again() -> None:
    kind = next(kind for kind in KINDS if kind.job is accounts.send_notice)
    pk = kind.make_row()
    kill_in_the_middle("notices", kind)
    assert Notice.objects.get().state == Notice.State.SENDING
    with time_machine.travel(timezone.now() + LOST_AFTER + SWEEP):
        kind.sweep()
    assert Notice.objects.get().state == Notice.State.WAITING
    assert len(waiting("notices", kind, pk)) == 1


def test_rings_do_not_pile_up_while_nobody_serves_a_queue() -> None:
    pk = due_plan()
    for _sweep in range(50):
        containers.sweep()
    assert django_rq.get_queue("default").count == 1
    queue.enqueue(containers.plan_rental, pk)  # whoever has news rings all the same
    assert django_rq.get_queue("default").count == 2
