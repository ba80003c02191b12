"""The books of traffic: readings of counters become sums by relay and hour, day and month, and by server and month.

One visit is one transaction. It begins with the counters: each is moved by an UPDATE that asks for what it was when it was read, so that of
two visits that count the same bytes one finds another value, and counts again from that. What dies in the middle has written nothing.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.db import IntegrityError, OperationalError, transaction
from django.db.models import F, Sum
from django.utils import timezone

from containers.deploy import Found
from containers.metering import Delta, Known, Reading, measure_all, month_begin, read_container
from containers.models import Relay
from containers.spec import KIND_RELAY
from containers.traffic_models import (
    TrafficCounter,
    TrafficDay,
    TrafficError,
    TrafficHour,
    TrafficMonth,
    TrafficServerMonth,
)
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.sums import add_to_sums, move_rows, set_row
from fleet.facts import ContainerFacts, HostFacts
from serials.rentals.models import Rental

# Hours are kept for so long.
KEEP_HOURS = timedelta(days=90)
# An epoch is remembered for so long when another one of its relay begins, in case a visit that read it comes that late.
KEEP_EPOCHS = timedelta(days=2)
# Wrong readings that come within this time are one matter.
ERROR_ENDS_AFTER = timedelta(days=1)
# Two visits of a server that meet: the second counts again so many times.
_TRIES = 8
_PAUSE_SECONDS = 0.05


class _Moved(Exception):
    """Another visit has moved a counter meanwhile."""


@dataclass
class _Flow:
    """What a visit adds for one relay: bytes, and over how many seconds."""

    up: int = 0
    down: int = 0
    seconds: float = 0.0

    def add(self, delta: Delta) -> None:
        self.up += delta.received
        self.down += delta.sent
        self.seconds = max(self.seconds, delta.seconds)

    @property
    def rates(self) -> dict[str, float]:
        """Bytes a second, up and down; two readings within a second tell none that means anything."""
        seconds = max(self.seconds, 1.0)
        return {"up_rate": self.up / seconds, "down_rate": self.down / seconds}


@dataclass
class _Visit:
    """One server's readings, with what is known of their relays."""

    server_pk: int
    at: datetime
    readings: dict[int, list[Reading]] = field(default_factory=lambda: defaultdict(list))


def _named(values: Iterable[int | str]) -> dict[str, int | str]:
    """A list as the values of a prepared query."""
    return {f"{'pk' if isinstance(value, int) else 'epoch'}_{at}": value for at, value in enumerate(values)}


def _pks(values: Mapping[str, Any]) -> list[Any]:
    return [value for name, value in values.items() if name.startswith("pk_")]


# By how many of them there are.
_RELAYS = Prepared(
    lambda _relays, server, **values: Relay.objects.filter(
        server=server, pk__in=_pks(values), rental__isnull=False
    ).values("id", "rental_id", "rental__created_at", "metered_since", "server__traffic_reset_day")
)
_COUNTERS = Prepared(
    lambda _relays, _epochs, **values: TrafficCounter.objects.filter(
        relay__in=_pks(values),
        epoch__in=[value for name, value in values.items() if name.startswith("epoch_")],
    ).order_by("pk")
)


def month_of(rental: Rental, on: date | datetime) -> date:
    """The day on which the month of a customer's began that holds a day, or a moment.

    Months begin on the day of the month on which their time began for the first time, with which their rental was made; in shorter months
    on the last day.
    """
    return month_begin(timezone.localdate(rental.created_at).day, _day(on))


def _day(on: date | datetime) -> date:
    return timezone.localdate(on) if isinstance(on, datetime) else on


def record_counters(
    *,
    server_pk: int,
    containers: Iterable[ContainerFacts],
    uptime: float | None,
    owners: Mapping[str, int],
    at: datetime,
) -> None:
    """Count what flowed on a server since it was read last; `owners` are its relays (primary keys) by their containers' ids.

    `uptime` is the host's when it was read, in seconds, `at` the moment by our clock: the bytes go to that hour, day and month. Only relays of customers are counted. Run twice with the same, or
    after what was read later, it changes nothing.
    """
    # Where the host does not tell for how long it runs, our clock has to do.
    moment = at.timestamp() if uptime is None else uptime
    visit = _Visit(server_pk, at)
    for container in containers:
        if container.container_id in owners:
            visit.readings[owners[container.container_id]] += read_container(container, moment)
    if not any(visit.readings.values()):
        return
    for left in reversed(range(_TRIES)):
        try:
            with transaction.atomic():
                _record(visit)
            return
        except (_Moved, IntegrityError):
            if not left:
                raise
        except OperationalError as error:
            # MariaDB found two that wait for one another, and this one has to give way.
            if not left or error.args[:1] != (1213,):
                raise
        time.sleep(_PAUSE_SECONDS)


def record_visit(*, server_pk: int, read: HostFacts, found: Iterable[Found]) -> None:
    """Count what a visit has just read of a server and of what stands there; as `record_counters`."""
    owners = {item.container_id: item.relay_id for item in found if item.kind == KIND_RELAY}
    record_counters(
        server_pk=server_pk,
        containers=read.containers,
        uptime=read.uptime_seconds,
        owners=owners,
        at=timezone.now(),
    )


def _record(visit: _Visit) -> None:
    pks = _named(sorted(visit.readings))
    found = _RELAYS.read(len(pks), server=visit.server_pk, **pks)
    relays = {relay["id"]: relay for relay in found}
    deltas = _measure({pk: visit.readings[pk] for pk in relays})
    _move_counters(deltas, visit.at)
    flows: dict[int, _Flow] = defaultdict(_Flow)
    for pk, delta, _counter in deltas:
        if delta.after and relays[pk]["metered_since"] is None:
            flows[pk]  # What flowed before traffic was counted is nobody's.
        elif delta.after:
            flows[pk].add(delta)
    first = [pk for pk in flows if relays[pk]["metered_since"] is None]
    if first:
        Relay.objects.filter(pk__in=first).update(metered_since=visit.at, changed_at=F("changed_at"))
    _add(visit, flows, relays)
    _record_doubts(visit.at, [(pk, delta) for pk, delta, _counter in deltas if delta.doubt])


def _measure(readings: Mapping[int, list[Reading]]) -> list[tuple[int, Delta, TrafficCounter | None]]:
    """What each reading adds, with its relay and the counter's row."""
    epochs = sorted({reading.epoch for of_one in readings.values() for reading in of_one})
    known: dict[int, dict[str, TrafficCounter]] = defaultdict(dict)
    if epochs:
        for row in _COUNTERS.read(len(readings), len(epochs), **_named(sorted(readings)), **_named(epochs)):
            known[row.relay_id][row.epoch] = row
    return [
        (pk, delta, known[pk].get(delta.reading.epoch))
        for pk, of_one in readings.items()
        for delta in measure_all(
            {
                epoch: Known(row.received_bytes, row.sent_bytes, row.uptime)
                for epoch, row in known[pk].items()
            },
            of_one,
        )
    ]


def _move_counters(deltas: Iterable[tuple[int, Delta, TrafficCounter | None]], at: datetime) -> None:
    """Write the readings that count; raises `_Moved`, or `IntegrityError`, where another visit was here since they were compared."""
    old: dict[int, tuple[TrafficCounter, Known]] = {}
    new: dict[tuple[int, str], TrafficCounter] = {}
    for pk, delta, row in deltas:
        if delta.after is None:
            continue
        if row is not None:
            old[row.pk] = (row, delta.after)
        else:
            after = delta.after
            new[pk, delta.reading.epoch] = TrafficCounter(
                relay_id=pk, epoch=delta.reading.epoch, received_bytes=after.received, sent_bytes=after.sent,
                uptime=after.uptime, read_at=at,
            )  # fmt: skip
    if old:
        moved = move_rows(
            TrafficCounter,
            [
                (
                    pk,
                    (row.received_bytes, row.sent_bytes),
                    (after.received, after.sent, after.uptime, at),
                )
                for pk, (row, after) in old.items()
            ],
            expected=("received_bytes", "sent_bytes"),
            moved=("received_bytes", "sent_bytes", "uptime", "read_at"),
        )
        if moved != len(old):
            raise _Moved
    if not new:
        return
    TrafficCounter.objects.bulk_create([new[key] for key in sorted(new)])
    # Not by the clock alone: the epoch of a container on a server that does not answer may go on, and would be counted anew.
    TrafficCounter.objects.filter(relay__in={pk for pk, _epoch in new}, read_at__lt=at - KEEP_EPOCHS).delete()


def _add(visit: _Visit, flows: Mapping[int, _Flow], relays: Mapping[int, Mapping[str, Any]]) -> None:
    if not flows:
        return
    day = timezone.localdate(visit.at)
    hour = int(visit.at.timestamp()) // 3600
    sums: list[dict[str, Any]] = [
        {"relay": pk, "up_bytes": flow.up, "down_bytes": flow.down, "hour": hour, "day": day,
         "rental": relays[pk]["rental_id"],
         "begins_on": month_begin(timezone.localdate(relays[pk]["rental__created_at"]).day, day),
         "read_at": visit.at, **flow.rates}
        for pk, flow in sorted(flows.items())
    ]  # fmt: skip
    flowed = [row for row in sums if row["up_bytes"] or row["down_bytes"]]
    both, rates = ("up_bytes", "down_bytes"), ("up_rate", "down_rate", "read_at")
    add_to_sums(TrafficHour, flowed, key=("relay", "hour"), added=both)
    add_to_sums(TrafficDay, flowed, key=("relay", "day"), added=both)
    add_to_sums(TrafficMonth, sums, key=("relay", "begins_on"), added=both, replaced=("rental", *rates))
    _add_to_server(visit, sums, next(iter(relays.values()))["server__traffic_reset_day"], day)


def _add_to_server(visit: _Visit, sums: Iterable[Mapping[str, Any]], reset_day: int, day: date) -> None:
    """After the days: the first reading of a server's month counts those, for a month that begins on another day than it did before."""
    begins_on = month_begin(reset_day, day)
    total = {
        name: sum(row[name] for row in sums) for name in ("up_bytes", "down_bytes", "up_rate", "down_rate")
    }
    rates = {"up_rate": total["up_rate"], "down_rate": total["down_rate"], "read_at": visit.at}
    moved = set_row(
        TrafficServerMonth,
        {"server": visit.server_pk, "begins_on": begins_on},
        rates,
        added={"up_bytes": total["up_bytes"], "down_bytes": total["down_bytes"]},
    )
    if moved:
        return
    so_far = TrafficDay.objects.filter(
        relay__server=visit.server_pk, day__gte=begins_on, day__lte=day
    ).aggregate(up=Sum("up_bytes", default=0), down=Sum("down_bytes", default=0))
    TrafficServerMonth.objects.create(
        server_id=visit.server_pk,
        begins_on=begins_on,
        up_bytes=so_far["up"],
        down_bytes=so_far["down"],
        **rates,
    )


def _record_doubts(at: datetime, doubts: Iterable[tuple[int, Delta]]) -> None:
    for pk, delta in doubts:
        # One that comes again after a quiet day is another.
        TrafficError.objects.filter(relay=pk, last_at__lt=at - ERROR_ENDS_AFTER).delete()
        said = {
            "doubt": delta.doubt,
            "last_at": at,
            "received_bytes": str(delta.reading.received)[:24],
            "sent_bytes": str(delta.reading.sent)[:24],
        }
        if not TrafficError.objects.filter(relay=pk).update(number=F("number") + 1, **said):
            TrafficError.objects.create(relay_id=pk, number=1, since=at, **said)


def prune_traffic(now: datetime) -> int:
    """Forget hours older than `KEEP_HOURS`, which days and months have too; how many."""
    oldest = int((now - KEEP_HOURS).timestamp()) // 3600
    return TrafficHour.objects.filter(hour__lt=oldest).delete()[0]
