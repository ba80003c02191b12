"""Relays with counters, as their host has them: what flows, starts anew, is read and told late."""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import count
from typing import NamedTuple

from containers.models import Relay
from containers.services import traffic
from fleet.facts import ContainerFacts, InterfaceFacts

_IDS = count(1)


class Look(NamedTuple):
    """What one visit read, as it travels."""

    containers: tuple[ContainerFacts, ...]
    uptime: float
    owners: dict[str, int]


@dataclass
class Box:
    """A relay's container: `start` in ticks since the boot, counters since then, and what of these no visit has told yet."""

    relay: Relay
    start: int
    container_id: str = field(default_factory=lambda: f"{next(_IDS):064x}")
    index: int = 2
    received: int = 0
    sent: int = 0


class World:
    """A server with relays in containers; `flowed` is what was ever sent, `at_risk` what can have been lost by unplanned ends."""

    def __init__(self, relays: list[Relay], at: datetime) -> None:
        self.server_pk = relays[0].server_id
        self.uptime, self.boot, self.at = 1000.0, 1, at
        self.boxes = [Box(relay, self.ticks) for relay in relays]
        self.flowed = self.at_risk = 0

    @property
    def ticks(self) -> int:
        return round(self.uptime * 100)

    def pass_time(self, seconds: float) -> None:
        self.uptime += seconds

    def flow(self, number: int, up: int, down: int) -> None:
        box = self.boxes[number % len(self.boxes)]
        box.received += up
        box.sent += down
        self.flowed += up + down

    def look(self) -> Look:
        containers = tuple(
            ContainerFacts(
                box.container_id,
                f"boot-{self.boot} {box.start}",
                (InterfaceFacts("eth0", box.index, box.received, box.sent),),
            )
            for box in self.boxes
        )
        return Look(containers, self.uptime, {box.container_id: box.relay.pk for box in self.boxes})

    def record(self, look: Look) -> None:
        traffic.record_counters(
            server_pk=self.server_pk,
            containers=look.containers,
            uptime=look.uptime,
            owners=look.owners,
            at=self.at,
        )

    def visit(self) -> None:
        self.record(self.look())

    def begin_anew(self, number: int, *, is_other: bool = False) -> None:
        """The container starts anew; `is_other`: another one stands in its place."""
        box = self.boxes[number % len(self.boxes)]
        box.start, box.received, box.sent = self.ticks, 0, 0
        if is_other:
            box.container_id = f"{next(_IDS):064x}"

    def reconnect(self, number: int) -> None:
        """Its network is taken away and given back."""
        box = self.boxes[number % len(self.boxes)]
        box.index, box.received, box.sent = box.index + 1, 0, 0

    def reboot(self) -> None:
        self.boot, self.uptime = self.boot + 1, 5.0
        for number in range(len(self.boxes)):
            self.begin_anew(number)
