"""Workers hold no more open files after a thousand rings than before, and one without any ends."""

import os
import resource
from contextlib import suppress
from pathlib import Path

import django_rq
import pytest
from django.conf import settings

from accounts.jobs import send_notice
from derpmgmt.lib import bells, queue
from derpmgmt.lib.processes import Groups
from derpmgmt.lib.queue import Tick
from derpmgmt.lib.workers import run_forking_worker, run_workers
from tests.panel.running import apart, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

RINGS = 1000
# One of each kind, and how often it rings: they differ in what they serve, and the slow one forks for each job. A file that is left
# open by each ring is seen after one; a thousand are for what comes seldom, which is the same for those that only serve another queue.
QUEUES = {
    "default": RINGS, "slow": RINGS, "notices": 100, "admission": 100, "apply-0": 100, "visit-0": 100, "gate-0": 100,
}  # fmt: skip


def open_files(pid: int | str) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def ring_often(first: int, rings: int = RINGS) -> None:
    """What a sweep does: ring for many rows; writes down the open files before and after."""
    queue.enqueue(send_notice, first, queue="notices", is_again=True)
    before = open_files("self")
    for pk in range(first + 1, first + rings):
        queue.enqueue(send_notice, pk, queue="notices", is_again=True)
    django_rq.get_connection("default").rpush("files", before, open_files("self"))


def take_files(_pk: int) -> None:
    """A job that leaks."""
    while True:
        os.open(os.devnull, os.O_RDONLY)


def work(name: str) -> None:
    _hears, tells = os.pipe()
    if name == "slow":
        run_forking_worker(name, Groups(tells))
    else:
        run_workers([name])


@pytest.mark.slow
@pytest.mark.parametrize("name", QUEUES)
def test_open_files_stay_as_many_when_a_worker_rings_often(name: str) -> None:
    client = django_rq.get_connection("default")
    with apart(lambda: work(name)) as worker:
        seen = []
        for turn in (1, 2):
            django_rq.get_queue(name).enqueue(ring_often, turn * RINGS, QUEUES[name])
            wait_for(lambda turn=turn: client.llen("files") == 2 * turn, "the worker has rung")
            seen.append(open_files(worker))
    before, after = (int(count) for count in client.lrange("files", 0, 1))
    assert after <= before
    assert seen[1] <= seen[0] + 1
    assert client.keys("again:*send_notice*")


def ring_by_the_clock(number: int) -> None:
    for pk in range(10):
        queue.enqueue(send_notice, number * 10 + pk, queue="notices", is_again=True)
    django_rq.get_connection("default").incr("rung")


def test_open_files_stay_as_many_when_the_clock_rings_often() -> None:
    client = django_rq.get_connection("default")
    # Together they ring a hundred times in every second.
    ticks = [Tick(ring_by_the_clock, "default", 1, (number,)) for number in range(10)]
    with apart(lambda: run_workers(["default"], ticks)) as worker:
        wait_for(lambda: int(client.get("rung") or 0) >= 10, "the clock has rung")
        before = open_files(worker)
        wait_for(lambda: int(client.get("rung") or 0) >= RINGS // 10, "it has rung on")
        assert open_files(worker) <= before


@pytest.mark.slow
def test_queues_in_one_process_have_no_more_files_each() -> None:
    client = django_rq.get_connection("default")
    names = [name for name in QUEUES if name != "slow"]
    rings = RINGS // len(names)  # of each: a thousand leave the process
    with apart(lambda: run_workers(names)) as worker:
        seen = []
        for turn in (1, 2):
            for number, name in enumerate(names):
                django_rq.get_queue(name).enqueue(ring_often, (turn * 10 + number) * RINGS, rings)
            wait_for(lambda turn=turn: client.llen("files") == 2 * turn * len(names), "all have rung")
            seen.append(open_files(worker))
    assert seen[1] <= seen[0] + len(names)


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
    assert bells.client() is bells.client()
    assert bells.client().connection_pool.connection_kwargs["socket_timeout"] <= 5
    assert settings.RQ_QUEUES["default"]["URL"]
