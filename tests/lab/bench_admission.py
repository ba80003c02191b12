"""`make bench`: how many admissions a second the panel answers, beside a bare Django view that returns the same bytes.

Both run under the panel's own web server, one after the other in slices, so that what else the machine does hits both. The panel
answers about 100,000 devices in MariaDB with Redis beside it; 50 clients ask, each over a new connection as the gates do.
"""

import json
import multiprocessing
import os
import random
import socket
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from tests.lab import serving

RENTALS = 10_000
DEVICES_EACH = 10
CLIENTS = 50
CLIENT_PROCESSES = 2
SLICES = 5
SLICE_SECONDS = 3.0
SECRET = "s" * 43
# At least so much of the bare view's rate, and at most so many milliseconds more for all but one in a hundred.
LEAST_RATIO = 0.6
MOST_MORE_MS = 25.0


def main() -> None:
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
        relays = serving.in_a_process(_fill)
        with serving.server(_panel, _answers) as panel, serving.server(_bare, _answers) as bare:
            _compare(panel, bare, relays)


def _fill() -> list[tuple[int, int]]:
    """Make the rows; returns the relays' primary keys with the number of the first device of each one's customer."""
    serving.setup()
    from datetime import timedelta

    from django.core.management import call_command
    from django.db import connection
    from django.utils import timezone

    from accounts.models import User
    from acl.devices.models import Device
    from acl.maps.models import AclConfig
    from containers.models import Relay
    from serials.rentals.models import Rental
    from tests.factories import GateFactory, ServerFactory

    call_command("migrate", verbosity=0)
    server = ServerFactory(address="203.0.113.1", capacity=10**6)
    GateFactory(server=server, secret=SECRET)
    now = timezone.now()
    month = timedelta(days=30)
    relays = []
    for first in range(0, RENTALS, 2_000):
        users = User.objects.bulk_create(
            User(email=f"c{n}@example.com", username=f"c{n}", password="!")
            for n in range(first, first + 2_000)
        )
        rentals = Rental.objects.bulk_create(
            Rental(user=user, ends_at=now + month, runs_until=now + month) for user in users
        )
        AclConfig.objects.bulk_create(
            AclConfig(rental=rental, version=1, derp_map={"Regions": {}}, ends_at=now + month, reason="")
            for rental in rentals
        )
        made = Relay.objects.bulk_create(
            Relay(
                rental=rental, server=server, slot=1, status="running", derp_port=first + n, stun_port=first + n,
                certificate="-", certificate_key="-", certificate_sha256="-", certificate_address="203.0.113.1",
                certificate_ends_at=now + month, private_key="-", public_key="-", mesh_key="-", proven_at=now,
            )
            for n, rental in enumerate(rentals)
        )  # fmt: skip
        Device.objects.bulk_create(
            (
                Device(
                    rental=rental,
                    node_key=_key((first + n) * DEVICES_EACH + m),
                    status="approved",
                    approved_at=now,
                )
                for n, rental in enumerate(rentals)
                for m in range(DEVICES_EACH)
            ),
            batch_size=5_000,
        )
        relays += [(relay.pk, (first + n) * DEVICES_EACH) for n, relay in enumerate(made)]
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE TABLE acl_device, containers_relay, serials_rental")
    return relays


def _key(number: int) -> str:
    return f"{number + 1:064x}"


def _panel(listener: socket.socket) -> None:
    serving.setup()
    from derpmgmt.web import Web

    serving.serve(Web(listener))


def _bare(listener: socket.socket) -> None:
    """The least that Django can do: no middleware, one view."""
    from django.conf import settings

    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, MIDDLEWARE=[], SECRET_KEY="-", DATABASES={}
    )
    import django

    django.setup()
    from django.core.handlers.wsgi import WSGIHandler

    from derpmgmt.web import Web

    class Bare(Web):
        def load(self) -> Any:
            return WSGIHandler()

        def begin(self) -> None:
            """Nothing to begin."""

        def end(self) -> None:
            """Nothing to end."""

    serving.serve(Bare(listener))


def _urls() -> list[Any]:
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def view(request: HttpRequest, relay: int) -> HttpResponse:
        return HttpResponse(b'{"Allow":true}', content_type="application/json")

    return [path("admission/<int:relay>", view)]


def __getattr__(name: str) -> Any:
    # Django reads `urlpatterns` of this module when it serves the bare view, and only then.
    if name == "urlpatterns":
        return _urls()
    raise AttributeError(name)


def _request(relay: int, node_key: str) -> bytes:
    body = json.dumps({"NodePublic": f"nodekey:{node_key}", "Source": "198.51.100.7"}).encode()
    return (
        f"POST /admission/{relay} HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {SECRET}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def _ask(port: int, request: bytes) -> tuple[bool, float]:
    """Whether the device was let in, and the seconds it took; raises OSError."""
    started = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return answer.endswith(b'{"Allow":true}'), time.perf_counter() - started


def _answers(port: int) -> bool:
    return _ask(port, _request(1, _key(0)))[0]


def _load(port: int, relays: list[tuple[int, int]], seed: int) -> tuple[int, list[float]]:
    """One process' share of the clients for one slice: wrong answers, and the seconds that each right one took."""
    wrong, times, lock = 0, [], threading.Lock()
    until = time.perf_counter() + SLICE_SECONDS

    def client(number: int) -> None:
        nonlocal wrong
        chance = random.Random(seed * 1000 + number)
        mine, bad = [], 0
        while time.perf_counter() < until:
            relay, first = chance.choice(relays)
            request = _request(relay, _key(first + chance.randrange(DEVICES_EACH)))
            try:
                is_allowed, seconds = _ask(port, request)
            except OSError:
                bad += 1
                continue
            if is_allowed:
                mine.append(seconds)
            else:
                bad += 1
        with lock:
            wrong += bad
            times.extend(mine)

    threads = [
        threading.Thread(target=client, args=(number,)) for number in range(CLIENTS // CLIENT_PROCESSES)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return wrong, times


def _compare(panel: int, bare: int, relays: list[tuple[int, int]]) -> None:
    rates: dict[int, list[float]] = {panel: [], bare: []}
    times: dict[int, list[float]] = {panel: [], bare: []}
    wrong = 0
    with multiprocessing.get_context("spawn").Pool(CLIENT_PROCESSES) as pool:
        for turn in range(SLICES + 1):
            for port in (bare, panel):
                jobs = [(port, relays, turn * 10 + number) for number in range(CLIENT_PROCESSES)]
                results = pool.starmap(_load, jobs)
                if turn == 0:
                    continue  # both are warm from now on
                wrong += sum(bad for bad, _taken in results)
                taken = [seconds for _bad, part in results for seconds in part]
                rates[port].append(len(taken) / SLICE_SECONDS)
                times[port] += taken
    print(
        f"{RENTALS * DEVICES_EACH:,} devices on MariaDB, {CLIENTS} clients, {SLICES} slices of {SLICE_SECONDS:g} s each"
    )
    print(f"{'':18} {'a second':>10} {'median ms':>10} {'p99 ms':>10}")
    p99 = {}
    for name, port in (("bare Django view", bare), ("admission", panel)):
        cuts = statistics.quantiles(times[port], n=100)
        p99[port] = cuts[98] * 1e3
        print(f"{name:18} {statistics.median(rates[port]):10.0f} {cuts[49] * 1e3:10.1f} {p99[port]:10.1f}")
    ratio = statistics.median(rates[panel]) / statistics.median(rates[bare])
    more = p99[panel] - p99[bare]
    print(
        f"ratio of the rates {ratio:.2f} (at least {LEAST_RATIO}), p99 {more:+.1f} ms (at most +{MOST_MORE_MS:g})"
    )
    if wrong:
        sys.exit(f"{wrong} wrong answers")
    if ratio < LEAST_RATIO or more > MOST_MORE_MS:
        sys.exit("slower than it may be")


if __name__ == "__main__":
    main()
