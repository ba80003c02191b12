"""Maps that change under real Tailscale clients: a planned move, the end of a rental, and its return.

The clients (`tailscaled`, userspace networking, made to go by relays only) and Tailscale's own control server for tests run in a
network namespace of their own, beside real relays. What they are told are the versions that the panel makes of the rows.
"""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.test import Client as Browser
from django.utils import timezone

from acl.maps import services
from acl.maps.models import MapRegion
from acl.maps.services.regions import LETS_GO_AFTER
from containers.certificates import make_certificate
from containers.derp.keys import generate_private_key
from containers.models import Relay
from containers.sample_models import ClientLatency
from derpmgmt.templatetags.panel import milliseconds
from fleet.models import Server
from serials.rentals.models import Rental
from tests.factories import MapRegionFactory, RelayFactory, RentalFactory, ServerFactory
from tests.lab.clients import Client, start
from tests.panel.running import wait_for

pytestmark = [pytest.mark.lab, pytest.mark.django_db]

NAMESPACE, ADDRESS = f"clients-{os.getpid()}", "10.99.0.1"
MORE_ADDRESSES = "10.99.0.2", "10.99.0.3"
PINGS = 40


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """What to put before a command so that it runs in a network namespace that has one address, and a way out in name only."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        prefix = ["ip", "netns", "exec", NAMESPACE]
        for command in (
            "link set lo up",
            "link add out type veth peer name away",
            f"addr add {ADDRESS}/24 dev out",
            "link set out up",
            "link set away up",
            "route add default via 10.99.0.254",
        ):
            subprocess.run([*prefix, "ip", *command.split()], check=True)
        yield prefix
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


class Relays:
    """Real relays that rows lead to."""

    def __init__(self, inside: list[str], folder: Path, stack: ExitStack) -> None:
        self._inside, self._folder, self._stack = inside, folder, stack
        self._running: dict[int, subprocess.Popen[bytes]] = {}
        self._servers: dict[str, Server] = {}

    def make(self, rental: Rental, port: int, address: str = ADDRESS, **fields: Any) -> Relay:
        """A relay that runs, in place 1 where nothing else is said."""
        if address not in self._servers:
            self._servers[address] = ServerFactory(address=address)
        certificate = make_certificate(address, timezone.now())
        relay = RelayFactory(
            rental=rental, server=self._servers[address], derp_port=port, stun_port=port,
            certificate=certificate.pem, certificate_key=certificate.key_pem,
            certificate_sha256=certificate.sha256, private_key=generate_private_key(), **fields,
        )  # fmt: skip
        self.start(relay)
        return relay

    def start(self, relay: Relay) -> None:
        folder, address = self._folder / str(relay.pk), relay.server.address
        folder.mkdir(exist_ok=True)
        (folder / f"{address}.crt").write_text(relay.certificate)
        (folder / f"{address}.key").write_text(relay.certificate_key)
        (folder / "key.json").write_text(json.dumps({"PrivateKey": f"privkey:{relay.private_key}"}))
        port = str(relay.derp_port)
        command = [
            *self._inside, os.environ["DERPMGMT_TEST_DERPER"], "-a", f"{address}:{port}", "-http-port", "-1",
            "-stun-port", port, "-hostname", address, "-certmode", "manual", "-certdir", str(folder),
            "-c", str(folder / "key.json"),
        ]  # fmt: skip
        self._running[relay.pk] = start(self._stack, command, folder / "log")

    def stop(self, relay: Relay) -> None:
        """Its ports close."""
        process = self._running.pop(relay.pk)
        process.terminate()
        process.wait()


class Control:
    """The control server: tells all clients of a map."""

    def __init__(self, inside: list[str], derp_map: dict[str, Any], folder: Path, stack: ExitStack) -> None:
        log = stack.enter_context((folder / "control.log").open("wb"))
        program = Path(os.environ["DERPMGMT_TEST_TAILSCALE"]) / "control"
        self._process = subprocess.Popen(
            [*inside, str(program)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)
        self._say(derp_map)
        self.address = self._hear()

    def _say(self, derp_map: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(derp_map) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()

    def tell(self, derp_map: dict[str, Any]) -> None:
        self._say(derp_map)
        assert self._hear() == "ok"


def made(rental: Rental) -> dict[str, Any]:
    """The version that the rows call for now."""
    services.refresh_map(rental=rental, reason=services.RELAYS_CHANGED)
    config = services.active_config(rental)
    assert config
    derp_map: dict[str, Any] = config.derp_map
    return derp_map


def test_clients_stay_in_touch_through_a_move_an_end_and_a_return(inside: list[str], tmp_path: Path) -> None:
    with ExitStack() as stack:
        relays = Relays(inside, tmp_path, stack)
        rental, strangers = RentalFactory(), RentalFactory()
        old = relays.make(rental, 20001)
        ours = made(rental)
        control = Control(inside, ours, tmp_path, stack)
        clients = [
            Client(inside, name, control.address, tmp_path, stack) for name in ("b1", "b2", "s1", "s2")
        ]
        (busy, other_busy), (silent, other_silent) = clients[:2], clients[2:]
        (code,) = (region["RegionCode"] for region in ours["Regions"].values())
        for client in clients:
            wait_for(lambda client=client: client.home == code, f"{client.name} has its home")
        to_busy, to_silent = other_busy.address, other_silent.address
        wait_for(lambda: busy.answers(to_busy) and silent.answers(to_silent), "all answer")
        # Others' relays are there too, as Tailscale's own are: clients keep the home they have.
        MapRegion.objects.filter(rental=strangers).delete()
        relays.make(strangers, 20009)
        MapRegionFactory(rental=strangers, slot=1, region_id=999)
        theirs = made(strangers)["Regions"]
        control.tell({"Regions": ours["Regions"] | theirs})

        # A planned move.
        pings = stack.enter_context(ThreadPoolExecutor(1)).submit(busy.ping, to_busy, PINGS)
        time.sleep(8)
        Relay.objects.filter(pk=old.pk).update(slot=None, retiring_since=timezone.now())
        successor = relays.make(rental, 20002, replaces=old)
        moved = made(rental)
        assert moved["Regions"].keys() == ours["Regions"].keys()
        assert moved != ours
        control.tell({"Regions": moved["Regions"] | theirs})
        lost = PINGS - pings.result()
        print(f"planned move: {lost} of {PINGS} pings lost")
        # Another region beside it, and the old one removed, costs half of them.
        assert lost <= 5
        assert silent.ping(to_silent, 5) >= 4
        relays.stop(old)
        assert busy.ping(to_busy, 5) >= 4
        assert [client.home for client in clients] == [code] * 4

        # The end: ports, and the regions so much later.
        relays.stop(successor)
        time.sleep(LETS_GO_AFTER / timedelta(seconds=1))
        control.tell({"Regions": theirs})
        # The return.
        time.sleep(5)
        relays.start(successor)
        control.tell({"Regions": moved["Regions"] | theirs})
        wait_for(lambda: silent.answers(to_silent), "the silent clients answer after the return")
        wait_for(lambda: busy.answers(to_busy), "the busy clients answer after the return")
        wait_for(lambda: other_silent.answers(busy.address), "all reach all")


def test_what_a_real_client_measures_is_kept_of_each_relay_and_stands_on_its_card(
    inside: list[str], tmp_path: Path, client: Browser
) -> None:
    def paste(text: str) -> str:
        print(text)
        return client.post("/map/netcheck/", {"text": text}, follow=True).text

    def kept() -> list[float | None]:
        found = {relay.pk: relay.client_ms for relay in Relay.objects.all()}
        return [found[relay.pk] for relay in (one, other, away)]

    with ExitStack() as stack:
        relays, rental = Relays(inside, tmp_path, stack), RentalFactory()
        client.force_login(rental.user)
        for address in MORE_ADDRESSES:
            subprocess.run([*inside, "ip", "addr", "add", f"{address}/24", "dev", "out"], check=True)
        one, other, away = (
            relays.make(rental, 20000 + slot, address, slot=slot, whole=True)
            for slot, address in enumerate((ADDRESS, *MORE_ADDRESSES), 1)
        )
        control = Control(inside, made(rental), tmp_path, stack)
        device = Client(inside, "device", control.address, tmp_path, stack)
        wait_for(lambda: device.home, "the device has its home")
        relays.stop(away)

        page = paste(device.command("netcheck", "--format=json"))
        first = kept()
        assert first[0]
        assert first[1]
        assert first[2] is None
        assert all(milliseconds(each) in page for each in first[:2])
        # Where UDP does not pass, it asks relays by HTTPS with their pinned certificates, and else machines by ping.
        subprocess.run([*inside, "iptables", "-A", "INPUT", "-p", "udp", "-j", "DROP"], check=True)
        page = paste(device.command("netcheck", "--format=json-line"))
        second = kept()
        assert all(second)
        assert first[:2] != second[:2]
        assert ClientLatency.objects.count() == 5
