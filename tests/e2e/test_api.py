"""An operator's script and a customer's, by the JSON API alone: a server is added, a serial number made, redeemed, and three relays proven."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from accounts.models import User
from containers.models import Relay
from fleet.models import Server
from fleet.ssh import HostKey
from serials.rentals.models import Rental
from tests.api import Api
from tests.factories import UserFactory

from .conftest import Fleet, assert_in_order

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def meanwhile(work: Callable[..., None]) -> Callable[[Callable[[], Any]], Any]:
    """Ask something that waits, while the workers work."""

    def ask(question: Callable[[], Any]) -> Any:
        def asked() -> Any:
            try:
                return question()
            finally:
                connection.close()

        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(asked)
            while not answer.done():
                work(sweep=True)
                time.sleep(0.1)
            return answer.result()

    return ask


def test_from_a_new_server_to_three_proven_relays_by_the_api_alone(
    fleet: Fleet, customer: User, meanwhile: Callable[[Callable[[], Any]], Any]
) -> None:
    host, row = fleet.hosts[0], fleet.servers[0]
    Server.objects.filter(pk=row.pk).delete()
    # Three relays need the server that is added.
    Server.objects.filter(pk__in=[server.pk for server in fleet.servers[3:]]).update(status="maintenance")
    admin, one = Api(UserFactory(role=User.Role.SUPERADMIN)), Api(customer)

    added = admin.post(
        "server/add",
        {
            "ip": host.address, "ssh_port": host.ssh_port, "ssh_user": host.user, "region": row.region.code,
            "private_key": Path(host.private_key_path).read_text(), "docker_socket": host.docker_socket,
        },
        Idempotency_Key="add",
    )  # fmt: skip
    assert added.status_code == 200, added.content
    server_id, fingerprint = added.json()["server_id"], added.json()["fingerprint"]
    fleet.servers[0] = Server.objects.get(pk=server_id)
    assert fingerprint == HostKey.from_line(host.host_key).fingerprint

    confirm = added.json()["confirm"].removeprefix("/api/v1/")
    checked = meanwhile(lambda: admin.post(f"{confirm}?wait=30", {"fingerprint": fingerprint}))
    assert (checked.status_code, checked.json()["status"]) == (200, "done"), checked.content
    assert all(finding["is_ok"] for finding in checked.json()["findings"])
    status = admin.get(f"server/status/{server_id}").json()["server_status"]
    assert (status["status"], status["check"]["status"], status["relays"]) == ("healthy", "done", 0)

    made = admin.post("serial/generate", {"count": 1, "duration_days": 30, "is_paid": True})
    (code,) = made.json()["serial_numbers"]
    ready = meanwhile(lambda: one.post("serial/activate?wait=30", {"serial_code": code.lower()}))
    assert (ready.status_code, ready.json()["relays_proven"]) == (200, 3), ready.content
    relays = assert_in_order(fleet, Rental.objects.get(user=customer))
    assert server_id in {relay.server_id for relay in relays}
    assert all(relay.proven_at for relay in Relay.objects.wanted())

    info = one.get("user/rental_info").json()["rental"]
    assert info["is_running"]
    # The waiting time was given back meanwhile.
    assert info["ends_at"] == ready.json()["new_expiry_time"]
    listed = admin.get("server/list").json()["servers"]
    assert sum(server["relays"] for server in listed) == 3
    titles = {entry["kind"] for entry in one.get(f"user/history/{customer.pk}").json()["entries"]}
    assert {"redemption", "relay", "map"} <= titles
