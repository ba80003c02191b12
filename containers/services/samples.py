"""What a round of visits measured, gathered while it goes on and written at its end."""

import time
from collections.abc import Collection, Iterable
from datetime import timedelta

from containers.deploy import Found
from containers.sample_models import RELAY_FIGURES, RelaySample, RelaySampleHour
from containers.services.client_latency import prune_client_latency
from containers.spec import KIND_RELAY
from fleet.facts import ContainerFacts, HostFacts
from fleet.readings import UNKNOWN, Rates, Reading, container_rates, rates_between
from fleet.sample_models import LoadSample
from fleet.samples import LOAD, Series, load_sample

RELAYS = Series("relay", RelaySample, RelaySampleHour, "relay", RELAY_FIGURES, timedelta(days=90))
# Of a relay one row a minute is kept: there are many times more of them than of servers.
RELAY_SECONDS = 60

# What this process read last, by server and by relay. Whoever has just begun knows no rates at first.
_servers: dict[int, Reading] = {}
_relays: dict[int, tuple[int, float, ContainerFacts]] = {}


class Round:
    """The samples of one round. Threads may note at the same time, each of another server."""

    def __init__(self) -> None:
        self._loads: list[LoadSample] = []
        self._relays: list[RelaySample] = []

    def note_server(
        self,
        *,
        server_pk: int,
        facts: HostFacts,
        connect_seconds: float | None,
        engine_seconds: float | None,
    ) -> Rates:
        """Take down what a visit has just read of a server; gives what happened there since the one before."""
        reading = Reading.of(facts)
        rates = rates_between(_servers.get(server_pk), reading)
        _servers[server_pk] = reading
        self._loads.append(
            load_sample(
                server_pk=server_pk,
                at=int(time.time()),
                facts=facts,
                rates=rates,
                connect_seconds=connect_seconds,
                engine_seconds=engine_seconds,
            )
        )
        return rates

    def note_relays(self, *, facts: HostFacts, found: Iterable[Found], relay_pks: Collection[int]) -> None:
        """Take down what it read of the relays `relay_pks`, of each once a minute; nothing of one of which nothing may be known."""
        at, uptime = int(time.time()), facts.uptime_seconds
        containers = {one.container_id: one for one in facts.containers}
        for item in found:
            one = containers.get(item.container_id)
            if one is None or item.kind != KIND_RELAY or item.relay_id not in relay_pks:
                continue
            before = _relays.get(item.relay_id)
            if before is not None and before[0] // RELAY_SECONDS == at // RELAY_SECONDS:
                continue
            rates = UNKNOWN
            if uptime is not None:
                if before is not None:
                    rates = container_rates(before[2], one, uptime - before[1])
                _relays[item.relay_id] = (at, uptime, one)
            self._relays.append(
                RelaySample(
                    relay_id=item.relay_id,
                    at=at,
                    cpu=rates.cpu_share,
                    memory=one.memory_bytes,
                    connections=one.connections,
                    up_rate=rates.receive_rate,
                    down_rate=rates.send_rate,
                )
            )

    def write(self) -> None:
        """Write all of it."""
        LOAD.record(self._loads)
        RELAYS.record(self._relays)


def sum_up(now: int) -> None:
    """Sum up the hours that are over."""
    for series in (LOAD, RELAYS):
        series.sum_up(now)


def prune(now: int) -> None:
    """Forget what is too old; what is not summed up yet is, before."""
    sum_up(now)
    for series in (LOAD, RELAYS):
        series.prune(now)
    prune_client_latency(now)
