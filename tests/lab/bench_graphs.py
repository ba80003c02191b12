"""`make bench`: charts over a year of 200 servers' history on MariaDB: their first byte against that of the same page over a day.

The panel's own WSGI application is asked as by a browser, another server each time, both ranges in turn.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

SERVERS = 200
DAY_RANGE, YEAR_RANGE = "24h", "400d"
ASKED = 25
MOST_RATIO = 1.5


def main() -> None:
    from tests.lab import serving
    from tests.lab.services import mariadb, redis

    with (
        mariadb(is_local=True) as database_url,
        redis() as redis_url,
        tempfile.TemporaryDirectory() as folder,
    ):
        os.environ.update(
            DERPMGMT_VAR_DIR=folder,
            DERPMGMT_DATABASE_URL=database_url,
            DERPMGMT_REDIS_URL=redis_url,
            DERPMGMT_LOG_LEVEL="ERROR",
        )
        serving.setup()
        servers, session = fill()
        measure(servers, session)


def fill() -> tuple[list[int], str]:
    """Servers with raw samples of two days and hours of 400, made by the database itself; and an operator's session."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connection

    from accounts import services
    from accounts.models import User
    from fleet.sample_models import LOAD_FIGURES, LoadHour, LoadSample
    from fleet.samples import HOUR, KEEP_SAMPLES
    from tests.factories import ServerFactory
    from tests.lab.bench_api import _session

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    operator = services.create_user(email="operator@example.com", role=User.Role.SUPERADMIN)
    services.enrol_second_factor(user=operator, secret="JBSWY3DPEHPK3PXP")
    servers = [server.pk for server in ServerFactory.create_batch(SERVERS, healthy=True)]
    now = int(time.time())
    raw, hours = int(KEEP_SAMPLES.total_seconds()) // 15, 400 * 24
    figures = [f"{name}{ending}" for name in LOAD_FIGURES for ending in ("_min", "", "_max")]
    with connection.cursor() as cursor:
        for pk in servers:
            for table, columns, values in (
                (
                    LoadSample,
                    ("at", *LOAD_FIGURES),
                    f"%s + 15 * seq, {_random(LOAD_FIGURES)} FROM seq_1_to_{raw}",
                ),
                (
                    LoadHour,
                    ("samples", "hour", *figures),
                    f"240, %s + seq, {_random(figures)} FROM seq_1_to_{hours}",
                ),
            ):
                begin = now - 15 * raw if table is LoadSample else now // HOUR - hours
                names = ", ".join(f"`{name}`" for name in ("server_id", *columns))
                cursor.execute(f"INSERT INTO {table._meta.db_table} ({names}) SELECT {pk}, {values}", [begin])
        cursor.execute(f"ANALYZE TABLE {LoadSample._meta.db_table}, {LoadHour._meta.db_table}")
    return servers, _session(operator)


def _random(names: Any) -> str:
    return ", ".join(["RAND()"] * len(names))


def measure(servers: list[int], session: str) -> None:
    """Ask the page and each of its charts for both ranges; raises `SystemExit` where the longer one takes too long."""
    from django.core.wsgi import get_wsgi_application

    from derpmgmt.lib.database import trust_used_connections
    from fleet.graphs import SERVER_GRAPHS

    application = get_wsgi_application()
    trust_used_connections()
    pages = {name: f"/admin/fleet/server/{{pk}}/graph/{name}/?range={{range}}" for name in SERVER_GRAPHS}
    pages = {"the page": "/admin/fleet/server/{pk}/change/?tab=graphs&range={range}", **pages}
    found: dict[str, dict[str, list[float]]] = {}
    for name, path in pages.items():
        taken = found[name] = {DAY_RANGE: [], YEAR_RANGE: []}
        for turn in range(ASKED + 2):
            for chosen, times in taken.items():
                pk = servers[(turn * 37 + len(found)) % len(servers)]
                seconds = _first_byte(application, path.format(pk=pk, range=chosen), session)
                if turn >= 2:
                    times.append(seconds)
    print(
        f"first byte of a server's charts, {SERVERS} servers with 400 days on MariaDB; milliseconds, the median of {ASKED}"
    )
    print(f"{'':12} {'a day':>8} {'400 days':>9} {'ratio':>6}")
    ratios = {}
    for name, taken in found.items():
        day, year = (1000 * statistics.median(taken[chosen]) for chosen in (DAY_RANGE, YEAR_RANGE))
        ratios[name] = year / day
        print(f"{name:12} {day:8.1f} {year:9.1f} {ratios[name]:6.2f}")
    charts = [
        sum(statistics.median(found[name][chosen]) for name in SERVER_GRAPHS)
        for chosen in (DAY_RANGE, YEAR_RANGE)
    ]
    targets = {"the page": ratios["the page"], "all its charts": charts[1] / charts[0]}
    for name, ratio in targets.items():
        print(f"{name}: {ratio:.2f} times as long as over a day (at most {MOST_RATIO:g})")
    missed = [name for name, ratio in targets.items() if ratio > MOST_RATIO]
    if missed:
        sys.exit(f"above the target: {', '.join(missed)}")


def _first_byte(application: Callable[..., Any], path: str, session: str) -> float:
    from django.test import RequestFactory

    status: list[str] = []
    headers = {"Accept-Encoding": "gzip", "Cookie": f"sessionid={session}", "Host": "127.0.0.1"}
    environ = RequestFactory().get(path, headers=headers).environ
    begun = time.perf_counter()
    answer = application(environ, lambda line, _headers: status.append(line))
    first = next(iter(answer))
    seconds = time.perf_counter() - begun
    answer.close()
    if status != ["200 OK"] or not first:
        sys.exit(f"{path}: {status}")
    return seconds


if __name__ == "__main__":
    main()
