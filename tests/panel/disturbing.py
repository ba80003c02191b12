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
leave, files and Redis, is kept, and a fork of it goes on to the end of the moment in a copy. What another process makes of what
stands there, after a death or as a double, is played once for all steps that leave the same, and so is what follows the moment. It
is one for all of them, since forking takes longer than playing; it begins each time as one that nobody has rung for.
"""

import json
import os
import pickle
import shutil
import signal
import sqlite3
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import redis
from django.conf import settings

from derpmgmt.lib.crypto import decrypt
from tests.panel.stage import Ending, Play, Stage, Step
from tests.panel.understudy import Understudy

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
        self._text_of = cache(decrypt)
        self._done: dict[tuple[str, str], Path] = {}
        self._endings: dict[str, Ending] = {}
        self._restore(empty)
        self._understudy = Understudy(folder, play)
        self._understudy.play("set_up", folder)
        copy_database(folder / "panel.sqlite3", self._begin)
        self._restore(self._begin)
        self._understudy.play("play_on", folder)
        self.undisturbed = self._ending(folder)
        self.steps = [Step(**step) for step in json.loads((folder / "steps").read_text())]

    def fatal_steps(self) -> list[int]:
        """The steps to be killed at: of those that leave the same, the last, so inside of a transaction where there is one."""
        return sorted({step.left: number for number, step in enumerate(self.steps)}.values())

    def open_steps(self) -> list[int]:
        """The steps to be doubled at: outside of transactions, of those with the same knowledge the last."""
        return sorted(
            {step.asked: number for number, step in enumerate(self.steps) if not step.is_inside}.values()
        )

    def disturb_everywhere(
        self, check_killed: Callable[[int, Ending], object], check_doubled: Callable[[int, Ending], object]
    ) -> None:
        """One check gets each fatal step, and how it ends when the process dies before that; the other each open step, and how it ends
        when another process does the whole moment before that."""
        fatal, opened = set(self.fatal_steps()), set(self.open_steps())
        here, aside = self.folder / "here", self.folder / "aside"
        # What was done anew goes with what this player knows.
        self._done.clear()

        def disturb(stop: _Stop) -> None:
            self._keep(here)
            done = self._done_anew(here, self.steps[stop.step].left)
            if stop.step in fatal:
                copy_world(done, aside)
                check_killed(stop.step, self._what_follows(aside))
            if stop.step in opened:
                copy_world(done, aside)
                self._restore_redis(done)
                stop.let_fork_go_on_in(aside)
                self._keep_redis(aside)
                check_doubled(stop.step, self._what_follows(aside))
            self._restore_redis(here)

        self._play_with_stops(fatal | opened, disturb)

    def close(self) -> None:
        """Nobody plays any more."""
        self._understudy.close()

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
            self._understudy.play("play_moment", done, moment)
            self._keep_redis(done)
            self._done[known] = done
        return self._done[known]

    def _keep(self, world: Path) -> None:
        """Put there what a process leaves that dies now."""
        copy_world(self.folder, world)
        self._keep_redis(world)

    def _keep_redis(self, world: Path) -> None:
        kept = []
        for client in self._redis:
            keys = sorted(client.keys())
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.pttl(key)
                    pipeline.dump(key)
                told = pipeline.execute()
            kept.append(
                [(key, max(0, told[2 * number]), told[2 * number + 1]) for number, key in enumerate(keys)]
            )
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
            with client.pipeline(transaction=False) as pipeline:
                pipeline.flushdb()
                for key, milliseconds, value in keys:
                    pipeline.restore(key, milliseconds, value)
                pipeline.execute()

    def _fork(
        self,
        work: Callable[[Stage], None],
        before: Callable[[Stage], None] = lambda _stage: None,
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

    def _errors(self) -> str:
        path = self.folder / "errors"
        return path.read_text() if path.exists() else ""

    def _what_follows(self, world: Path) -> Ending:
        """How it ends when a fresh process goes on there with the next moment."""
        found = self._found(world)
        if found not in self._endings:
            moment = int((world / "moment").read_text()) + 1
            self._restore_redis(world)
            self._understudy.play("play_on", world, moment)
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
                            told.append(self._text_of(value) if is_token else repr(value))
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
