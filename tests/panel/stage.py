"""A play on the panel in one process: what stands in the database, what somebody does, and moments at which the clock rings for jobs.

Of the panel only the servers are left out: a relay that is to be made carries a packet, one that is to go is gone. The clock stands
still at each moment, so that times can be compared too.
"""

import gc
import json
import sqlite3
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import django_rq
import time_machine
from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.db import connection, connections
from django.http import HttpResponse
from django.test import RequestFactory
from django.utils import timezone
from rq.queue import EnqueueData

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
from derpmgmt import flow
from derpmgmt.lib import jobs, mail, queue

# When plays begin: ahead of every real clock, since Redis forgets by its own.
BEGIN = datetime(2031, 3, 5, 2, tzinfo=UTC)
# The live URL of one customer.
LIVE_SECRET = "L" * 32
# A copy of what it answers may be as old as this.
COPIES_AGE = timedelta(seconds=61)


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

    def __init__(self, folder: Path, play: Play, before: Callable[["Stage"], None]) -> None:
        self.folder, self.play, self._before = folder, play, before
        self.steps: list[Step] = []
        self._asked, self._moment = 0, 0
        self._observer: sqlite3.Connection | None = None
        self._bells: deque[tuple[queue.Job, int]] = deque()
        gc.disable()
        # The clock stands while others play: no thread is to show a sign of life by the real one meanwhile.
        jobs.HEARTBEAT_EVERY = timedelta(days=1)
        # A connection of its own. That of the process it was forked from is not even closed.
        self._inherited = connections["default"]
        connections.settings["default"]["NAME"] = str(folder / "panel.sqlite3")
        # What dies is a process, never the machine: nothing waits for the disk.
        options = connections.settings["default"]["OPTIONS"]
        options["init_command"] += "PRAGMA synchronous=OFF;"
        del connections["default"]
        connection.execute_wrappers.append(self._execute)
        commit = connection._commit
        connection._commit = lambda: (self._step("commit"), commit())
        for name, value in play.settings.items():
            setattr(settings, name, value)
        # Queues and disks are the machine's own.
        flow.READINGS.clear()
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
        self._before(self)

    def _left(self) -> str:
        if self._observer is None:
            self._observer = sqlite3.connect(self.folder / "panel.sqlite3")
        # It changes with each commit of another connection that wrote something.
        [version] = self._observer.execute("PRAGMA data_version").fetchone()
        sent = self.folder / "sent"
        return f"{version} {sent.stat().st_size if sent.exists() else 0} {self._moment}"

    def _execute(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if not sql.lstrip("( ").startswith(("SELECT", "PRAGMA")):
            folder = self.folder
            self._step("write", sql[:80])
            if self.folder != folder:
                context["cursor"].cursor = connection.create_cursor()
        self._asked += 1
        return execute(sql, params, many, context)

    def begin_in(self, folder: Path) -> None:
        """Begin anew with what stands there, as a process would that nobody has rung for yet."""
        self.leave()
        self.folder, self.steps, self._asked, self._moment = folder, [], 0, 0
        self._bells.clear()
        connection.settings_dict["NAME"] = str(folder / "panel.sqlite3")

    def leave(self) -> None:
        """Close the database, so that all of it stands in one file."""
        connection.close()
        if self._observer is not None:
            self._observer.close()
            self._observer = None

    def move_to(self, folder: Path) -> None:
        """Go on with a copy of what this began with, in a process forked from that one, outside of transactions.

        A connection to SQLite does not cross a fork: those that are open are neither used nor closed.
        """
        self._left_behind = (connection.connection, self._observer)
        self.folder, self._observer = folder, None
        connection.settings_dict["NAME"] = str(folder / "panel.sqlite3")
        connection.connection = None
        connection.connect()

    # The queue

    def enqueue(self, job: queue.Job, *, args: tuple[int], **options: Any) -> None:
        """What RQ does with a bell, but one that waits does not wait twice: what is doubled is another process."""
        self._step("ring", f"{job.__name__} {args[0]}")
        if (job, args[0]) not in self._bells:
            self._bells.append((job, args[0]))

    def enqueue_many(self, bells: list[EnqueueData]) -> None:
        """The same for several at once."""
        for bell in bells:
            self.enqueue(bell.func, args=bell.args)  # type: ignore[arg-type]

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

    @property
    def step(self) -> int:
        """The number of the step that is about to be taken, or was the last."""
        return len(self.steps) - 1

    # The play

    def set_up(self) -> None:
        """What stands in the database when the play begins."""
        self.play.set_up(self)

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
        """All moments from that one on; leaves what a live URL answers then, and the steps taken. A fork ends with its moment."""
        begun_in = self.folder
        for number in range(first, len(self.play.moments)):
            self._moment = number
            (self.folder / "moment").write_text(str(number))
            self.play_moment(number)
            if self.folder != begun_in:  # a fork: the theatre knows what follows
                return
        with self.at(BEGIN + self.play.moments[-1] + COPIES_AGE):
            request = RequestFactory().get(f"/live/{LIVE_SECRET}.json")
            answer = LiveMiddleware(lambda _request: HttpResponse())(request)
        (self.folder / "answer").write_bytes(answer.content)
        (self.folder / "steps").write_text(json.dumps([vars(step) for step in self.steps]))
