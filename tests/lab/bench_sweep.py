"""`make bench`: what the sweeps over 200,000 rentals cost on MariaDB when 1,000 of them are due, and when none is.

Every sweep over rentals and relays that the clock rings for is called as the clock calls it. What it costs shall follow from what
is due, so with none due it is milliseconds, whatever else there is.
"""

import os
import sys
import tempfile
import time
from datetime import timedelta
from functools import partial
from typing import Any

RENTALS = 200_000
DUE = 1_000
ROUNDS = 5
# So many times as long as one plain UPDATE for each of its rows a sweep may take. What it does for a row is several writes.
MOST_OF_BARE = 4
# Visits are no sweeps over rows: they go to the servers. `check_maps` compares all maps, once an hour, and
# `check_certificates` all certificates' addresses, once a minute.
_OTHERS = {"visit_servers", "prove_relays", "check_maps", "check_certificates"}


def main() -> None:
    from tests.lab.services import mariadb, redis

    with mariadb() as database_url, redis() as redis_url, tempfile.TemporaryDirectory() as folder:
        os.environ.update(
            DERPMGMT_VAR_DIR=folder,
            DERPMGMT_DATABASE_URL=database_url,
            DERPMGMT_REDIS_URL=redis_url,
            DERPMGMT_LOG_LEVEL="ERROR",
            DJANGO_SETTINGS_MODULE="derpmgmt.settings",
        )
        import django

        django.setup()
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
        fill()
        measure()


def fill() -> None:
    """Customers, rentals that run for another month, and three running relays of each, made by the database itself."""
    from django.db import connection
    from django.utils import timezone

    from accounts.models import User
    from acl.maps.models import AclConfig
    from containers.models import Relay
    from serials.rentals.models import Rental
    from tests.factories import ServerFactory

    servers = ServerFactory.create_batch(3, capacity=10**6)
    now = timezone.now()
    month = timedelta(days=30)
    for first in range(0, RENTALS, 5_000):
        users = User.objects.bulk_create(
            User(email=f"c{n}@example.com", username=f"c{n}", password="!")
            for n in range(first, first + 5_000)
        )
        Rental.objects.bulk_create(
            Rental(
                user=user,
                ends_at=now + month,
                runs_until=now + month,
                plan_due_at=now + month,
                remind_at=now + month,
            )
            for user in users
        )
    copied: dict[str, Any] = {
        "rental_id": "r.id",
        "derp_port": "r.id",
        "stun_port": "r.id",
        "inner_stun_port": "r.id",
        "status": "'running'",
        "image": "''",
        "certificate_ends_at": "%s",
        "created_at": "%s",
        "proven_at": "%s",
        "changed_at": "%s",
        "prove_after": "%s",
        "failures": "0",
        "failure_code": "''",
    } | dict.fromkeys(
        ("certificate", "certificate_key", "certificate_sha256", "private_key", "public_key", "mesh_key"),
        "'-'",
    )
    table, rentals = Relay._meta.db_table, Rental._meta.db_table
    with connection.cursor() as cursor:
        for slot, server in enumerate(servers, start=1):
            values = copied | {
                "slot": str(slot),
                "server_id": str(server.pk),
                "certificate_address": f"'{server.address}'",
            }
            cursor.execute(
                f"INSERT INTO {table} ({', '.join(values)}) SELECT {', '.join(values.values())} FROM {rentals} r",  # noqa: S608
                [now + 10 * month, now, now, now - month, now + month],
            )
        maps = AclConfig._meta.db_table
        cursor.execute(
            f"INSERT INTO {maps} (rental_id, version, derp_map, is_active, created_at, ends_at, told_at, reason) "  # noqa: S608
            f"SELECT r.id, 1, '{{\"Regions\": {{}}}}', 1, %s, %s, %s, '' FROM {rentals} r",
            [now, now + month, now],
        )
        cursor.execute(f"ANALYZE TABLE {table}, {rentals}, {maps}")


def measure() -> None:
    """Time the sweeps with nothing due, then with as many rentals at their end as are to be due, and print both."""
    from derpmgmt.flow import CRON
    from serials.rentals.models import Rental

    ours = ("serials.", "containers.jobs", "acl.", "accounts.jobs")
    sweeps = [
        tick.job for tick in CRON if tick.job.__module__.startswith(ours) and tick.job.__name__ not in _OTHERS
    ]
    none = {_name(sweep): min(_time(sweep) for _round in range(ROUNDS)) for sweep in sweeps}
    first = list(Rental.objects.order_by("pk").values_list("pk", flat=True)[:DUE])
    ended = Rental.objects.values_list("created_at", flat=True).earliest("created_at")
    Rental.objects.filter(pk__in=first).update(
        ends_at=ended, runs_until=ended, plan_due_at=ended, remind_at=ended
    )
    due = {_name(sweep): _time(sweep) for sweep in sweeps}
    expired = Rental.objects.filter(status=Rental.Status.EXPIRED).count()
    print(f"{RENTALS:,} rentals with three relays each on MariaDB; milliseconds")
    print(f"{'sweep':32} {'none due':>10} {f'{DUE:,} due':>10}")
    for sweep in sweeps:
        name = _name(sweep)
        print(f"{name:32} {none[name] * 1e3:10.1f} {due[name] * 1e3:10.1f}")
    print(f"{'together':32} {_sum(none):10.1f} {_sum(due):10.1f}")
    bare = _time(partial(_write_one_by_one, first))
    print(f"{f'{DUE:,} rows, a transaction each':32} {'':10} {bare * 1e3:10.1f}")
    print(f"ended rentals recorded: {expired:,}")
    if expired != DUE:
        sys.exit("not every end was recorded, or one too many")
    slow = [name for name, seconds in due.items() if seconds > MOST_OF_BARE * bare]
    print(f"each sweep takes at most {MOST_OF_BARE} times as long as that: {', '.join(slow) or 'yes'}")
    if slow:
        sys.exit("sweeps are slower than they may be")


def _write_one_by_one(pks: list[int]) -> None:
    """The least that so many changes cost on this machine when each is written by itself."""
    from serials.rentals.models import Rental

    for pk in pks:
        Rental.objects.filter(pk=pk).update(closing_due_at=None)


def _name(sweep: Any) -> str:
    return f"{sweep.__module__}.{sweep.__name__}".replace(".jobs", "")


def _sum(times: dict[str, float]) -> float:
    return sum(times.values()) * 1e3


def _time(work: Any) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
