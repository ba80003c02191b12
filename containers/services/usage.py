"""Who used which traffic: what pages, commands and programs read of the books (`containers.services.traffic`)."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Sum
from django.utils import timezone

from containers.allowances import FINE, NOTHING_SAID, AtEnd, State, Use, Verdict, inherit, judge, widen
from containers.metering import month_begin, next_month
from containers.models import Relay, TrafficMonth, TrafficServerMonth
from containers.services.allowances import allowance_of, caps_of, read_cases
from containers.services.traffic import month_of
from derpmgmt.lib.prepared import Prepared
from fleet.models import Server
from serials.rentals.models import Rental, RentalSpan

# A rate that was read longer ago is none of now: four visits.
LIVE_FOR = timedelta(seconds=60)
# No month is longer.
LONGEST_MONTH = timedelta(days=31)


@dataclass(frozen=True)
class Flow:
    """What flowed in a month, in bytes, and how fast now, in bytes a second: None where nobody knows."""

    up_bytes: int = 0
    down_bytes: int = 0
    up_rate: float | None = None
    down_rate: float | None = None

    @property
    def bytes(self) -> int:
        """Both ways together, as allowances count."""
        return self.up_bytes + self.down_bytes


def flow_of(row: Mapping[str, Any], now: datetime) -> Flow:
    """A month's row of a relay or server, as values."""
    is_live = abs(now - row["read_at"]) <= LIVE_FOR
    return Flow(
        row["up_bytes"],
        row["down_bytes"],
        row["up_rate"] if is_live else None,
        row["down_rate"] if is_live else None,
    )


def _together(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def sum_flows(flows: Iterable[Flow]) -> Flow:
    """Several together; a rate is that of those of which one is known."""
    found = list(flows)
    return Flow(
        sum(flow.up_bytes for flow in found),
        sum(flow.down_bytes for flow in found),
        _together(flow.up_rate for flow in found),
        _together(flow.down_rate for flow in found),
    )


@dataclass(frozen=True)
class Usage:
    """A customer's month: from when it runs, when the next one begins, what flowed, how much of their allowance that is, what happens at
    its end, and how many bytes a second each device has left then, where that is to slow down."""

    begins_on: date
    ends_on: date
    flow: Flow
    relays: Mapping[int, Flow] = field(default_factory=dict)
    verdict: Verdict = FINE
    at_end: AtEnd = AtEnd.NOTHING
    lifeline: int = 0

    @property
    def quota_bytes(self) -> int | None:
        """The allowance of which the most is used, with what was added to it; None where there is none."""
        return self.verdict.allowed

    @property
    def left_bytes(self) -> int | None:
        """What is left of the allowance; None where there is none."""
        return None if self.quota_bytes is None else max(self.quota_bytes - self.verdict.used, 0)

    @property
    def used_percent(self) -> int:
        """Which part of the allowance was used, 100 at most; 0 where there is none."""
        return min(self.verdict.percent or 0, 100)


FLOW_FIELDS = ("up_bytes", "down_bytes", "up_rate", "down_rate", "read_at")
_MONTH = Prepared(
    lambda rental, begins_on: TrafficMonth.objects.filter(rental=rental, begins_on=begins_on).values(
        "relay_id", *FLOW_FIELDS
    )
)


def read_usage(*, rental: Rental, span: RentalSpan | None, now: datetime) -> Usage:
    """A customer's month that runs now, relay by relay, released ones too; `span` is the one that rules. One query."""
    begins_on = month_of(rental, now)
    rows = _MONTH.read(rental=rental.pk, begins_on=begins_on)
    relays = {row["relay_id"]: flow_of(row, now) for row in rows}
    flow = sum_flows(relays.values())
    allowance = widen(allowance_of(rental, span), rental.added_bytes)
    return Usage(
        begins_on=begins_on,
        ends_on=next_month(timezone.localdate(rental.created_at).day, begins_on),
        flow=flow,
        relays=relays,
        verdict=judge(allowance, Use(flow.up_bytes, flow.down_bytes)),
        at_end=allowance.at_end,
        lifeline=settings.LIFELINE_RATE,
    )


def read_relays(relays: Mapping[int, Rental | None], now: datetime) -> dict[int, Flow]:
    """Relays' months that run now, by primary key; `relays` says whose each is. One query."""
    begins = {pk: month_of(rental, now) for pk, rental in relays.items() if rental is not None}
    rows = TrafficMonth.objects.filter(
        relay__in=begins, begins_on__gte=timezone.localdate(now) - LONGEST_MONTH
    ).values("relay_id", "begins_on", *FLOW_FIELDS)
    return {row["relay_id"]: flow_of(row, now) for row in rows if begins[row["relay_id"]] == row["begins_on"]}


def read_place(relay: Relay, begins_on: date) -> Use:
    """What counts for a relay's own allowance in its customer's month: also what flowed through those that had its place. One query."""
    rows = TrafficMonth.objects.filter(rental=relay.rental_id, begins_on=begins_on)
    rows = rows.filter(relay=relay) if relay.place is None else rows.filter(relay__place=relay.place)
    found = rows.aggregate(up=Sum("up_bytes", default=0), down=Sum("down_bytes", default=0))
    return Use(found["up"], found["down"])


def read_server(*, server: Server, now: datetime) -> Flow:
    """A server's month that runs now. One query."""
    begins_on = month_begin(server.traffic_reset_day, timezone.localdate(now))
    row = TrafficServerMonth.objects.filter(server=server, begins_on=begins_on).values(*FLOW_FIELDS).first()
    return flow_of(row, now) if row else Flow()


@dataclass(frozen=True)
class Over:
    """Whose allowance of this month is used up: a customer's, all relays together, or one relay's own; what flowed there, and the verdict."""

    rental_pk: int
    user_pk: int
    relay_pk: int | None
    used: Use
    verdict: Verdict


def over_quota(now: datetime, *, user_pk: int | None = None) -> list[list[Over]]:
    """What is used up, customer by customer, by falling rental: first the customer's own allowance, then those of relays.

    A relay's own allowance is what was said for it; what flowed through those that had its place counts. Of one customer only with
    `user_pk`. A fixed number of queries.
    """
    rentals = Rental.objects.entitled(now)
    if user_pk is not None:
        rentals = rentals.filter(user=user_pk)
    found = []
    for case in sorted(read_cases(rentals, now), key=lambda case: -case.rental.pk):
        verdict = case.decide().customer.verdict
        verdicts: list[tuple[int | None, Use, Verdict]] = [(None, sum(case.used.values(), Use()), verdict)]
        for relay in sorted(case.relays, key=lambda relay: relay.pk):
            own = inherit(NOTHING_SAID, NOTHING_SAID, caps_of(relay))
            used = case.used_by(relay)
            verdicts.append((relay.pk, used, judge(own, Use(), used)))
        rows = [
            Over(case.rental.pk, case.rental.user_id, relay_pk, used, verdict)
            for relay_pk, used, verdict in verdicts
            if verdict.state is State.OVER
        ]
        if rows:
            found.append(rows)
    return found
