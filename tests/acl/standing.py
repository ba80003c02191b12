"""Relays that stand, and devices at them."""

import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import django_rq
import pytest

from acl.devices import cutting, presence
from acl.devices.models import Device
from containers.derp.client import DerpClient
from containers.models import Relay as RelayRow
from serials.rentals.models import Rental
from tests.derp.conftest import certificate as certificate
from tests.derp.conftest import loop_thread as loop_thread
from tests.derp.conftest import start_sandbox_relay as start_sandbox_relay
from tests.derp.conftest import start_scripted as start_scripted
from tests.derp.parts import PATIENCE, Relay
from tests.derp.test_derp_presence import is_cut
from tests.factories import DeviceFactory, RelayFactory, RentalFactory, ServerFactory

NOWHERE = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": "redis://127.0.0.1:1/0",
    }
}


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The second look comes sooner, and no look outlives its test."""
    monkeypatch.setattr(cutting, "LOOK_AGAIN_SECONDS", 0.1)
    yield
    drain()


def drain() -> None:
    """Wait for what runs in threads."""
    threads = presence._threads_of(os.getpid())
    deadline = time.monotonic() + PATIENCE
    while threads._work_queue.qsize() or threads._idle_semaphore._value < len(threads._threads):  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def rental() -> Rental:
    return RentalFactory(days=60)


@pytest.fixture
def stand(start_sandbox_relay: Callable[..., Relay]) -> Callable[[Rental], tuple[RelayRow, Relay]]:
    """Put a running relay of a rental onto a server of its own on loopback."""

    def stand(rental: Rental) -> tuple[RelayRow, Relay]:
        runs = start_sandbox_relay()
        row = add_row(rental, runs.derp_port, runs.cert_sha256, runs.public_key, runs.mesh_key)
        return row, runs

    return stand


def add_row(rental: Rental, port: int, cert_sha256: str, public_key: str, mesh_key: str) -> RelayRow:
    # Servers behind one address are told apart by the port.
    server = ServerFactory(address="127.0.0.1", ssh_port=port)
    slots = set(RelayRow.objects.filter(rental=rental).values_list("slot", flat=True))
    return RelayFactory(
        rental=rental,
        slot=next(slot for slot in (1, 2, 3) if slot not in slots),
        server=server,
        derp_port=port,
        certificate_sha256=cert_sha256,
        public_key=public_key,
        mesh_key=mesh_key,
    )


def add_device(rental: Rental, client: DerpClient, **fields: Any) -> Device:
    return DeviceFactory(rental=rental, node_key=client.public_key, approved=True, **fields)


def rung(queue: str = "admission") -> list[tuple[str, Any]]:
    return [(job.func_name.rpartition(".")[2], job.args[0]) for job in django_rq.get_queue(queue).jobs]


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> threading.Semaphore:
    """Counts the looks at relays that have ended; the second one leaves time for what happens between the two."""
    ended = threading.Semaphore(0)
    ask_each = presence.ask_each

    def ask_and_tell(*args: Any) -> Any:
        try:
            return ask_each(*args)
        finally:
            ended.release()

    monkeypatch.setattr(presence, "ask_each", ask_and_tell)
    monkeypatch.setattr(cutting, "LOOK_AGAIN_SECONDS", 2.0)
    return ended


def is_cut_soon(client: DerpClient) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if is_cut(client):
            return True
        time.sleep(0.02)
    return False
