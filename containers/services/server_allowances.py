"""Servers' traffic of the month: how long it lasts, and what stops when it does not.

The sweep compares every minute what flowed on servers that have a limit; a server whose rest would need more than is left has relays
stopped, the heaviest first. They go as with their customer's rights and come back to their places with the server's next month; meanwhile
the plan makes others elsewhere, where there is room.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from accounts.services import log_operation, notify
from containers.metering import month_begin, next_month
from containers.models import Relay
from containers.server_allowances import (
    PATTERN_DAYS,
    STOP_PERCENT,
    Pattern,
    Today,
    choose_to_stop,
    runs_out_on,
)
from containers.services.relays import give_up
from containers.traffic_models import TrafficDay, TrafficServerMonth
from derpmgmt.lib import queue
from fleet.models import Server
from serials.rentals.services import lock_rental, request_plan

_LONGEST_MONTH = timedelta(days=31)


def traffic_shares(servers: Iterable[Server], now: datetime) -> dict[int, float]:
    """Which share of its month's traffic each server (by primary key) has used that has a limit; at most one query.

    One whose relays had to stop has none left.
    """
    limited = {server.pk: server for server in servers if server.traffic_limit_bytes}
    used = _used(limited.values(), timezone.localdate(now)) if limited else {}
    return {
        pk: 1.0 if server.traffic_over_at else used.get(pk, 0) / (server.traffic_limit_bytes or 1)
        for pk, server in limited.items()
    }


def _used(servers: Collection[Server], today: date) -> dict[int, int]:
    """What flowed on servers in the months that run, in bytes."""
    begins = {server.pk: month_begin(server.traffic_reset_day, today) for server in servers}
    rows = TrafficServerMonth.objects.filter(server__in=list(begins), begins_on__gte=today - _LONGEST_MONTH)
    return {
        pk: up + down
        for pk, begins_on, up, down in rows.values_list("server_id", "begins_on", "up_bytes", "down_bytes")
        if begins.get(pk) == begins_on
    }


@dataclass
class _Flowed:
    """What flowed by day, before today and today."""

    before: dict[date, int] = field(default_factory=dict)
    today: int = 0

    def add(self, day: date, size: int, today: date) -> None:
        if day == today:
            self.today += size
        else:
            self.before[day] = self.before.get(day, 0) + size


def _read_days(
    server_pks: Collection[int], today: date
) -> tuple[dict[int, _Flowed], dict[int, dict[int, _Flowed]]]:
    """By server, and by server and relay that stands there and is not to go already; one query."""
    servers: dict[int, _Flowed] = defaultdict(_Flowed)
    relays: dict[int, dict[int, _Flowed]] = defaultdict(lambda: defaultdict(_Flowed))
    rows = TrafficDay.objects.filter(
        relay__server__in=server_pks, day__gte=today - timedelta(days=PATTERN_DAYS), day__lte=today
    ).annotate(size=F("up_bytes") + F("down_bytes"))
    going = {Relay.Status.REMOVING, Relay.Status.RELEASED}
    for server_pk, relay_pk, status, day, size in rows.values_list(
        "relay__server_id", "relay_id", "relay__status", "day", "size"
    ):
        servers[server_pk].add(day, size, today)
        if status not in going:
            relays[server_pk][relay_pk].add(day, size, today)
    return servers, relays


def _passed(now: datetime) -> float:
    """Which share of the day is over, in the panel's time zone."""
    today = timezone.localdate(now)
    begin, end = (
        timezone.make_aware(datetime.combine(day, datetime.min.time()))
        for day in (today, today + timedelta(days=1))
    )
    return (now - begin) / (end - begin)


def judge_servers(now: datetime) -> None:
    """Write down how long servers' traffic lasts, and stop relays where it does not; three queries where nothing changes."""
    today = timezone.localdate(now)
    servers = list(
        Server.objects.managed().filter(
            Q(traffic_limit_bytes__isnull=False)
            | Q(traffic_runs_out_on__isnull=False)
            | Q(traffic_over_at__isnull=False)
        )
    )
    if not servers:
        return
    used = _used(servers, today)
    by_server, by_relay = _read_days([server.pk for server in servers], today)
    passed = _passed(now)
    for server in servers:
        limit, end = server.traffic_limit_bytes, next_month(server.traffic_reset_day, today)
        flowed = by_server[server.pk]
        chosen: list[int] = []
        day = None
        if limit:
            expected = {
                pk: Pattern(relay.before).or_of(of_today).expect_until(of_today, end)
                for pk, relay in by_relay[server.pk].items()
                for of_today in [Today(today, relay.today, passed)]
            }
            chosen = choose_to_stop(used=used.get(server.pk, 0), limit=limit, expected=expected)
            day = runs_out_on(
                left=limit - used.get(server.pk, 0),
                pattern=Pattern(flowed.before),
                today=Today(today, flowed.today, passed),
                end=end,
            )
        so_far = used.get(server.pk, 0)
        # One whose relays were stopped stays so while that is why the rest lasts.
        is_tight = limit is not None and so_far * 100 >= limit * STOP_PERCENT
        is_over = is_tight and (bool(chosen or server.traffic_over_at) or so_far >= (limit or 0))
        _record(server, day=day, is_over=is_over, now=now)
        for pk in chosen:
            _stop_relay(server, pk, ends_on=end, now=now)


def _record(server: Server, *, day: date | None, is_over: bool, now: datetime) -> None:
    over_at = (server.traffic_over_at or now) if is_over else None
    if (day, over_at) == (server.traffic_runs_out_on, server.traffic_over_at):
        return
    with transaction.atomic():
        Server.objects.filter(pk=server.pk).update(traffic_runs_out_on=day, traffic_over_at=over_at)
        if bool(over_at) == bool(server.traffic_over_at):
            return
        log_operation(
            by=None, action="server.traffic_over" if over_at else "server.traffic_back", target=server
        )
        if not over_at:
            # There is room again, and what waits for its place here comes back.
            queue.announce("server_usable", server.pk)
            gone = Relay.objects.filter(server=server, return_slot__isnull=False)
            for rental_pk in set(gone.values_list("rental_id", flat=True)) - {None}:
                request_plan(rental_pk=rental_pk, now=now)


def _stop_relay(server: Server, relay_pk: int, *, ends_on: date, now: datetime) -> None:
    """Have a relay go, its place kept for its return, and tell its customer."""
    relay = (
        Relay.objects.select_related("rental__user", "server__region").defer(*Relay.SECRETS).get(pk=relay_pk)
    )
    if relay.rental is None:
        return
    with transaction.atomic():
        rental = lock_rental(relay.rental.pk)
        relay.refresh_from_db(fields=["slot", "status"])
        had_place = relay.slot is not None
        if not give_up(relay, returns=True):
            return
        log_operation(
            by=None, action="relay.stopped", target=f"#{relay.pk}", subject=rental.user, server=server.name
        )
        request_plan(rental_pk=rental.pk, now=now)
        if not had_place:
            return  # another has it, or keeps it
        region = server.region
        ends_at = timezone.make_aware(datetime.combine(ends_on, datetime.min.time()))
        context: dict[str, Any] = {
            "address": relay.certificate_address,
            "region_zh": region.name_zh,
            "region_en": region.name_en,
            "ends_at": ends_at.isoformat(),
            "url": settings.PUBLIC_URL + reverse("home"),
        }
        notify(
            user=rental.user,
            kind="server_used_up",
            key=f"server_used_up-{relay.pk}-{ends_on}",
            context=context,
            fits_until=ends_at,
        )
