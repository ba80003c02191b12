"""Traffic by the JSON API: bytes are whole numbers; *upload* is what devices sent to a relay, *download* what it sent to them."""

from datetime import date, timedelta
from enum import StrEnum
from typing import Any

from django.db.models import Sum
from django.utils import timezone
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from containers.api import container
from containers.models import Relay, TrafficDay, TrafficMonth
from containers.services.traffic import month_of
from containers.services.usage import Flow, over_quota, read_relays
from derpmgmt.lib.api import Answer, Input, Listed, NotFound, Output, PageQuery, Pk, begin_of, cut, cut_page

traffic = Room("traffic")

# Months that an answer holds at most, and days.
MOST_MONTHS, MOST_DAYS = 24, 31


class Carried(Output):
    """What flowed, in bytes."""

    upload_traffic: int = Field(description="What devices sent to the relay, in bytes.", examples=[1048576])
    download_traffic: int = Field(description="What the relay sent to devices, in bytes.", examples=[2097152])


class CarriedNow(Carried):
    """What flowed in the customer's month that runs now, and how fast at the moment."""

    upload_rate: float | None = Field(description="Bytes a second; null where nobody knows.")
    download_rate: float | None = Field(description="Bytes a second; null where nobody knows.")


class CarriedInMonth(Carried):
    """What flowed in a month of the customer's."""

    begins_on: date = Field(description="The month's first day.", examples=["2026-12-01"])


class CarriedOnDay(Carried):
    """What flowed on a day of the panel's time zone."""

    day: date = Field(examples=["2026-12-24"])


class ContainerTraffic(Answer, CarriedNow):
    """A relay's traffic."""

    container_id: Pk = Field(description="The relay's id.", examples=[12])
    begins_on: date = Field(description="When the customer's month began.", examples=["2026-12-01"])
    months: list[CarriedInMonth] = Field(description="The newest first, this one too; 24 at most.")


class RelayTraffic(CarriedNow):
    """A relay's traffic of the customer's month that runs now."""

    container_id: Pk = Field(description="The relay's id.", examples=[12])


class TrafficQuery(PageQuery):
    """Whose relays."""

    user_id: Pk | None = Field(None, description="Those of one customer.")
    server_id: Pk | None = Field(None, description="Those on one server.")


class RealtimeTraffic(Listed):
    """Relays with their traffic, the newest first."""

    traffic_data: list[RelayTraffic] = Field(description="The page's relays.")


class StatsQuery(Input):
    """Whose traffic."""

    user_id: Pk | None = Field(None, description="That of one customer.")
    server_id: Pk | None = Field(None, description="That of the relays on one server.")


class TrafficStats(Answer, Carried):
    """Traffic of the last 31 days, of all relays together."""

    days: list[CarriedOnDay] = Field(description="The days on which something flowed, the oldest first.")


class Way(StrEnum):
    """What an allowance counts: what devices send, what is sent to them, or both together."""

    UP = "up"
    DOWN = "down"
    BOTH = "both"


class OverLimit(Carried):
    """An allowance of this month that is used up: a customer's, or one relay's own."""

    user_id: Pk = Field(description="The customer.", examples=[7])
    container_id: Pk | None = Field(
        description="The relay whose own allowance it is; null where it is the customer's, for all relays together."
    )
    limit_bytes: int = Field(description="The month's allowance.", examples=[100000000000])
    way: Way = Field(description="What it counts.")


class TrafficOverLimit(Listed):
    """What is used up, by customers, those who came last first; each one's own allowance stands before those of relays."""

    over_limit: list[OverLimit] = Field(
        description="The page's allowances; `page_size` counts customers, of whom each may have several."
    )


def _carried(flow: Flow) -> dict[str, Any]:
    return {
        "upload_traffic": flow.up_bytes,
        "download_traffic": flow.down_bytes,
        "upload_rate": flow.up_rate,
        "download_rate": flow.down_rate,
    }


@container.reads("/traffic/{container_id}", ContainerTraffic)
def container_traffic(request: ApiRequest, container_id: Pk) -> ContainerTraffic:
    """A relay's traffic: of the month that runs now, how fast at the moment, and month by month."""
    rows = Relay.objects.visible_to(request.user).select_related("rental").defer(*Relay.SECRETS)
    relay = rows.filter(pk=container_id, rental__isnull=False).first()
    if relay is None or relay.rental is None:
        raise NotFound
    now = timezone.now()
    flow = read_relays({relay.pk: relay.rental}, now).get(relay.pk, Flow())
    months = TrafficMonth.objects.filter(relay=relay).order_by("-begins_on")[:MOST_MONTHS]
    return ContainerTraffic(
        container_id=relay.pk,
        begins_on=month_of(relay.rental, now),
        months=[
            CarriedInMonth(
                begins_on=row.begins_on, upload_traffic=row.up_bytes, download_traffic=row.down_bytes
            )
            for row in months
        ],
        **_carried(flow),
    )


@traffic.reads("/realtime", RealtimeTraffic)
def traffic_realtime(request: ApiRequest, query: Query[TrafficQuery]) -> RealtimeTraffic:
    """One's own relays with their traffic of this month and how fast it flows now; operators see all customers'."""
    rows = _of(Relay.objects.visible_to(request.user).live(), query, "rental__user", "server")
    found, cursor = cut_page(
        rows.filter(rental__isnull=False).select_related("rental").defer(*Relay.SECRETS), query
    )
    flows = read_relays({relay.pk: relay.rental for relay in found}, timezone.now())
    return RealtimeTraffic(
        traffic_data=[
            RelayTraffic(container_id=relay.pk, **_carried(flows.get(relay.pk, Flow()))) for relay in found
        ],
        next_cursor=cursor,
    )


def _of(rows: Any, query: TrafficQuery | StatsQuery, user: str, server: str) -> Any:
    wanted = {user: query.user_id, server: query.server_id}
    return rows.filter(**{name: value for name, value in wanted.items() if value is not None})


@traffic.reads("/stats", TrafficStats)
def traffic_stats(request: ApiRequest, query: Query[StatsQuery]) -> TrafficStats:
    """Traffic of the last 31 days, day by day and together: of one's own relays, for operators of all."""
    first = timezone.localdate() - timedelta(days=MOST_DAYS - 1)
    rows = _of(TrafficDay.objects.visible_to(request.user), query, "relay__rental__user", "relay__server")
    days = [
        CarriedOnDay(day=row["day"], upload_traffic=row["up"], download_traffic=row["down"])
        for row in rows.filter(day__gte=first)
        .values("day")
        .annotate(up=Sum("up_bytes"), down=Sum("down_bytes"))
        .order_by("day")
    ]
    return TrafficStats(
        days=days,
        upload_traffic=sum(day.upload_traffic for day in days),
        download_traffic=sum(day.download_traffic for day in days),
    )


@traffic.reads("/over_limit", TrafficOverLimit)
def traffic_over_limit(request: ApiRequest, query: Query[PageQuery]) -> TrafficOverLimit:
    """Whose allowance of this month is used up, customers' and relays' own: operators see all, others theirs."""
    customers = over_quota(timezone.now(), user_pk=None if request.user.is_staff else request.user.pk)
    begin = begin_of(query)
    page = [{"id": rows[0].rental_pk, "rows": rows} for rows in customers if rows[0].rental_pk < begin]
    found, cursor = cut(page[: query.page_size + 1], query)
    return TrafficOverLimit(
        over_limit=[
            OverLimit(
                user_id=row.user_pk,
                container_id=row.relay_pk,
                limit_bytes=row.verdict.allowed or 0,
                way=Way(row.verdict.name),
                upload_traffic=row.used.up,
                download_traffic=row.used.down,
            )
            for customer in found
            for row in customer["rows"]
        ],
        next_cursor=cursor,
    )
