"""The door of real relays: the panel's endpoint where gates reach it, the workers behind it, and devices that knock."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.servers.basehttp import ThreadedWSGIServer
from django.db import connections
from django.test import Client
from django.test.testcases import QuietWSGIRequestHandler
from django.urls import reverse

from accounts.models import User
from acl.devices import admission, admission_writer
from containers import jobs
from containers.derp.client import ConnectionClosed, DerpClient, NotAdmitted
from containers.derp.keys import public_key_of
from containers.models import Gate, Relay
from derpmgmt import flow
from derpmgmt.lib.workers import run_workers
from derpmgmt.wsgi import application
from serials.rentals.models import Rental

from .conftest import Fleet, assert_in_order

# Nobody who lost their rights is connected for longer, in seconds; nor is a list of devices longer on its way.
CUT_SECONDS = 2.0
# So long a device waits to be let in.
ENTER_SECONDS = 5.0


class Panel:
    """The panel's own application on the address that gates know: its port can close, it can hang, and it can fail."""

    def __init__(self, address: str) -> None:
        self._address, self._port = address, 0
        self._server: ThreadedWSGIServer | None = None
        self._goes_on = threading.Event()
        self._goes_on.set()
        self._fails = False

    @property
    def url(self) -> str:
        return f"http://{self._address}:{self._port}"

    def start(self) -> None:
        self._server = ThreadedWSGIServer((self._address, self._port), QuietWSGIRequestHandler)
        self._server.set_app(self._answer)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """From now on its port refuses."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    @contextmanager
    def away(self, how: str) -> Iterator[None]:
        """Inside, it is "stopped", "hung", or "failing": all it says then is 500."""
        if how == "stopped":
            self.stop()
        elif how == "hung":
            self._goes_on.clear()
        else:
            self._fails = True
        yield
        self._goes_on.set()
        self._fails = False
        if how == "stopped":
            self.start()

    def _answer(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        self._goes_on.wait(30)
        if self._fails:
            start_response("500 Internal Server Error", [])
            return [b""]
        return application(environ, start_response)


@dataclass(frozen=True)
class Phone:
    """A device, which is its key and nothing else: each `number` is another one."""

    number: int

    @property
    def private_key(self) -> str:
        return f"{8 * self.number:02x}" + "5a" * 30 + "5b"

    @property
    def node_key(self) -> str:
        return public_key_of(self.private_key)

    def connect(self, relay: Relay) -> DerpClient:
        """A connection; raises `NotAdmitted`."""
        return DerpClient.connect(
            relay.server.address,
            relay.derp_port,
            cert_sha256=relay.certificate_sha256,
            private_key=self.private_key,
            timeout=ENTER_SECONDS,
        )

    def gets_in(self, relay: Relay) -> bool:
        """Whether it is let in while it waits; it does not stay."""
        try:
            self.connect(relay).close()
        except (NotAdmitted, TimeoutError):
            return False
        return True


def let_in(phones: Iterable[Phone], relays: Iterable[Relay]) -> dict[int, list[bool]]:
    """Who is let in, by number and in the order of the relays; all knock at the same moment."""
    phones, relays = list(phones), list(relays)
    pairs = [(phone, relay) for phone in phones for relay in relays]
    with ThreadPoolExecutor(len(pairs)) as threads:
        answers = list(threads.map(lambda pair: pair[0].gets_in(pair[1]), pairs))
    return {
        phone.number: answers[at * len(relays) : (at + 1) * len(relays)] for at, phone in enumerate(phones)
    }


def assert_cut(since: float, *clients: DerpClient) -> None:
    """All these connections end at most `CUT_SECONDS` after the moment `since` (time.monotonic)."""
    for client in clients:
        with suppress(ConnectionClosed):
            while True:
                client.ping(timeout=CUT_SECONDS)
                assert time.monotonic() - since < CUT_SECONDS, "the connection is not cut"
                time.sleep(0.02)
        assert time.monotonic() - since < CUT_SECONDS, "the connection was cut too late"


def assert_stays(*clients: DerpClient) -> None:
    """Packets go through all these connections."""
    assert all(client.ping(timeout=CUT_SECONDS) > 0 for client in clients)


def wait_for(holds: Callable[[], object], seconds: float = CUT_SECONDS) -> None:
    """Return when `holds()` does; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def visit_all() -> None:
    for shard in range(settings.SHARDS):
        jobs.visit_servers(shard)


def press(browser: Client, name: str, pk: int | None = None, **values: Any) -> str:
    """Press a button of the page Devices; the page where it leads."""
    response = browser.post(reverse(f"acl:{name}", args=[pk] if pk else []), values, follow=True)
    assert response.status_code == 200
    return str(response.content.decode())


@pytest.fixture
def panel(hosts: list[Any], settings: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Panel]:
    """The panel as the servers reach it."""
    monkeypatch.setattr(admission, "_counts", admission._Counts())
    monkeypatch.setattr(admission, "_known", admission._Known())
    made = Panel(hosts[0].panel_address)
    made.start()
    settings.RELAY_URL = made.url
    yield made
    made.stop()
    admission_writer._waiting.clear()
    admission_writer._seen.clear()


@pytest.fixture
def browser(customer: User) -> Client:
    """The customer's."""
    client = Client()
    client.force_login(customer)
    return client


@pytest.fixture
def new_relays(panel: Panel, fleet: Fleet, work: Callable[..., None], rental: Rental) -> list[Relay]:
    """The customer's three relays as their first serial number left them: what knocks in these hours is approved by itself."""
    work()
    return assert_in_order(fleet, rental)


@pytest.fixture
def relays(new_relays: list[Relay], browser: Client) -> list[Relay]:
    """The same when the customer decides about each device themselves."""
    press(browser, "window-close")
    return new_relays


@pytest.fixture
def workers(relays: list[Relay]) -> Iterator[None]:
    """The real process that cuts connections and brings lists, with its clock."""
    queues = ["admission", *sorted({jobs.gate_queue(gate.server_id) for gate in Gate.objects.all()})]
    connections.close_all()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=_serve, args=(queues,))
    process.start()
    yield
    process.kill()
    process.join()


def _serve(queues: list[str]) -> None:
    # What the tests' process listens on and is connected to would stay open here when it is closed there.
    nothing = os.open(os.devnull, os.O_RDWR)
    for path in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            if path.is_socket():
                os.dup2(nothing, int(path.name))
    run_workers(queues, flow.CRON)
