"""Asking the panel's web application as a gate does."""

import io
import json
from dataclasses import dataclass
from wsgiref.util import setup_testing_defaults

import pytest

from acl.devices.models import Device
from acl.devices.node_keys import NewDevice
from acl.devices.services import devices
from containers.models import Gate, Relay
from containers.services import gates
from derpmgmt.wsgi import application
from serials.rentals.models import Rental
from tests.factories import DevicePolicyFactory, RelayFactory, RentalFactory


@dataclass(frozen=True)
class Response:
    """What the application answered."""

    status_code: int
    headers: dict[str, str]
    content: bytes


def ask(path: str, body: bytes = b"", secret: str | None = None, *, method: str = "POST") -> Response:
    """Send a question with a gate's secret, or none."""
    environ: dict[str, object] = {
        "REQUEST_METHOD": method,
        "PATH_INFO": path,
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": io.BytesIO(body),
        "REMOTE_ADDR": "198.51.100.99",
    }
    if secret is not None:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
    setup_testing_defaults(environ)
    began: list[tuple[str, dict[str, str]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], *_error: object) -> object:
        began.append((status, dict(headers)))
        return None

    content = b"".join(application(environ, start_response))  # type: ignore[arg-type]
    [(status, headers)] = began
    return Response(int(status.split()[0]), headers, content)


KEYS = [f"{number:02x}" * 32 for number in range(1, 100)]
A, B, C = KEYS[:3]
ALLOWED, REFUSED = (200, True), (200, False)


@pytest.fixture
def rental() -> Rental:
    rental = RentalFactory(days=60)
    DevicePolicyFactory(rental=rental)
    return rental


@pytest.fixture
def relay(rental: Rental) -> Relay:
    relay = RelayFactory(rental=rental)
    gates.gate_of(relay.server_id)
    return relay


def post(relay_pk: int, body: bytes, secret: str | None) -> Response:
    return ask(f"/admission/{relay_pk}", body, secret)


def knock(relay: Relay, node_key: str, source: str = "203.0.113.9") -> tuple[int, bool]:
    """Ask as the relay's gate does; the status, and whether the device is let in."""
    question = json.dumps({"NodePublic": f"nodekey:{node_key}", "Source": source}).encode()
    response = post(relay.pk, question, Gate.objects.get(server=relay.server_id).secret)
    return response.status_code, response.content == b'{"Allow":true}'


def approve(rental: Rental, *keys: str) -> list[Device]:
    added = devices.add_devices(rental=rental, devices=[NewDevice(key) for key in keys], by=rental.user)
    return list(added.added)
