"""The threads that serve the queues: each is alone with its trouble, whatever process it shares."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any

import django_rq
import pytest
import redis
from django.conf import settings
from django.db import connection
from django.utils import timezone

from containers.jobs import visits
from derpmgmt.lib import bells, workers
from derpmgmt.lib.queue import Tick, serving
from derpmgmt.lib.workers import run_workers, served_queues
from fleet.contact import pool
from fleet.ssh import ConnectionPool
from tests.factories import ServerFactory
from tests.panel.running import apart, wait_for

pytestmark = pytest.mark.django_db(transaction=True)

# Seconds: fewer than that for which a job hangs that nobody may wait for, and more than a machine under load takes.
PATIENCE = 40.0


def client() -> Any:
    return django_rq.get_connection("default")


def told(name: str) -> list[str]:
    return [word.decode() for word in client().lrange(name, 0, -1)]


def tell(number: int) -> None:
    bells.client().rpush("told", number)


def fail(number: int) -> None:
    tell(number)
    raise RuntimeError("on purpose")


def hang(seconds: float) -> None:
    bells.client().rpush("hangs", "begins")
    time.sleep(seconds)
    bells.client().rpush("hangs", "ends")


def wait_in_steps(seconds: float) -> None:
    """Waits as most code does: in Python, with limits of time."""
    bells.client().rpush("hangs", "begins")
    try:
        for _ in range(int(seconds * 50)):
            time.sleep(0.02)
        bells.client().rpush("hangs", "ends")
    except Exception as error:
        bells.client().rpush("hangs", type(error).__name__)
        raise


def read_database(_number: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
        cursor.fetchone()
    tell(_number)


def test_a_queue_whose_job_hangs_holds_no_other_up() -> None:
    ticks = [Tick(tell, "admission", 1, (7,)), Tick(tell, "notices", 1, (8,))]
    with apart(lambda: run_workers(["notices", "admission", "default"], ticks)):
        wait_for(lambda: {"7", "8"} <= set(told("told")), "both clocks are heard")
        django_rq.get_queue("notices").enqueue(hang, 600)
        wait_for(lambda: told("hangs"), "a job hangs")
        time.sleep(0.3)
        before = told("told")
        django_rq.get_queue("default").enqueue(read_database, 1)
        wait_for(lambda: "1" in told("told"), "another queue's job is done", PATIENCE)
        wait_for(
            lambda: told("told").count("7") >= before.count("7") + 2, "another's clock goes on", PATIENCE
        )
        assert told("told").count("8") == before.count("8")


def test_what_fails_by_the_clock_comes_again() -> None:
    with apart(lambda: run_workers(["default"], [Tick(fail, "default", 1, (3,))])):
        wait_for(lambda: told("told").count("3") >= 3, "it was tried again", PATIENCE)


def test_jobs_come_between_ticks_that_are_always_late() -> None:
    with apart(lambda: run_workers(["default"], [Tick(hang, "default", 1, (1.2,))])):
        wait_for(lambda: told("hangs"), "the clock is heard")
        django_rq.get_queue("default").enqueue(tell, 1)
        wait_for(lambda: told("told") == ["1"], "the job had its turn", PATIENCE)


def test_a_queue_on_which_nothing_comes_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the client, which the clock uses first, waits for answers less long than the queue for a job."""
    queues = {name: each | {"URL": _waiting(each["URL"], 0.3)} for name, each in settings.RQ_QUEUES.items()}
    monkeypatch.setattr(settings, "RQ_QUEUES", queues)
    with apart(lambda: run_workers(["default"], [Tick(tell, "default", 1, (7,))])):
        wait_for(lambda: told("told").count("7") >= 3, "the queue was waited for twice", PATIENCE)
        assert client().scard("rq:workers") == 1


def _waiting(url: str, seconds: float) -> str:
    return f"{url}{'&' if '?' in url else '?'}socket_timeout={seconds}"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["job", "tick"])
def test_what_is_over_its_time_ends_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TICK_SECONDS", 1)
    ticks = [Tick(wait_in_steps, "notices", 600, (60,))] if kind == "tick" else []
    with apart(lambda: run_workers(["notices", "default"], ticks)):
        if kind == "job":
            django_rq.get_queue("notices").enqueue(wait_in_steps, 60, job_timeout=1)
        wait_for(lambda: told("hangs") == ["begins", "JobTimeoutException"], "its time is over", PATIENCE)
        for name, number in (("notices", 1), ("default", 2)):
            django_rq.get_queue(name).enqueue(tell, number)
        wait_for(lambda: sorted(told("told")) == ["1", "2"], "both queues are served", PATIENCE)


def code_of(process: int) -> int:
    """How a child ended; waits for its end."""
    found: list[int] = []

    def has_ended() -> bool:
        pid, status = os.waitpid(process, os.WNOHANG)
        found.append(status)
        return bool(pid)

    wait_for(has_ended, "the process ends", PATIENCE)
    return os.waitstatus_to_exitcode(found[-1])


def test_the_process_ends_when_what_is_over_its_time_takes_no_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "PATIENCE_SECONDS", 1)
    monkeypatch.setattr(workers, "ENDING_SECONDS", 1)
    with apart(lambda: run_workers(["notices", "default"])) as process:
        django_rq.get_queue("notices").enqueue(hang, 600, job_timeout=1)
        assert code_of(process) == 1
    assert told("hangs") == ["begins"]


@pytest.mark.slow
def test_a_job_under_way_finishes_when_the_end_is_asked_for() -> None:
    since = timezone.now().replace(microsecond=0)
    with apart(lambda: run_workers(["notices", "default"])) as process:
        wait_for(lambda: served_queues(since) == {"notices", "default"}, "both queues are served")
        django_rq.get_queue("notices").enqueue(hang, 2)
        wait_for(lambda: told("hangs"), "the job runs")
        os.kill(process, signal.SIGTERM)
        os.kill(process, signal.SIGTERM)
        assert code_of(process) == 0
    assert told("hangs") == ["begins", "ends"]
    assert served_queues(since) == set()


@pytest.mark.slow
def test_queues_are_served_on_when_redis_was_lost() -> None:
    with apart(lambda: run_workers(["notices", "default"], [Tick(tell, "default", 1, (7,))])) as process:
        django_rq.get_queue("notices").enqueue(hang, 3)
        wait_for(lambda: told("hangs"), "a job runs")
        before = told("told").count("7")
        for other in client().client_list(_type="normal"):
            if other["id"] != str(client().client_id()):
                with suppress(redis.ResponseError):  # it went by itself
                    client().client_kill_filter(_id=other["id"], skipme=True)
        wait_for(lambda: told("told").count("7") >= before + 2, "the clock goes on", PATIENCE)
        wait_for(lambda: told("hangs") == ["begins", "ends"], "the job ends", PATIENCE)
        for name, number in (("notices", 1), ("default", 2)):
            django_rq.get_queue(name).enqueue(tell, number)
        wait_for(lambda: {"1", "2"} <= set(told("told")), "both queues are served", PATIENCE)
        assert os.waitpid(process, os.WNOHANG) == (0, 0)


def names_of_threads(process: int) -> set[str]:
    return {path.read_text().strip() for path in Path(f"/proc/{process}/task").glob("*/comm")}


def test_threads_are_named_after_their_queues() -> None:
    with apart(lambda: run_workers(["notices", "apply-0"])) as process:
        wait_for(lambda: {"notices", "apply-0"} <= names_of_threads(process), "both are named")


def test_each_queue_keeps_connections_of_its_own_and_lends_them_to_its_visits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servers = ServerFactory.create_batch(2, healthy=True)
    monkeypatch.setattr(settings, "SHARDS", 1)
    lent: dict[int, list[ConnectionPool]] = {server.pk: [] for server in servers}
    monkeypatch.setattr(visits, "visit_server", lambda server, _round: lent[server.pk].append(pool()))
    own = []
    for name in ("visit-0", "apply-0"):

        def serve(name: str = name) -> None:
            serving.set(name)
            own.append(pool())
            visits.visit_servers(0)

        thread = Thread(target=serve)
        thread.start()
        thread.join()
    assert own[0] is not own[1]
    assert all(seen == own for seen in lent.values())
