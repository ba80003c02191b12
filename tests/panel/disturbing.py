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

No work is done twice for the same. What comes before the steps is played once: the process waits at each, where what a death would
leave, files and Redis, is kept, and a fork of it goes on to the end of the moment in a copy. What a fresh process makes of what
stands there, after a death or as a double, is played once for all steps that leave the same, and so is what follows the moment.

Of the panel only the servers are left out: a relay that is to be made carries a packet, one that is to go is gone. The clock stands
still at each moment, so that times can be compared too.
"""

import gc
import json
import os
import pickle
import shutil
import signal
import sqlite3
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
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
from derpmgmt.lib import jobs, mail, queue
from derpmgmt.lib.crypto import decrypt

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
# What is random in rows that a process finds.
RANDOM = {"containers_gate": {"secret", "secret_hash"}, "containers_relay": HIDDEN["containers_relay"]}
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


# What the theatre says to a player that waits.
GO_ON = "go on"
BEGINNING = "begin.sqlite3"


def files_of(world: Path) -> list[Path]:
    """All that a play has written, but not the index of SQLite's write-ahead log, which it makes anew."""
    return [
        path
        for path in world.iterdir()
        if path.is_file() and path.name != BEGINNING and path.suffix != ".sqlite3-shm"
    ]


def empty_world(world: Path) -> None:
    """Nothing of a play is left there."""
    (world / "panel.sqlite3-shm").unlink(missing_ok=True)
    for path in files_of(world):
        path.unlink()


def copy_world(source: Path, target: Path) -> None:
    """The same files stand there, and no others."""
    target.mkdir(exist_ok=True)
    empty_world(target)
    for path in files_of(source):
        shutil.copyfile(path, target / path.name)


def read_redis(world: Path) -> list[list[tuple[bytes, int, bytes]]]:
    """Keys, milliseconds to live (0: for ever) and values that were kept there, of each database; none where nothing was kept."""
    path = world / "redis"
    return pickle.loads(path.read_bytes()) if path.exists() else [[], []]  # noqa: S301


def read_redis_values(world: Path) -> list[list[tuple[bytes, bytes]]]:
    """The same without how long they live, which is counted by the real clock; of a last ring, whose number is random, the key."""
    return [
        [(key, b"" if key.startswith(b"again:") else value) for key, _ttl, value in keys]
        for keys in read_redis(world)
    ]


class _Stop:
    """A player that waits before the step `step`."""

    def __init__(self, hear: int, tell: int) -> None:
        self.step = -1
        self._hear, self._tell = hear, tell

    def let_fork_go_on_in(self, folder: Path) -> None:
        """A fork of the player plays to the moment's end with the copy of all there is that stands in `folder`; returns then."""
        os.write(self._tell, str(folder).encode())
        status = os.read(self._hear, 4)
        assert status == bytes(4), f"after step {self.step}"


class Theatre:
    """Plays one play as often as wanted from the same beginning. `empty` is a database with tables only."""

    def __init__(self, folder: Path, empty: Path, play: Play) -> None:
        self.folder, self.play = folder, play
        urls = (settings.RQ_QUEUES["default"]["URL"], settings.CACHES["default"]["LOCATION"])
        self._redis = [redis.Redis.from_url(url) for url in urls]
        self._begin = folder / BEGINNING
        self._done: dict[tuple[str, str], Path] = {}
        self._endings: dict[str, Ending] = {}
        self._restore(empty)
        self._expect_good(self._fork(play.set_up))
        copy_database(folder / "panel.sqlite3", self._begin)
        self._restore(self._begin)
        self.undisturbed = self._play_to_the_end()
        self.steps = [Step(**step) for step in json.loads((folder / "steps").read_text())]

    def fatal_steps(self) -> list[int]:
        """The steps to be killed at: of those that leave the same, the last, so inside of a transaction where there is one."""
        return sorted({step.left: number for number, step in enumerate(self.steps)}.values())

    def open_steps(self) -> list[int]:
        """The steps to be doubled at: outside of transactions, of those with the same knowledge the last."""
        return sorted(
            {step.asked: number for number, step in enumerate(self.steps) if not step.is_inside}.values()
        )

    def kill_everywhere(self, check: Callable[[int, Ending], object]) -> None:
        """`check` gets each fatal step, and how it ends when the process dies before that."""
        left = {number: self.folder / f"left-{number}" for number in self.fatal_steps()}
        self._play_with_stops(left, lambda stop: self._keep(left[stop.step]))
        for number, world in left.items():
            check(number, self._what_follows(self._done_anew(world, self.steps[number].left)))

    def left_by_a_kill(self, number: int) -> tuple[list[str], list[str]]:
        """The rows that a process leaves that is ended by SIGKILL before that step, and those that `kill_everywhere` begins with."""

        def die(stage: Stage) -> None:
            if stage.step == number:
                os.kill(os.getpid(), signal.SIGKILL)

        left = []
        self._restore(self._begin)
        assert os.WIFSIGNALED(self._wait(self._fork(Stage.play_on, die)))
        left.append(self._all_rows(self.folder))
        self._play_with_stops({number}, lambda _stop: self._keep(self.folder / "left"))
        self._restore(self.folder / "left")
        left.append(self._all_rows(self.folder))
        return left[0], left[1]

    def double_everywhere(self, check: Callable[[int, Ending], object]) -> None:
        """`check` gets each open step, and how it ends when another process does the whole moment before that."""
        here, aside = self.folder / "here", self.folder / "aside"
        # Only what was done beside a process that lives counts here.
        self._done.clear()

        def double(stop: _Stop) -> None:
            self._keep(here)
            done = self._done_anew(here, self.steps[stop.step].left)
            copy_world(done, aside)
            self._restore_redis(done)
            stop.let_fork_go_on_in(aside)
            self._keep_redis(aside)
            check(stop.step, self._what_follows(aside))
            self._restore_redis(here)

        self._play_with_stops(self.open_steps(), double)

    def _play_with_stops(self, steps: Collection[int], act: Callable[["_Stop"], object]) -> None:
        """Play to the end, and `act` before each of the steps, while the process waits."""
        hear_player, tell_theatre = os.pipe()
        hear_theatre, tell_player = os.pipe()

        def wait(stage: Stage) -> None:
            if stage.step not in steps or stage.folder != self.folder:
                return
            os.write(tell_theatre, stage.step.to_bytes(4, "big"))
            while folder := os.read(hear_theatre, 4096).decode():
                if folder == GO_ON:
                    return
                # A fork that knows all that this one knows goes on there.
                child = os.fork()
                if not child:
                    stage.move_to(Path(folder))
                    return
                os.write(tell_theatre, os.waitpid(child, 0)[1].to_bytes(4, "big"))
            os._exit(1)

        self._restore(self._begin)
        player = self._fork(Stage.play_on, wait, closes=(hear_player, tell_player))
        os.close(tell_theatre)
        os.close(hear_theatre)
        stop = _Stop(hear_player, tell_player)
        try:
            for stop.step in sorted(steps):
                told = os.read(hear_player, 4)
                assert told, f"it ended before step {stop.step}: {self._errors()}"
                assert int.from_bytes(told, "big") == stop.step
                act(stop)
                os.write(tell_player, GO_ON.encode())
        finally:
            # A player that still waits ends by that.
            os.close(tell_player)
            os.close(hear_player)
            status = self._wait(player)
        assert not status, self._errors()

    def _done_anew(self, world: Path, left: str) -> Path:
        """What there is once a fresh process has done the whole moment from there. Redis may differ where the same is `left`."""
        if (known := (left, repr(read_redis_values(world)))) not in self._done:
            done = self.folder / f"done-{len(self._done)}"
            copy_world(world, done)
            self._restore_redis(world)
            moment = int((world / "moment").read_text())
            self._expect_good(self._fork(lambda stage: stage.play_moment(moment), folder=done))
            self._keep_redis(done)
            self._done[known] = done
        return self._done[known]

    def _keep(self, world: Path) -> None:
        """Put there what a process leaves that dies now."""
        copy_world(self.folder, world)
        self._keep_redis(world)

    def _keep_redis(self, world: Path) -> None:
        kept = [
            [(key, max(0, client.pttl(key)), client.dump(key)) for key in sorted(client.scan_iter())]
            for client in self._redis
        ]
        (world / "redis").write_bytes(pickle.dumps(kept))

    def _restore(self, world: Path) -> None:
        """Let what stands there be all there is: a folder that was kept, or a database and nothing else."""
        if world.is_dir():
            copy_world(world, self.folder)
        else:
            empty_world(self.folder)
            shutil.copyfile(world, self.folder / "panel.sqlite3")
        self._restore_redis(world)

    def _restore_redis(self, world: Path) -> None:
        for client, keys in zip(self._redis, read_redis(world), strict=True):
            client.flushdb()
            for key, milliseconds, value in keys:
                client.restore(key, milliseconds, value)

    def _fork(
        self,
        work: Callable[[Stage], None],
        before: Callable[[Stage], None] = lambda _stage: None,
        closes: Sequence[int] = (),
        folder: Path | None = None,
    ) -> int:
        child = os.fork()
        if child:
            return child
        code = 1
        try:
            for end in closes:
                os.close(end)
            work(Stage(folder or self.folder, self.play, before))
            code = 0
        except BaseException:
            with (self.folder / "errors").open("a") as file:
                file.write(traceback.format_exc())
        finally:
            os._exit(code)

    def _wait(self, child: int) -> int:
        return os.waitpid(child, 0)[1]

    def _errors(self) -> str:
        path = self.folder / "errors"
        return path.read_text() if path.exists() else ""

    def _expect_good(self, *children: int) -> None:
        statuses = [self._wait(child) for child in children]
        assert not any(statuses), self._errors()

    def _play_to_the_end(self) -> Ending:
        self._expect_good(self._fork(Stage.play_on))
        return self._ending(self.folder)

    def _what_follows(self, world: Path) -> Ending:
        """How it ends when a fresh process goes on there with the next moment."""
        found = self._found(world)
        if found not in self._endings:
            moment = int((world / "moment").read_text()) + 1
            self._restore_redis(world)
            self._expect_good(self._fork(lambda stage: stage.play_on(moment), folder=world))
            self._endings[found] = self._ending(world)
        return self._endings[found]

    def _found(self, world: Path) -> str:
        """All that a process would find there; of what is encrypted its text, and nothing that is random."""
        told = [str(read_redis_values(world))]
        told += [path.read_text() for path in (world / "moment", world / "sent") if path.exists()]
        with closing(sqlite3.connect(world / "panel.sqlite3")) as database:
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")
            for [table] in tables.fetchall():
                rows = database.execute(f'SELECT * FROM "{table}" ORDER BY 1')  # noqa: S608
                names = [column[0] for column in rows.description]
                hidden = RANDOM.get(table, set())
                for row in rows:
                    told.append(table)
                    for name, value in zip(names, row, strict=True):
                        if name not in hidden:
                            is_token = isinstance(value, str) and value.startswith("gAAAA")
                            told.append(decrypt(value) if is_token else repr(value))
            pins = database.execute("SELECT certificate_sha256, 'pin of relay ' || id FROM containers_relay")
            shown = "\n".join(told)
            for pin, name in pins:
                shown = shown.replace(pin, name)
        return shown

    def _ending(self, folder: Path) -> Ending:
        sent = folder / "sent"
        with closing(sqlite3.connect(folder / "panel.sqlite3")) as database:
            result = {query: database.execute(query).fetchall() for query in self.play.result}
            rows = [*sorted(self._rows(database)), f"live URL: {(folder / 'answer').read_text()}"]
            # A pin is told by whose it is.
            pins = database.execute("SELECT certificate_sha256, 'pin of relay ' || id FROM containers_relay")
            for pin, name in pins:
                rows = [row.replace(pin, name) for row in rows]
        return Ending(result, rows, sorted(sent.read_text().splitlines()) if sent.exists() else [])

    def _all_rows(self, folder: Path) -> list[str]:
        with closing(sqlite3.connect(folder / "panel.sqlite3")) as database:
            return sorted(self._rows(database))

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
