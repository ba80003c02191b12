"""Plays that are killed or doubled between any two steps, in processes and databases of their own.

A play is what stands in the database, what somebody does, and moments at which the clock rings for jobs. It is played once
undisturbed; that shows how it ends and which steps it takes: each statement that writes, each commit, and all that leaves the
process. Then, on copies of the same database:

- killed: the process dies by SIGKILL as it is about to take a step, and all that it was rung for is lost with it. A fresh process
  does the same moment once more and goes on to the last one;
- doubled: another process does the whole moment before a step is taken, then the first goes on with what it has read. Not inside
  of a transaction, where SQLite lets no second writer in.

Steps at which it makes no difference are tried once: a process that dies leaves nothing but what it committed and sent, and one that
has not asked the database since the step before knows no more.

Of the panel only the servers are left out: a relay that is to be made carries a packet, one that is to go is gone. The clock stands
still at each moment, so that times can be compared too.
"""

import gc
import json
import os
import shutil
import signal
import sqlite3
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django_rq
import redis
import time_machine
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import connection, connections
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone

from accounts import jobs as accounts
from accounts import push
from acl.devices import presence
from acl.maps import copies
from acl.maps.live import LiveMiddleware
from containers import jobs as containers
from containers.gate import list_hash
from containers.jobs import rotations
from containers.models import Relay
from containers.services import gates, relays
from derpmgmt.lib import mail, queue

# When plays begin: ahead of every real clock, since Redis forgets by its own.
BEGIN = datetime(2031, 3, 5, 2, tzinfo=UTC)
# The live URL of one customer.
LIVE_SECRET = "L" * 32
# A copy of what it answers may be as old as this.
COPIES_AGE = timedelta(seconds=61)
# Who tried how often and when to tell something, what is random in what is made, and which of several relays was ready first.
HIDDEN = {
    "accounts_operationlog": {"id"},
    "accounts_notice": {"worker", "tries", "send_after", "heartbeat_at", "handed_at", "sent_at"},
    "containers_relay": {"certificate", "certificate_key", "private_key", "public_key", "mesh_key"},
}
# Gates come and go with what stands on servers, which is left out; and cuts are owed only while relays stand there.
UNSEEN = {"containers_gate", "acl_devicepolicy"}
# Moments at which something was found to be over: of these only whether they are written counts.
FOUND_LATER = {
    "accounts_operationlog": {"at"},
    "accounts_user": {"closed_at"},
    "acl_aclconfig": {"lapsed_at"},
}


@dataclass(frozen=True)
class Step:
    """Something that others see: `kind` is write, commit, ring, copy, mail or push. `is_inside` a transaction.

    `left` is the same for two steps when the same is left by a process that dies before either; `asked` is how often the
    database was asked before.
    """

    kind: str
    text: str
    is_inside: bool
    left: str
    asked: int

    @property
    def is_telling(self) -> bool:
        """Whether a person gets a message."""
        return self.kind in {"mail", "push"}


@dataclass(frozen=True)
class Play:
    """`act` is done at the first moment, before the `jobs` that the clock rings for.

    `moments` count from `BEGIN`. Before `servers_answer` no relay comes up or goes. `result` says what the play comes to: what queries
    give. In `accidental` tables stands how it came to that, which may differ.
    """

    set_up: Callable[["Stage"], None]
    jobs: Sequence[Callable[[], None]]
    result: dict[str, list[tuple[Any, ...]]]
    act: Callable[[], object] | None = None
    moments: Sequence[timedelta] = (timedelta(), timedelta(seconds=30))
    servers_answer: timedelta = timedelta()
    settings: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Callable[..., Iterable[Any]]] = field(default_factory=dict)
    accidental: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Ending:
    """What there is after the last moment: what the play's queries give, the rows, each after its table's name, and what was sent."""

    result: dict[str, list[tuple[Any, ...]]]
    rows: list[str]
    sent: list[str]

    def notices(self) -> dict[int, dict[str, Any]]:
        """The notices by primary key."""
        shown = [json.loads(row.partition(" ")[2]) for row in self.rows if row.startswith("accounts_notice ")]
        return {notice["id"]: notice for notice in shown}


class Stage:
    """The panel in one forked process: clock, queue, and what leaves it. What is replaced here stays so until it ends."""

    def __init__(self, folder: Path, play: Play, before: Callable[[int], None]) -> None:
        self.folder, self.play, self._before = folder, play, before
        self.steps: list[Step] = []
        self._asked, self._moment = 0, 0
        self._observer: sqlite3.Connection | None = None
        self._bells: deque[tuple[queue.Job, int]] = deque()
        gc.disable()
        # A connection of its own. That of the process it was forked from is not even closed.
        self._inherited = connections["default"]
        connections.settings["default"]["NAME"] = str(folder / "panel.sqlite3")
        del connections["default"]
        connection.execute_wrappers.append(self._execute)
        commit = connection._commit
        connection._commit = lambda: (self._step("commit"), commit())
        for name, value in play.settings.items():
            setattr(settings, name, value)
        for question, answer in play.answers.items():
            queue._answers[question].append(answer)
        django_rq.get_queue = lambda _name, **_options: self
        mail.get_connection = lambda: self
        push.send = self._push
        rotations.has_devices = lambda _target: False
        presence.start_apart = lambda _work: None  # it cuts connections of relays that are not there
        keep = copies.keep
        copies.keep = lambda *given: (self._step("copy"), keep(*given))

    def _step(self, kind: str, text: str = "") -> None:
        raw = connection.connection
        is_inside = raw is not None and raw.in_transaction
        self.steps.append(Step(kind, text, is_inside, self._left(), self._asked))
        self._before(len(self.steps) - 1)

    def _left(self) -> str:
        if self._observer is None:
            self._observer = sqlite3.connect(self.folder / "panel.sqlite3")
        # It changes with each commit of another connection that wrote something.
        [version] = self._observer.execute("PRAGMA data_version").fetchone()
        sent = self.folder / "sent"
        return f"{version} {sent.stat().st_size if sent.exists() else 0} {self._moment}"

    def _execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.lstrip("( ").startswith(("SELECT", "PRAGMA")):
            self._step("write", sql[:80])
        self._asked += 1
        return execute(sql, params, many, context)

    # The queue

    def enqueue(self, job: queue.Job, *, args: tuple[int], **options: Any) -> None:
        """What RQ does with a bell, but one that waits does not wait twice: what is doubled is another process."""
        self._step("ring", f"{job.__name__} {args[0]}")
        if (job, args[0]) not in self._bells:
            self._bells.append((job, args[0]))

    def work(self) -> None:
        """Do all that was rung for, and what that rings for. Where no sweep looks after notices, none is sent."""
        while self._bells:
            job, pk = self._bells.popleft()
            if job is containers.apply_relay:
                self._apply(pk)
            elif job in {containers.apply_gate, containers.push_list}:
                self._apply_gate(pk)
            elif job is not accounts.send_notice or accounts.sweep_notices in self.play.jobs:
                job(pk)

    def _apply(self, relay_pk: int) -> None:
        """What comes of `containers.jobs.apply_relay`."""
        now, relay = timezone.now(), Relay.objects.get(pk=relay_pk)
        if BEGIN <= now < BEGIN + self.play.servers_answer:
            return
        if relay.status == Relay.Status.REMOVING:
            relays.record_released(relay=relay, now=now)
        elif relay.status in {Relay.Status.PLANNED, Relay.Status.FAILED}:
            relays.record_running(relay=relay, image="derpmgmt/derper:0123456789ab", now=now)

    def _apply_gate(self, server_pk: int) -> None:
        """What comes of the jobs about a server's gate."""
        now, gate = timezone.now(), gates.gate_of(server_pk)
        hashed = list_hash(gates.read_list(server_pk))
        gates.record_delivered(gate=gate, list_hash=hashed, as_of=now)
        gates.record_running(gate=gate, image="derpmgmt/gate:0123456789ab", now=now)

    # The mail server

    def open(self) -> None:
        """It lets everybody in."""

    def close(self) -> None:
        """It says goodbye."""

    def send_messages(self, messages: list[EmailMultiAlternatives]) -> None:
        """It takes everything."""
        for message in messages:
            self._send("mail", message.to[0], message.subject)

    def _push(self, address: str, *, title: str, text: str) -> None:
        self._send("push", address, title)

    def _send(self, kind: str, address: str, title: str) -> None:
        self._step(kind, title)
        with (self.folder / "sent").open("a") as file:
            file.write(f"{kind} {address} {title}\n")

    # The play

    def at(self, moment: datetime) -> time_machine.travel:
        """Lets the clock stand at `moment`; a context manager."""
        return time_machine.travel(moment, tick=False)

    def run(self, *jobs: Callable[[], None]) -> None:
        """What the clock rings for, and all that follows."""
        for job in jobs:
            job()
            self.work()

    def play_moment(self, number: int) -> None:
        """One moment of the play."""
        with self.at(BEGIN + self.play.moments[number]):
            if number == 0 and self.play.act is not None:
                self.play.act()
                self.work()
            self.run(*self.play.jobs)

    def play_on(self, first: int = 0) -> None:
        """All moments from that one on; leaves what a live URL answers then, and the steps taken."""
        for number in range(first, len(self.play.moments)):
            self._moment = number
            (self.folder / "moment").write_text(str(number))
            self.play_moment(number)
        with self.at(BEGIN + self.play.moments[-1] + COPIES_AGE):
            request = RequestFactory().get(f"/live/{LIVE_SECRET}.json")
            answer = LiveMiddleware(lambda _request: HttpResponse())(request)
        (self.folder / "answer").write_bytes(answer.content)
        (self.folder / "steps").write_text(json.dumps([vars(step) for step in self.steps]))


class Theatre:
    """Plays one play as often as wanted from the same beginning. `empty` is a database with tables only."""

    def __init__(self, folder: Path, empty: Path, play: Play) -> None:
        self.folder, self.play = folder, play
        self._begin = folder / "begin.sqlite3"
        self._restore(empty)
        self._expect_good(self._fork(play.set_up))
        copy_database(folder / "panel.sqlite3", self._begin)
        self._restore(self._begin)
        self.undisturbed = self._play_to_the_end(0)
        self.steps = [Step(**step) for step in json.loads((folder / "steps").read_text())]

    def fatal_steps(self) -> list[int]:
        """The steps to be killed at: of those that leave the same, the last, so inside of a transaction where there is one."""
        return sorted({step.left: number for number, step in enumerate(self.steps)}.values())

    def open_steps(self) -> list[int]:
        """The steps to be doubled at: outside of transactions, of those with the same knowledge the last."""
        return sorted(
            {step.asked: number for number, step in enumerate(self.steps) if not step.is_inside}.values()
        )

    def killed(self, number: int) -> Ending:
        """How it ends when the process dies before that step."""

        def die(step: int) -> None:
            if step == number:
                os.kill(os.getpid(), signal.SIGKILL)

        self._restore(self._begin)
        status = self._wait(self._fork(Stage.play_on, die))
        assert os.WIFSIGNALED(status), f"it was at its end before step {number}"
        return self._play_to_the_end(int((self.folder / "moment").read_text()))

    def doubled(self, number: int) -> Ending:
        """How it ends when another process does the whole moment before that step."""
        hear_call, call = os.pipe()
        hear_answer, answer = os.pipe()

        def double(stage: Stage) -> None:
            if moment := os.read(hear_call, 8):
                stage.play_moment(int(moment))
                os.write(answer, b"!")

        def wait_for_double(step: int) -> None:
            if step == number:
                os.write(call, (self.folder / "moment").read_bytes())
                assert os.read(hear_answer, 1), "the double did not come to its end"

        self._restore(self._begin)
        # Both are forked before either has opened the database.
        one = self._fork(Stage.play_on, wait_for_double, closes=(hear_call, answer))
        two = self._fork(double, closes=(call, hear_answer))
        for end in (hear_call, call, hear_answer, answer):
            os.close(end)
        self._expect_good(one, two)
        return self._ending()

    def _restore(self, database: Path) -> None:
        for path in self.folder.iterdir():
            if path != self._begin:
                path.unlink()
        shutil.copyfile(database, self.folder / "panel.sqlite3")
        for url in (settings.RQ_QUEUES["default"]["URL"], settings.CACHES["default"]["LOCATION"]):
            with redis.Redis.from_url(url) as client:
                client.flushdb()

    def _fork(
        self,
        work: Callable[[Stage], None],
        before: Callable[[int], None] = lambda _step: None,
        closes: Sequence[int] = (),
    ) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            for end in closes:
                os.close(end)
            work(Stage(self.folder, self.play, before))
            code = 0
        except BaseException:
            with (self.folder / "errors").open("a") as file:
                file.write(traceback.format_exc())
        finally:
            os._exit(code)

    def _wait(self, child: int) -> int:
        return os.waitpid(child, 0)[1]

    def _expect_good(self, *children: int) -> None:
        statuses = [self._wait(child) for child in children]
        if any(statuses):
            raise AssertionError((self.folder / "errors").read_text())

    def _play_to_the_end(self, moment: int) -> Ending:
        self._expect_good(self._fork(lambda stage: stage.play_on(moment)))
        return self._ending()

    def _ending(self) -> Ending:
        sent = self.folder / "sent"
        with closing(sqlite3.connect(self.folder / "panel.sqlite3")) as database:
            result = {query: database.execute(query).fetchall() for query in self.play.result}
            rows = [*sorted(self._rows(database)), f"live URL: {(self.folder / 'answer').read_text()}"]
            # A pin is told by whose it is.
            pins = database.execute("SELECT certificate_sha256, 'pin of relay ' || id FROM containers_relay")
            for pin, name in pins:
                rows = [row.replace(pin, name) for row in rows]
        return Ending(result, rows, sorted(sent.read_text().splitlines()) if sent.exists() else [])

    def _rows(self, database: sqlite3.Connection) -> Iterator[str]:
        """Every row of every table, without what is random or accidental."""
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
        for [table] in tables.fetchall():
            if table in {"sqlite_sequence", *UNSEEN, *self.play.accidental}:
                continue
            hidden, found_later = HIDDEN.get(table, set()), FOUND_LATER.get(table, set())
            rows = database.execute(f'SELECT * FROM "{table}" ORDER BY 1')  # noqa: S608
            names = [column[0] for column in rows.description]
            for row in rows:
                shown = {name: value for name, value in zip(names, row, strict=True) if name not in hidden}
                for name, value in shown.items():
                    # Encrypted, or what stands for "no password": the rest is random.
                    if isinstance(value, str) and value.startswith(("gAAAA", "!")):
                        shown[name] = value[:1]
                    elif value is not None and name in found_later:
                        shown[name] = "then"
                yield f"{table} {json.dumps(shown, default=repr, ensure_ascii=False)}"


def copy_database(source: Path, target: Path) -> None:
    """A copy of a SQLite database, write-ahead log included, as one file."""
    with closing(sqlite3.connect(source)) as one, closing(sqlite3.connect(target)) as other:
        one.backup(other)
