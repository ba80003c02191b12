"""Workers and the scheduler hold no more open files after a thousand rings than before, and a worker without any ends."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import django_rq
import pytest
from django.conf import settings
from django.db import connections

from accounts.jobs import send_notice
from derpmgmt.lib import queue
from derpmgmt.lib.processes import Groups
from derpmgmt.lib.queue import Tick
from derpmgmt.lib.workers import run_scheduler, run_worker
from tests.panel.running import wait_for

pytestmark = pytest.mark.django_db(transaction=True)

RINGS = 1000
# One of each kind: they differ in what they serve, and the slow one forks for each job.
QUEUES = ["default", "notices", "admission", "apply-0", "visit-0", "gate-0", "slow"]


def open_files(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def ring_often(first: int) -> None:
    """What a sweep does: ring for many rows; writes down the open files before and after."""
    queue.enqueue(send_notice, first, queue="notices", is_again=True)
    before = open_files("self")
    for pk in range(first + 1, first + RINGS):
        queue.enqueue(send_notice, pk, queue="notices", is_again=True)
    django_rq.get_connection("default").rpush("files", before, open_files("self"))


def take_files(_pk: int) -> None:
    """A job that leaks."""
    while True:
        os.open(os.devnull, os.O_RDONLY)


@contextmanager
def apart(main: Callable[[], object]) -> Iterator[int]:
    """`main` in a process of its own, as the supervisor starts it."""
    connections.close_all()
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            main()
        finally:
            os._exit(0)
    try:
        yield child
    finally:
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def work(name: str) -> None:
    _hears, tells = os.pipe()
    run_worker(name, groups=Groups(tells) if name == "slow" else None)


@pytest.mark.parametrize("name", QUEUES)
def test_open_files_stay_as_many_when_a_worker_rings_often(name: str) -> None:
    client = django_rq.get_connection("default")
    with apart(lambda: work(name)) as worker:
        seen = []
        for turn in (1, 2):
            django_rq.get_queue(name).enqueue(ring_often, turn * RINGS)
            wait_for(lambda turn=turn: client.llen("files") == 2 * turn, "the worker has rung")
            seen.append(open_files(worker))
    before, after = (int(count) for count in client.lrange("files", 0, 1))
    assert after <= before
    assert seen[1] <= seen[0] + 1
    assert client.keys("again:*send_notice*")


def test_open_files_stay_as_many_when_the_scheduler_rings_often() -> None:
    client = django_rq.get_connection("default")
    # Each of them rings in every second.
    ticks = [Tick(send_notice, "notices", 1, (number,)) for number in range(RINGS // 4)]
    with apart(lambda: run_scheduler(ticks)) as scheduler:
        wait_for(lambda: client.llen("rq:queue:notices") >= len(ticks), "the scheduler has rung")
        before = open_files(scheduler)
        wait_for(lambda: client.llen("rq:queue:notices") >= RINGS + len(ticks), "it has rung on")
        assert open_files(scheduler) <= before


@pytest.mark.parametrize("name", ["default", "slow"])
def test_a_worker_ends_when_it_has_no_files_left(name: str) -> None:
    def main() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        if name == "slow":  # its jobs leak in processes of their own
            leave_files(14)
        work(name)

    with apart(main) as worker:
        django_rq.get_queue(name).enqueue(take_files, 1)
        wait_for(lambda: is_zombie(worker), "the worker has ended")


def leave_files(number: int) -> None:
    """Take all files that this process may open but so many, whatever it has inherited."""
    taken = []
    with suppress(OSError):
        while True:
            taken.append(os.open(os.devnull, os.O_RDONLY))
    for descriptor in taken[-number:]:
        os.close(descriptor)


def is_zombie(pid: int) -> bool:
    """Whether a child has ended and nobody has asked for it yet."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_one_client_serves_the_whole_process() -> None:
    assert queue.client() is queue.client()
    assert queue.client().connection_pool.connection_kwargs["socket_timeout"] <= 5
    assert settings.RQ_QUEUES["default"]["URL"]
