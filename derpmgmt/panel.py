"""A whole panel on one machine: what `manage.py up` makes ready, starts, waits for and keeps running."""

import hashlib
import http.client
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import django_rq
import redis
from django.apps import apps
from django.conf import settings
from django.contrib.staticfiles.finders import get_finders
from django.core.management import call_command
from django.db import DatabaseError, connection, connections
from django.db.migrations.exceptions import InconsistentMigrationHistory
from django.db.migrations.executor import MigrationExecutor
from django.db.migrations.recorder import MigrationRecorder
from django.utils import translation
from django.utils.translation import gettext as _

from derpmgmt import flow
from derpmgmt.lib import env, valkey
from derpmgmt.lib.address import is_loopback
from derpmgmt.lib.files import write_private
from derpmgmt.lib.processes import AlreadyRunning, Lock, Program, Supervisor, name_thread
from derpmgmt.lib.workers import run_forking_worker, run_workers, served_queues
from derpmgmt.own_keys import ForeignKeys, check_keys
from derpmgmt.web import PROCESSES, Web, preload

VALKEY_SECONDS = 30
# A change of the database that is under way when the end is asked for has so long.
PREPARING_SECONDS = 30
# After so long it is said what is waited for.
SILENT_SECONDS = 3.0


class CannotStart(Exception):
    """The panel cannot run here and now; the text is a sentence that says why."""


class Panel:
    """The panel's processes. `say` prints a line; with `parent`, all ends when that process (make) is gone.

    The processes end by rank: first what takes in work, then the workers, which may finish theirs, Valkey last.
    """

    ready_seconds = 60.0
    output: Path | None = None

    def __init__(self, say: Callable[[str], None], *, parent: int | None = None) -> None:
        self.say = say
        self._parent = parent

    def run(self) -> None:
        """Start everything, say when it is ready, and return when a signal has ended it. Raises `CannotStart`."""
        os.umask(0o077)
        name_thread("panel")
        with _lock() as lock, _listen() as listener:
            with _writable():
                _note_place()
            preload()
            supervisor = Supervisor(lock, output=self.output, parent=self._parent)
            try:
                with supervisor, _writable():
                    self._run(supervisor, listener)
            finally:
                with suppress(OSError):
                    env.running_file().unlink(missing_ok=True)

    def fleet(self) -> list[Program]:
        """What else is to run: the demo's servers."""
        return []

    def is_fleet_up(self) -> bool:
        """Whether the programs of `fleet` take connections; must not block."""
        return True

    def settle(self) -> None:
        """What must be done once the panel runs, before it is ready; happens in a process of its own. Raises `CannotStart`."""

    def announce(self) -> None:
        """Say that the panel is ready, and what the operator should know."""
        self.say(_("The panel is ready: %(url)s  (Ctrl-C ends it)") % {"url": settings.PUBLIC_URL})
        if not apps.get_model("accounts", "User").objects.filter(is_superuser=True).exists():
            self.say(
                _("There is no super admin yet. Make one: manage.py user_create EMAIL --role superadmin")
            )
        if not settings.EMAIL_URL:
            self.say(
                _(
                    "No mail server is set: mail is printed to this log instead of being sent. "
                    "Set DERPMGMT_EMAIL_URL=smtp+tls://USER:PASSWORD@HOST:587 and DERPMGMT_EMAIL_FROM (docs/running.md)."
                )
            )
        for sentence in unreachable(
            settings.RELAY_URL, settings.BIND, settings.PORT, settings.TRUSTED_PROXIES
        ):
            self.say(sentence)
        connections.close_all()

    def _run(self, supervisor: Supervisor, listener: socket.socket) -> None:
        since = datetime.now(UTC).replace(microsecond=0)

        def start(name: str, main: Callable[[], object], rank: int, grace: float) -> None:
            def apart() -> None:
                translation.deactivate()  # the terminal's language is for what is said there
                listener.close()
                main()

            supervisor.start(Program(name, apart, rank, grace))

        if settings.IS_VALKEY_OURS:
            start("valkey", lambda: valkey.run(settings.VAR_DIR), 3, 10)
        fleet = self.fleet()
        for program in fleet:
            start(program.name, program.main, 2, program.grace)
        self._prepare_apart(supervisor)
        connections.close_all()
        self._wait_for_redis(supervisor)
        if not supervisor.run(self.is_fleet_up, SILENT_SECONDS) and not supervisor.is_stopping:
            self.say(_("Waiting for the servers of the demo to start …"))
            supervisor.run(
                # What ended twice will again.
                lambda: self.is_fleet_up() or any(supervisor.deaths(program.name) > 1 for program in fleet),
                self.ready_seconds,
            )
            if not self.is_fleet_up() and not supervisor.is_stopping:
                text = _("The servers of the demo did not start; see %(path)s.")
                raise _broken(text % {"path": self.output})
        if supervisor.is_stopping:
            return
        web = Web(listener)
        start("worker slow", lambda: run_forking_worker("slow", supervisor.groups), 1, 10)
        for name, queues in worker_processes().items():
            start(name, partial(run_workers, queues, flow.CRON), 1, 10)
        for number in range(1, PROCESSES + 1):
            supervisor.start(Program(f"web {number}", web.run, 0, 7))
        supervisor.start(
            Program("start", lambda: self._settle(since), 0, 1, is_restarted=False, is_heard=True)
        )
        supervisor.run(lambda: supervisor.exit_code("start") is not None)
        if supervisor.exit_code("start"):
            raise _broken(_("The panel did not start."))
        if not supervisor.is_stopping:
            _write_record()
            self.announce()
            supervisor.run()
        self.say(_("Ending …"))

    def _prepare_apart(self, supervisor: Supervisor) -> None:
        """Have database and static files made ready by a process of its own: what that loads would weigh on all that are forked later."""
        reads, writes = os.pipe()

        def prepare() -> None:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            try:
                with _writable():
                    self._prepare()
            except CannotStart as error:
                os.write(writes, str(error).encode())
                sys.exit(1)

        try:
            supervisor.start(
                Program("prepare", prepare, 0, PREPARING_SECONDS, is_restarted=False, is_heard=True)
            )
        finally:
            os.close(writes)
        with os.fdopen(reads, "rb") as pipe:
            supervisor.run(lambda: supervisor.exit_code("prepare") is not None)
            if supervisor.exit_code("prepare"):
                reason = pipe.read().decode()
                raise CannotStart(reason) if reason else _broken(_("The panel did not start."))

    def _prepare(self) -> None:
        try:
            is_new = not MigrationRecorder(connection).applied_migrations()
            if settings.KEYS_MADE and not is_new:
                for name in settings.KEYS_MADE:
                    (settings.VAR_DIR / "keys" / name).unlink(missing_ok=True)
                raise CannotStart(
                    _(
                        "There is a database, but its keys are missing from %(folder)s. "
                        "Without these keys the stored secrets cannot be read. %(restore)s"
                    )
                    % {"folder": settings.VAR_DIR / "keys", "restore": env.restore()}
                )
            if is_new and not settings.DATABASE_URL and _tables():
                text = _("%(name)s is the database of another program. %(restore)s")
                values = {"name": settings.DATABASES["default"]["NAME"], "restore": env.restore()}
                raise CannotStart(text % values)
            if MigrationExecutor(connection).migration_plan(_leaves()):
                self.say(_("Bringing the database up to date …"))
                call_command("migrate", interactive=False, verbosity=0)
            check_keys()
        except ForeignKeys as error:
            raise CannotStart(str(error)) from error
        except InconsistentMigrationHistory as error:
            text = _("The database is not one of this version: %(reason)s %(restore)s")
            raise CannotStart(text % {"reason": error, "restore": env.restore()}) from error
        except DatabaseError as error:
            raise _database_failure(error) from error
        _collect_static()
        if is_new and not settings.IS_DEMO:
            self.say(
                _(
                    "New keys were made in %(folder)s. Back this folder up, apart from the database: without it the stored "
                    "secrets (serial numbers, SSH keys, keys of relays) cannot be read again."
                )
                % {"folder": settings.VAR_DIR / "keys"}
            )

    def _wait_for_redis(self, supervisor: Supervisor) -> None:
        if settings.IS_VALKEY_OURS:
            is_up = supervisor.run(lambda: valkey.is_answering(settings.VAR_DIR), VALKEY_SECONDS)
            if not is_up and not supervisor.is_stopping:
                path = valkey.log_path(settings.VAR_DIR)
                raise _broken(_("The embedded Valkey did not start; see %(path)s.") % {"path": path})
            return
        try:
            with django_rq.get_connection("default") as client:
                client.ping()
        except redis.RedisError as error:
            raise CannotStart(_("Redis does not answer: %(reason)s") % {"reason": error}) from error

    def _settle(self, since: datetime) -> None:
        try:
            with _writable():
                try:
                    self.settle()
                except DatabaseError as error:
                    raise _database_failure(error) from error
            began = said_at = time.monotonic()
            said = ""
            while missing := self._missing(since):
                now = time.monotonic()
                if now > began + self.ready_seconds:
                    raise CannotStart(missing)
                if now > said_at + SILENT_SECONDS and missing != said:
                    said, said_at = missing, now
                    self.say(_("Waiting: %(what)s") % {"what": missing})
                time.sleep(0.05)
        except CannotStart as error:
            self.say(str(error))
            sys.exit(1)

    def _missing(self, since: datetime) -> str:
        status = _web_status()
        if status != 200:
            return _("The web server does not answer as it should: %(status)s") % {"status": status}
        unserved = set(settings.QUEUES) - served_queues(since)
        if unserved:
            return _("Nobody serves these queues: %(names)s") % {"names": ", ".join(sorted(unserved))}
        return ""


def worker_processes() -> dict[str, list[str]]:
    """The processes that serve the queues, but the one whose jobs are processes themselves: name → queues."""
    queues = [queue for queue in settings.QUEUES if queue != "slow"]
    if settings.PROCESS_PER_QUEUE:
        return {f"worker {queue}": [queue] for queue in queues}
    return {"workers": queues}


def unreachable(relay_url: str, bind: str, port: int, proxies: int) -> list[str]:
    """What to say where servers elsewhere cannot reach the panel: by an address of this machine only, or for want of a listener there."""
    parts = urlsplit(relay_url)
    if is_loopback(parts.hostname or ""):
        text = _(
            "Servers on other machines cannot reach the panel at %(url)s, so their relays let no new device in. Set DERPMGMT_PUBLIC_URL "
            "(or DERPMGMT_RELAY_URL) to an address that they reach, and DERPMGMT_BIND=0.0.0.0 unless a reverse proxy runs here (docs/running.md)."
        )
        return [text % {"url": relay_url}]
    # A proxy on this machine may stand before it, unless the address leads to the very port.
    is_direct = parts.scheme == "http" and (parts.port or 80) == port
    if not is_loopback(bind) or (proxies and not is_direct):
        return []
    text = _(
        "The panel listens on %(bind)s only, where %(url)s leads nobody from outside: set DERPMGMT_BIND=0.0.0.0, or put a reverse proxy on this "
        "machine and set DERPMGMT_TRUSTED_PROXIES=1 (docs/running.md)."
    )
    return [text % {"bind": bind, "url": relay_url}]


@contextmanager
def _writable() -> Iterator[None]:
    """Turns a state folder in which something cannot be read or written into `CannotStart`."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        text = _("%(path)s cannot be used: %(reason)s.") % {"path": error.filename, "reason": error.strerror}
        is_state = Path(os.fsdecode(error.filename)).is_relative_to(settings.VAR_DIR)
        raise (_broken(text) if is_state else CannotStart(text)) from error


def _broken(text: str) -> CannotStart:
    """For what may be wrong with the state of a demo or panel: the sentence, and a demo's way out."""
    return CannotStart(f"{text} {env.begin_anew()}".rstrip())


def _database_failure(error: DatabaseError) -> CannotStart:
    text = _("The database does not answer: %(reason)s") % {"reason": error}
    return CannotStart(text) if settings.DATABASE_URL else _broken(text)


def _tables() -> set[str]:
    return set(connection.introspection.table_names()) - {MigrationRecorder.Migration._meta.db_table}


def _note_place() -> None:
    """Write into the state folder where it is, so that a copy of it knows whose it is.

    Raises `CannotStart` in a copy, as long as its original runs: both would have the same keys and be the same panel to all servers.
    """
    path = settings.VAR_DIR / "place.json"
    try:
        place = json.loads(path.read_text())
        original, lock = Path(place["folder"]), Path(place["lock"])
        is_copy = original.exists() and not original.samefile(settings.VAR_DIR)
    except (FileNotFoundError, ValueError, TypeError, LookupError):
        is_copy = False
    if is_copy and (pid := Lock.holder(lock)):
        text = _(
            "%(folder)s is a copy of %(original)s, where a panel or demo runs (process %(pid)s). Both would be the same panel to their "
            "servers: end that one first."
        )
        raise _broken(text % {"folder": settings.VAR_DIR, "original": original, "pid": pid})
    write_private(path, json.dumps({"folder": str(settings.VAR_DIR), "lock": str(env.running_lock())}))


@contextmanager
def _lock() -> Iterator[Lock]:
    try:
        with _writable():
            lock = Lock(env.running_lock())
    except AlreadyRunning as error:
        text = _("A panel or demo runs in %(folder)s already (process %(pid)s). End that one first.")
        raise CannotStart(text % {"folder": env.home(), "pid": error.pid}) from error
    try:
        yield lock
    finally:
        lock.close()


@contextmanager
def _listen() -> Iterator[socket.socket]:
    is_ipv6 = ":" in settings.BIND
    try:
        listener = socket.create_server(
            (settings.BIND, settings.PORT),
            family=socket.AF_INET6 if is_ipv6 else socket.AF_INET,
            backlog=1024,
            # “::” means every address, of IPv4 too.
            dualstack_ipv6=is_ipv6 and socket.has_dualstack_ipv6(),
        )
    except OSError as error:
        text = _(
            "Port %(port)s of %(address)s cannot be used: %(reason)s. Choose another with DERPMGMT_PORT (make: PORT=…)."
        )
        values = {"port": settings.PORT, "address": settings.BIND, "reason": os.strerror(error.errno or 0)}
        raise CannotStart(text % values) from error
    with listener:
        yield listener


def _leaves() -> list[tuple[str, str]]:
    return list(MigrationExecutor(connection).loader.graph.leaf_nodes())


def _collect_static() -> None:
    digest = hashlib.sha256()
    for finder in get_finders():
        for path, storage in finder.list(None):
            found = Path(storage.path(path)).stat()
            digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
    stamp = settings.STATIC_ROOT / ".collected"
    if stamp.exists() and stamp.read_bytes() == digest.hexdigest().encode():
        return
    call_command("collectstatic", interactive=False, verbosity=0)
    stamp.write_text(digest.hexdigest())


def _web_status() -> int | str:
    """The status of the front page, or why there is none."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.BIND, settings.BIND)  # noqa: S104
    client = http.client.HTTPConnection(host, settings.PORT, timeout=10)
    headers = {"Host": urlsplit(settings.PUBLIC_URL).netloc}
    if settings.IS_HTTPS:
        headers["X-Forwarded-Proto"] = "https"
    try:
        client.request("GET", "/", headers=headers)
        return client.getresponse().status
    except OSError as error:
        return str(error)
    finally:
        client.close()


def _write_record() -> None:
    """Tell commands in the same folder how to reach this panel: its addresses and the variables it was given."""
    record = {
        "pid": os.getpid(),
        "var_dir": str(settings.VAR_DIR),
        "port": settings.PORT,
        "public_url": settings.PUBLIC_URL,
        "redis_url": settings.REDIS_URL,
        "demo": settings.IS_DEMO,
        "variables": {name: value for name, value in os.environ.items() if name.startswith(env.PREFIX)},
    }
    write_private(env.running_file(), json.dumps(record, indent=2))
