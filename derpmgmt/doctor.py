"""What is wrong with this installation, in words: what `manage.py doctor` says.

Each check looks at one thing that the panel needs and yields what it found; one that breaks is itself a finding, and the others go on.
What the rooms have to say of their servers, relays and queues are matters (`derpmgmt.lib.matters`) and come at the end.
"""

import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import django_rq
import redis
from django.conf import settings
from django.core.mail import get_connection
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from redis.exceptions import RedisError
from rq.queue import Queue
from rq.worker import BaseWorker

from accounts.models import User
from derpmgmt.lib.address import is_loopback
from derpmgmt.lib.matters import CRITICAL, INFORMATION, WARNING, read_matters
from derpmgmt.panel import unreachable

GOOD = "good"
# Nagios' exit codes, which monitoring everywhere reads: https://nagios-plugins.org/doc/guidelines.html
EXIT_CODES = {GOOD: 0, INFORMATION: 0, WARNING: 1, CRITICAL: 2}
_ORDER = (CRITICAL, WARNING, INFORMATION, GOOD)

# Free space of the state folder, in bytes, from which on it is worth a word, and from which on the panel will soon stand.
LITTLE_BYTES, TOO_LITTLE_BYTES = 2_000_000_000, 300_000_000
# A job that waits for longer has nobody who takes it.
WAITING = timedelta(minutes=2)
# So long a mail server may take to greet.
MAIL_SECONDS = 8.0
# A worker's record is fresh for so long (`derpmgmt.lib.workers` renews it twice a minute).
BEAT = timedelta(seconds=100)


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: `level` says how bad it is, `code` what it is, for programs."""

    level: str
    code: str
    title: str
    text: str = ""

    def to_json(self) -> dict[str, Any]:
        """As `--json` tells it."""
        return asdict(self)


@dataclass(frozen=True)
class Check:
    """Something to look at: what it is called where it cannot be looked at, and whether that takes a database of this version."""

    name: str | Promise
    look: Callable[[], Iterator[Finding]]
    needs_database: bool = False


def examine() -> list[Finding]:
    """All findings, the worst first."""
    found: list[Finding] = []
    for check in CHECKS:
        if check.needs_database and any(each.code in _NO_DATABASE for each in found):
            continue
        found += _guarded(check)
    return sorted(found, key=lambda finding: _ORDER.index(finding.level))


def exit_code(findings: Iterable[Finding]) -> int:
    """What the command ends with: the worst of them counts."""
    return max((EXIT_CODES[finding.level] for finding in findings), default=0)


def _guarded(check: Check) -> Iterator[Finding]:
    try:
        yield from check.look()
    except Exception as error:
        # The type only: texts of errors may name addresses with passwords.
        title = _("This could not be looked at: %(name)s") % {"name": check.name}
        yield Finding(WARNING, f"{check.look.__name__}_unknown", title, type(error).__name__)


def settings_of_the_panel() -> Iterator[Finding]:
    """Addresses and switches that fit no real panel."""
    if settings.DEBUG:
        text = _("Errors show the program's insides to everybody. Unset DERPMGMT_DEBUG.")
        yield Finding(CRITICAL, "debug", _("Debugging is on"), text)
    parts = urlsplit(settings.PUBLIC_URL)
    if not settings.IS_HTTPS and not is_loopback(parts.hostname or ""):
        text = _(
            "Passwords and codes travel in the clear. Put a reverse proxy with TLS in front (docs/running.md)."
        )
        yield Finding(WARNING, "no_https", _("%(url)s is not https") % {"url": settings.PUBLIC_URL}, text)
    for sentence in unreachable(settings.RELAY_URL, settings.BIND, settings.PORT, settings.TRUSTED_PROXIES):
        yield Finding(WARNING, "unreachable", _("Servers may not reach the panel"), sentence)
    yield Finding(GOOD, "address", _("The panel's address is %(url)s") % {"url": settings.PUBLIC_URL})


def database() -> Iterator[Finding]:
    """Whether it answers, and is that of this version."""
    began = time.perf_counter()
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        took_ms = 1000 * (time.perf_counter() - began)
        executor = MigrationExecutor(connection)
        late = executor.migration_plan(executor.loader.graph.leaf_nodes())
    except Exception as error:
        # MariaDB's errors have a number before their words.
        text = str(error.args[-1]) if error.args else type(error).__name__
        yield Finding(CRITICAL, "no_database", _("The database does not answer"), text)
        return
    if late:
        text = _("%(count)d changes are missing. manage.py up makes them.") % {"count": len(late)}
        yield Finding(CRITICAL, "database_not_current", _("The database is not of this version"), text)
    title = _("The database (%(kind)s) answers in %(ms).1f ms")
    yield Finding(GOOD, "database", title % {"kind": connection.display_name, "ms": took_ms})


def redis_server() -> Iterator[Finding]:
    """Whether it answers and keeps what it is given."""
    try:
        with django_rq.get_connection("default") as client:
            client.ping()
            policy = _configured(client, "maxmemory-policy")
            is_kept = _configured(client, "appendonly")
    except RedisError as error:
        title, text = _("Redis does not answer"), type(error).__name__
        if settings.IS_VALKEY_OURS:
            text = _("It runs while the panel does: manage.py up")
        yield Finding(CRITICAL, "no_redis", title, text)
        return
    if policy not in ("", "noeviction"):
        text = _("It throws away jobs when its memory is full. Set maxmemory-policy noeviction.")
        yield Finding(WARNING, "redis_evicts", _("Redis forgets"), text)
    if is_kept == "no":
        text = _(
            "Bells that wait are lost when it restarts; the clock finds their work again, some seconds later."
        )
        yield Finding(INFORMATION, "redis_not_kept", _("Redis keeps nothing on disk"), text)
    yield Finding(GOOD, "redis", _("Redis answers"))


def _configured(client: redis.Redis, name: str) -> str:
    """One of its settings; "" where it does not tell, as rented ones do not."""
    try:
        return str(client.config_get(name).get(name, ""))
    except RedisError:
        return ""


def queues() -> Iterator[Finding]:
    """Whether somebody serves each, and nothing waits."""
    now = datetime.now(UTC)
    try:
        with django_rq.get_connection("default") as client:
            served = {
                name
                for worker in BaseWorker.all(connection=client)
                if worker.last_heartbeat and now - worker.last_heartbeat < BEAT
                for name in worker.queue_names()
            }
            waits = {name: _waits_since(Queue(name, connection=client)) for name in settings.QUEUES}
    except RedisError:
        return  # said by `redis_server`
    unserved = sorted(set(settings.QUEUES) - served)
    if len(unserved) == len(settings.QUEUES):
        yield Finding(CRITICAL, "not_running", _("The panel does not run"), _("Start it: manage.py up"))
    elif unserved:
        text = _("Nobody serves these queues: %(names)s") % {"names": ", ".join(unserved)}
        yield Finding(CRITICAL, "queues_unserved", _("Work is left lying"), text)
    else:
        title = _("All %(count)d queues are served") % {"count": len(settings.QUEUES)}
        yield Finding(GOOD, "queues", title)
    late = sorted(name for name, since in waits.items() if since and now - since > WAITING)
    if late and not unserved:
        text = _("The first job has waited for more than %(minutes)d minutes in: %(names)s")
        values = {"minutes": WAITING.total_seconds() // 60, "names": ", ".join(late)}
        yield Finding(WARNING, "queues_late", _("Work waits"), text % values)


def _waits_since(waiting: Queue) -> datetime | None:
    """Since when the first job of the queue waits; None when none does."""
    for job in waiting.get_jobs(0, 1):
        return job.enqueued_at
    return None


def disk() -> Iterator[Finding]:
    """Room for the state folder, and whether only the panel's user reads its keys."""
    free = shutil.disk_usage(settings.VAR_DIR).free
    values = {"folder": settings.VAR_DIR, "gigabytes": free / 1e9}
    title = _("%(gigabytes).1f GB are free for %(folder)s") % values
    if free < LITTLE_BYTES:
        text = _("When it is full nothing can be written any more. Make room, or order a larger disk.")
        yield Finding(CRITICAL if free < TOO_LITTLE_BYTES else WARNING, "disk", title, text)
    else:
        yield Finding(GOOD, "disk", title)
    keys = settings.VAR_DIR / "keys"
    if keys.exists() and stat.S_IMODE(keys.stat().st_mode) & 0o077:
        text = _("Others on this machine may look into it: chmod -R go= %(folder)s") % {"folder": keys}
        yield Finding(CRITICAL, "keys_open", _("The folder with the keys is open"), text)


def mail() -> Iterator[Finding]:
    """Whether there is a mail server, and it lets the panel in. Nothing is sent."""
    if not settings.EMAIL_URL:
        if not settings.IS_DEMO:
            text = _("Nobody can sign up or reset a password. Set DERPMGMT_EMAIL_URL (docs/running.md).")
            yield Finding(WARNING, "no_mail", _("No mail server is set"), text)
        return
    server = f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    try:
        sender = get_connection(timeout=MAIL_SECONDS)
        sender.open()
        sender.close()
    except Exception as error:
        text = _("%(server)s: %(reason)s. manage.py mail_test ADDRESS says more.")
        values = {"server": server, "reason": type(error).__name__}
        yield Finding(CRITICAL, "mail_refused", _("The mail server does not take mail"), text % values)
        return
    yield Finding(GOOD, "mail", _("The mail server %(server)s lets the panel in") % {"server": server})


def people() -> Iterator[Finding]:
    """Whether somebody may run the panel."""
    if not User.objects.filter(is_superuser=True, is_active=True).exists():
        text = _("Make one: manage.py user_create EMAIL --role superadmin")
        yield Finding(WARNING, "no_superadmin", _("There is no super admin yet"), text)


def what_the_rooms_say() -> Iterator[Finding]:
    """What needs a person, as the start page has it."""
    for matter in read_matters(timezone.now()):
        yield Finding(
            matter.level,
            matter.key,
            f"{matter.name}: {matter.title}" if matter.name else matter.title,
            matter.text,
        )


_NO_DATABASE = {"no_database", "database_not_current"}
CHECKS = (
    Check(gettext_lazy("settings"), settings_of_the_panel),
    Check(gettext_lazy("database"), database),
    Check("Redis", redis_server),
    Check(gettext_lazy("queues"), queues),
    Check(gettext_lazy("disk"), disk),
    Check(gettext_lazy("mail"), mail),
    Check(gettext_lazy("super admins"), people, needs_database=True),
    Check(gettext_lazy("servers and relays"), what_the_rooms_say, needs_database=True),
)
