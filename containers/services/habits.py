"""Customers and servers whose rate is far above what is usual for them, as readings for alerts (`derpmgmt.lib.habits` decides).

A customer's last hour is compared with the hours of four weeks, and their last 15 minutes with those and the last day: one that jumped and
stays there is one alert, which says first the one and then the other. However many customers and servers there are, it is a fixed number of
queries, over two hours of all and the past of those few that may be unusual.
"""

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from django.db.models import Avg, Count, F, Min, Sum
from django.urls import reverse

from accounts.alerts.rules import Rule
from accounts.alerts.services import Reading, Rules, open_of
from containers.models import Relay
from containers.sample_models import RelaySample
from containers.traffic_models import TrafficHour
from derpmgmt.lib.habits import Past, Unusual, above_habit, above_last_day, read_suspects
from fleet.models import Server
from fleet.sample_models import LoadHour, LoadSample
from serials.rentals.models import Rental
from serials.rentals.wording import rate

HOUR, MINUTES = 3600, 900
# Below these, in bytes a second, nothing is unusual: 1 Mbit/s of a customer, 10 Mbit/s of a server.
CUSTOMER_FLOOR, SERVER_FLOOR = 125_000.0, 1_250_000.0
# A server's 15 minutes count where so many of its visits measured something.
_LEAST_VISITS = 10
HABIT, JUMP, SERVER_JUMP = "customer_habit", "customer_jump", "server_jump"


def _least(rule: Rule) -> float:
    """From how many times the usual rate on a rule says anything."""
    limits = [limit for limit in (rule.warning, rule.critical) if limit]
    return min(limits) if limits and rule.is_on else math.inf


def _values(found: Unusual) -> dict[str, Any]:
    return {"rate": rate(found.rate), "usual": rate(found.usual)}


def read_customers(now: datetime) -> Iterator[Reading]:
    """Customers whose rate is far above their habit, and those of whom that was told and is over."""
    rules = Rules()
    at = int(now.timestamp())
    hour, over = divmod(at, HOUR)
    least_habit, least_jump = _least(rules.find(HABIT, None)), _least(rules.find(JUMP, None))
    before, since_turn = _two_hours(hour)
    both = {pk: before.get(pk, 0) + since_turn.get(pk, 0) for pk in before.keys() | since_turn.keys()}
    # As if what flowed in the hour before were spread evenly over it; never more than both hours together.
    hours = {pk: (since_turn.get(pk, 0) + before.get(pk, 0) * (1 - over / HOUR)) / HOUR for pk in both}
    minutes = _minutes({pk for pk, sent in both.items() if sent / MINUTES >= least_jump * CUSTOMER_FLOOR}, at)
    bounds = {pk: max(hours[pk] / least_habit, minutes.get(pk, 0) / least_jump) for pk in both}
    suspects = read_suspects(bounds, past_of_customers, hour, floor=CUSTOMER_FLOOR)
    unusual: dict[int, tuple[str, Unusual]] = {}
    for pk, past in suspects.items():
        jump = above_last_day(minutes.get(pk, 0), past, hour, CUSTOMER_FLOOR)
        habit = above_habit(hours[pk], past, hour, CUSTOMER_FLOOR)
        if jump and jump.times >= least_jump:
            unusual[pk] = JUMP, jump
        elif habit and habit.times >= least_habit:
            unusual[pk] = HABIT, habit
    users = set()
    for rental in Rental.objects.filter(pk__in=unusual).select_related("user"):
        users.add(rental.user_id)
        code, found = unusual[rental.pk]
        yield Reading(
            rule=code, thing=f"customer:{rental.user_id}", value=found.times, name=str(rental),
            url=f"{reverse('admin:accounts_user_change', args=[rental.user_id])}?tab=graphs",
            customer=rental.user_id, values=_values(found),
        )  # fmt: skip
    for alert in open_of(HABIT, JUMP):
        if alert.customer_id not in users:
            yield Reading(rule=HABIT, thing=alert.thing, severity="", customer=alert.customer_id)


def _two_hours(hour: int) -> tuple[dict[int, int], dict[int, int]]:
    """Bytes by rental, in the hour before and in this one so far."""
    rows = (
        TrafficHour.objects.filter(hour__in=(hour - 1, hour), relay__rental__isnull=False)
        .values_list("hour", "relay__rental")
        .annotate(sent=Sum(F("up_bytes") + F("down_bytes")))
        .order_by()
    )
    found: dict[int, dict[int, int]] = {hour - 1: {}, hour: {}}
    for at, rental, sent in rows:
        found[at][rental] = int(sent)
    return found[hour - 1], found[hour]


def _minutes(rentals: Collection[int], at: int) -> dict[int, float]:
    """The mean rate of the last 15 minutes by rental. Minutes of which nothing is known count as nothing: it is never more than it was."""
    if not rentals:
        return {}
    rows = (
        RelaySample.objects.filter(relay__rental__in=rentals, at__gt=at - MINUTES, at__lte=at)
        .values_list("relay__rental")
        .annotate(up=Sum("up_rate"), down=Sum("down_rate"))
        .order_by()
    )
    return {rental: ((up or 0) + (down or 0)) * 60 / MINUTES for rental, up, down in rows}


def past_of_customers(rentals: Collection[int], hours: Iterable[int]) -> Mapping[int, Past]:
    """Rates by hour. Without a sum nothing flowed in an hour, as long as the customer's relays were counted at all."""
    wanted = list(hours)
    begun = (
        Relay.objects.filter(rental__in=rentals)
        .values_list("rental")
        .annotate(since=Min("metered_since"))
        .order_by()
    )
    found: dict[int, dict[int, float]] = {}
    for rental, since in begun:
        first = int(since.timestamp()) // HOUR + 1 if since else max(wanted) + 1
        found[rental] = dict.fromkeys((at for at in wanted if at >= first), 0.0)
    rows = (
        TrafficHour.objects.filter(relay__rental__in=rentals, hour__in=wanted)
        .values_list("relay__rental", "hour")
        .annotate(sent=Sum(F("up_bytes") + F("down_bytes")))
        .order_by()
    )
    for rental, at, sent in rows:
        found[rental][at] = int(sent) / HOUR
    return found


def read_servers(now: datetime) -> Iterator[Reading]:
    """Servers whose rate jumped, and those of which that was told and is over."""
    rules = Rules()
    at = int(now.timestamp())
    hour = at // HOUR
    rates = _server_minutes(at)
    least = {pk: _least(rules.find(SERVER_JUMP, pk)) for pk in rates}
    bounds = {pk: speed / least[pk] for pk, speed in rates.items()}
    suspects = read_suspects(bounds, _past_of_servers, hour, floor=SERVER_FLOOR)
    unusual = {
        pk: found
        for pk, past in suspects.items()
        if (found := above_last_day(rates[pk], past, hour, SERVER_FLOOR)) and found.times >= least[pk]
    }
    for server in Server.objects.filter(pk__in=unusual).only("name", "region"):
        found = unusual[server.pk]
        yield Reading(
            rule=SERVER_JUMP, thing=f"server_rate:{server.pk}", value=found.times, name=server.name,
            url=f"{reverse('admin:fleet_server_change', args=[server.pk])}?tab=graphs",
            server=server.pk, region=server.region_id, values=_values(found),
        )  # fmt: skip
    for alert in open_of(SERVER_JUMP):
        if alert.server not in unusual:
            severity = "" if alert.server in rates else None
            yield Reading(rule=SERVER_JUMP, thing=alert.thing, severity=severity, server=alert.server)


def _server_minutes(at: int) -> dict[int, float]:
    """The mean rate of the last 15 minutes by server, where enough of it was measured."""
    rows = (
        LoadSample.objects.filter(at__gt=at - MINUTES, at__lte=at)
        .values_list("server")
        .annotate(speed=Avg(F("receive_rate") + F("send_rate")), visits=Count("receive_rate"))
        .order_by()
    )
    return {server: speed for server, speed, visits in rows if speed is not None and visits >= _LEAST_VISITS}


def _past_of_servers(servers: Collection[int], hours: Iterable[int]) -> Mapping[int, Past]:
    rows = (
        LoadHour.objects.filter(server__in=servers, hour__in=list(hours))
        .annotate(speed=F("receive_rate") + F("send_rate"))
        .filter(speed__isnull=False)
        .values_list("server", "hour", "speed")
        .order_by()
    )
    found: dict[int, dict[int, float]] = defaultdict(dict)
    for server, at, speed in rows:
        found[server][at] = speed
    return found
