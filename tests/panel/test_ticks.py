"""The clock: what it rings for each second, and that rings which pile up do no harm."""

from datetime import timedelta
from typing import Any

import django_rq
import pytest
import time_machine
from django.utils import timezone
from rq import SimpleWorker
from rq.cron import CronScheduler

from accounts.models import OperationLog
from derpmgmt import flow
from derpmgmt.lib import workers
from serials.rentals.jobs import sweep_rentals
from serials.rentals.models import Rental
from tests.acl.factories import make_rental


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> CronScheduler:
    """The panel's own scheduler, rung by hand."""
    started: list[Any] = []
    monkeypatch.setattr(CronScheduler, "start", lambda self: started.append(self))
    workers.run_scheduler(flow.CRON)
    scheduler: CronScheduler = started[0]
    return scheduler


def sweeps_waiting() -> int:
    jobs = django_rq.get_queue("admission").jobs
    return sum(job.func_name == "serials.rentals.jobs.sweep_rentals" for job in jobs)


def test_ends_are_looked_for_every_second(scheduler: CronScheduler) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        waiting = []
        for _ in range(8):
            scheduler.enqueue_jobs()
            waiting.append(sweeps_waiting())
            clock.shift(timedelta(seconds=0.5))
        assert scheduler.calculate_sleep_interval() <= 1
    assert waiting == [1, 1, 2, 2, 3, 3, 4, 4]


@pytest.mark.django_db(transaction=True)
def test_an_end_is_recorded_once_when_rings_have_piled_up(scheduler: CronScheduler) -> None:
    rental = make_rental(days=60)
    Rental.objects.update(runs_until=timezone.now() - timedelta(seconds=1))
    queue = django_rq.get_queue("admission")
    for _ in range(20):
        queue.enqueue(sweep_rentals)
    # A ring that nobody took is dropped, so they do not pile up higher than this.
    sweep = next(job for job in scheduler.get_jobs() if job.func is sweep_rentals)
    assert sweep.job_options["ttl"] <= 30
    SimpleWorker([queue], connection=queue.connection).work(burst=True, logging_level="ERROR")
    rental.refresh_from_db()
    assert rental.status == Rental.Status.EXPIRED
    assert OperationLog.objects.filter(action="rental.expired").count() == 1
