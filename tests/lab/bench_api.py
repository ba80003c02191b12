"""`make bench`: how many reads a second the JSON API answers, beside a bare ninja endpoint and beside the page with the same data.

The bare one has the same schema and returns the same bytes from data that it has at hand: no query, no token, no middleware. All run
under the panel's own web server, on MariaDB and Redis, one after the other in slices, so that what else the machine does hits all; 50
clients ask, each over a new connection.
"""

import http.client
import json
import multiprocessing
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from tests.lab import serving

SERVERS = 200
CUSTOMERS = 2_000
CLIENTS, CLIENT_PROCESSES = 50, 2
SLICES, SLICE_SECONDS = 5, 2.0
# At least so much of the bare endpoint's rate, and so many times the page's.
LEAST_OF_BARE, LEAST_OF_PAGE = 0.5, 4.0


class Read(NamedTuple):
    """A typical read: who asks, the API's address, its operation, and the page that shows the same."""

    name: str
    is_staff: bool
    path: str
    operation: str
    page: str


READS = [
    Read("rental info", False, "/api/v1/user/rental_info", "user_rental_info", "/home/"),
    Read("200 servers", True, "/api/v1/server/list?page_size=200", "server_list", "/admin/fleet/server/"),
    Read("container list", False, "/api/v1/container/list", "container_list", "/home/"),
]


class Keys(NamedTuple):
    """What a customer's or an operator's requests bring: a token, or the cookie of a session."""

    token: str
    session: str

    def headers(self, *, is_page: bool) -> dict[str, str]:
        if is_page:
            return {"Cookie": f"sessionid={self.session}"}
        return {"Authorization": f"Bearer {self.token}", "Accept-Language": "zh-hans"}


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
        customer, operator = (Keys(*keys) for keys in serving.in_a_process(_fill))
        answers = Path(folder, "answers.json")
        with serving.server(_panel, _is_up) as panel:
            told = {
                read.operation: _ask(
                    panel, read.path, (operator if read.is_staff else customer).headers(is_page=False)
                )
                for read in READS
            }
            for read in READS:
                status, body = told[read.operation]
                if status != 200:
                    sys.exit(f"{read.path}: {status} {body[:500]!r}")
            answers.write_text(json.dumps({name: body.decode() for name, (_status, body) in told.items()}))
            with serving.server(_bare, _is_up, str(answers)) as bare:
                _compare(panel, bare, customer, operator)


def _fill() -> list[tuple[str, str]]:
    """Make the rows; returns token and session of a customer and of an operator."""
    serving.setup()
    from datetime import timedelta

    from django.conf import settings
    from django.core.management import call_command
    from django.utils import timezone

    from accounts import services
    from accounts.access.tokens import create_token, scopes_of
    from accounts.models import User
    from containers.models import Relay
    from serials.rentals.models import Rental
    from tests.factories import GateFactory, RegionFactory, ServerFactory, WholeRentalFactory

    call_command("migrate", verbosity=0)
    call_command("collectstatic", verbosity=0, interactive=False)
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    regions = RegionFactory.create_batch(4)
    servers = [
        ServerFactory(address=f"203.0.{113 + n // 250}.{n % 250 + 1}", region=regions[n % 4], capacity=10**6)
        for n in range(SERVERS)
    ]
    for server in servers:
        GateFactory(server=server)
    now, month = timezone.now(), timedelta(days=30)
    users = User.objects.bulk_create(
        User(email=f"c{n}@example.com", username=f"c{n}", password="!") for n in range(CUSTOMERS)
    )
    rentals = Rental.objects.bulk_create(
        Rental(user=user, ends_at=now + month, runs_until=now + month) for user in users
    )
    Relay.objects.bulk_create(
        Relay(
            rental=rental, server=servers[(n + 67 * slot) % SERVERS], slot=slot, status="running",
            derp_port=20_000 + n, stun_port=20_000 + n, certificate="-", certificate_key="-", certificate_sha256="-",
            certificate_address="203.0.113.1", certificate_ends_at=now + month, private_key="-", public_key="-",
            mesh_key="-", proven_at=now,
        )
        for n, rental in enumerate(rentals)
        for slot in (1, 2, 3)
    )  # fmt: skip
    customer = WholeRentalFactory().user
    operator = services.create_user(email="operator@example.com", role=User.Role.SUPERADMIN)
    services.enrol_second_factor(user=operator, secret="JBSWY3DPEHPK3PXP")
    return [
        (
            create_token(user=user, name="bench", scopes=scopes_of(user), expires_at=None)[1],
            _session(user),
        )
        for user in (customer, operator)
    ]


def _session(user: Any) -> str:
    """The key of a session in which that person has signed in, with a second factor."""
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    session = SessionStore()
    session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
    session[BACKEND_SESSION_KEY] = "allauth.account.auth_backends.AuthenticationBackend"
    session["account_authentication_methods"] = [{"method": "mfa", "type": "totp", "at": time.time()}]
    session["account_authentication_methods_user"] = str(user.pk)
    session.create()
    return str(session.session_key)


def _panel(listener: socket.socket) -> None:
    serving.setup()
    from derpmgmt.web import Web

    serving.serve(Web(listener))


def _bare(listener: socket.socket, answers: str) -> None:
    """The least that ninja can do: no middleware, and for each read an endpoint with the panel's schema and data at hand."""
    serving.setup()
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler
    from django.urls import path
    from ninja import NinjaAPI
    from ninja.renderers import JSONRenderer

    from derpmgmt.api import api as panel
    from derpmgmt.web import Web

    schemas = {
        operation.operation_id: operation.response_models[200].model_fields["response"].annotation
        for router in panel._get_bound_routers()
        for path_view in router.path_operations.values()
        for operation in path_view.operations
    }

    class Compact(JSONRenderer):
        """ninja's own, with the panel's spaces and letters."""

        def render(self, request: Any, data: Any, *, response_status: int) -> str:
            return json.dumps(data, cls=self.encoder_class, separators=(",", ":"), ensure_ascii=False)

    bare = NinjaAPI(urls_namespace="bare", docs_url=None, openapi_url=None)
    bare.renderer = Compact()
    for name, body in json.loads(Path(answers).read_text()).items():
        found = json.loads(body)
        bare.get(f"/{name}", response=schemas[name])(_giving(found))
    bare.get("/")(_giving("ready"))
    settings.MIDDLEWARE, settings.ROOT_URLCONF = [], (path("", bare.urls),)

    class Bare(Web):
        def load(self) -> Any:
            return WSGIHandler()

    serving.serve(Bare(listener))


def _giving(found: Any) -> Any:
    def view(request: Any) -> Any:
        return found

    return view


def _ask(port: int, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
    """Status and body; raises OSError."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as error:
        raise OSError(str(error)) from error
    finally:
        connection.close()


def _is_up(port: int) -> bool:
    return _ask(port, "/", {})[0] in {200, 302}


def _load(port: int, path: str, headers: dict[str, str]) -> tuple[int, int]:
    """One process' share of the clients for one slice: right and wrong answers."""
    counts, lock = [0, 0], threading.Lock()
    until = time.perf_counter() + SLICE_SECONDS

    def client() -> None:
        right = wrong = 0
        while time.perf_counter() < until:
            try:
                is_right = _ask(port, path, headers)[0] == 200
            except OSError:
                is_right = False
            right, wrong = right + is_right, wrong + (not is_right)
        with lock:
            counts[0] += right
            counts[1] += wrong

    threads = [threading.Thread(target=client) for _ in range(CLIENTS // CLIENT_PROCESSES)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return counts[0], counts[1]


def _compare(panel: int, bare: int, customer: Keys, operator: Keys) -> None:
    print(
        f"{SERVERS} servers, {CUSTOMERS:,} customers on MariaDB, {CLIENTS} clients, {SLICES} slices of {SLICE_SECONDS:g} s each"
    )
    print(
        f"{'':16} {'API':>8} {'bare':>8} {'page':>8}  a second;  API ÷ bare (at least {LEAST_OF_BARE}), API ÷ page (at least {LEAST_OF_PAGE:g})"
    )
    missed = []
    with multiprocessing.get_context("spawn").Pool(CLIENT_PROCESSES) as pool:
        for read in READS:
            keys = operator if read.is_staff else customer
            ways = {
                "bare": (bare, f"/{read.operation}", {}),
                "API": (panel, read.path, keys.headers(is_page=False)),
                "page": (panel, read.page, keys.headers(is_page=True)),
            }
            # The same bytes, or it would be another endpoint.
            bare_answer, own_answer = _ask(*ways["bare"]), _ask(*ways["API"])
            if bare_answer != own_answer:
                sys.exit(
                    f"not the same: {bare_answer[0]} {bare_answer[1][:300]!r}, {own_answer[0]} {own_answer[1][:300]!r}"
                )
            if (status := _ask(*ways["page"])[0]) != 200:
                sys.exit(f"{read.page}: {status}")
            rates: dict[str, list[float]] = {way: [] for way in ways}
            wrong = 0
            for turn in range(SLICES + 1):
                for way, request in ways.items():
                    results = pool.starmap(_load, [request] * CLIENT_PROCESSES)
                    if turn:  # all are warm from then on
                        rates[way].append(sum(right for right, _wrong in results) / SLICE_SECONDS)
                        wrong += sum(bad for _right, bad in results)
            rate = {way: statistics.median(series) for way, series in rates.items()}
            of_bare, of_page = rate["API"] / rate["bare"], rate["API"] / max(rate["page"], 0.1)
            print(
                f"{read.name:16} {rate['API']:8.0f} {rate['bare']:8.0f} {rate['page']:8.0f}  {of_bare:.2f}, {of_page:.1f}"
            )
            if wrong:
                missed.append(f"{read.name}: {wrong} wrong answers")
            if of_bare < LEAST_OF_BARE or of_page < LEAST_OF_PAGE:
                missed.append(f"{read.name} is slower than it may be")
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
