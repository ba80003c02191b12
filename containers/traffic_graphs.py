"""Charts of traffic: what of a month's was used by each moment, beside what is allowed; for a server, a customer, a relay."""

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db.models import Sum
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from containers.allowances import Allowance, Figure, Source, widen
from containers.metering import month_begin
from containers.models import Relay
from containers.services.allowances import allowance_of
from containers.traffic_models import TrafficDay, TrafficHour
from derpmgmt.lib.charts import Chart, Line, Range, Unit
from fleet.models import Server
from serials.rentals.models import Rental
from serials.rentals.services import current_span

TITLE = _("Traffic of the month")
_HOUR = 3600
# Ranges up to this many seconds are made of hours, which are kept for 90 days; the month in which one begins has to be among them.
_MOST_IN_HOURS = 30 * 86400

# A piece of the books: when it is over, in seconds since 1970, its day, and the bytes sent by devices and to them.
_Piece = tuple[int, date, int, int]


def server_month(server: Server, chosen: Range, now: int) -> Chart:
    """A server's months, which begin on its own day. One query."""
    limits = [(_("allowance"), server.traffic_limit_bytes)]
    return _draw({"relay__server": server}, server.traffic_reset_day, limits, chosen, now)


def rental_month(rental: Rental, chosen: Range, now: int) -> Chart:
    """A customer's months, of all their relays together, those that are gone too. Two queries."""
    allowance = widen(allowance_of(rental, current_span(rental, _at(now))), rental.added_bytes)
    return _draw({"relay__rental": rental}, _day_of(rental), _limits(allowance), chosen, now)


def relay_month(relay: Relay, chosen: Range, now: int) -> Chart:
    """What went through a relay in its customer's months, beside what was said for it alone. Two queries."""
    if relay.rental is None:
        return _draw({"relay": relay}, 1, [], chosen, now)
    allowance = allowance_of(relay.rental, current_span(relay.rental, _at(now)), relay)
    return _draw({"relay": relay}, _day_of(relay.rental), _limits(allowance, Source.RELAY), chosen, now)


def _at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _day_of(rental: Rental) -> int:
    return timezone.localdate(rental.created_at).day


def _limits(allowance: Allowance, source: Source | None = None) -> list[tuple[str | Promise, int | None]]:
    """What has an end, of those said at `source` if that is given."""

    def of(figure: Figure) -> int | None:
        return figure.value if source in (None, figure.source) else None

    return [
        (_("allowance"), of(allowance.both)),
        (_("allowance, up"), of(allowance.up)),
        (_("allowance, down"), of(allowance.down)),
    ]


def _draw(
    wanted: dict[str, Any],
    month_day: int,
    limits: Iterable[tuple[str | Promise, int | None]],
    chosen: Range,
    now: int,
) -> Chart:
    """Of relays that `wanted` (a filter of their sums) says: what months that begin on `month_day` came to, at the end of each hour or day.

    Before the first that was counted nothing is known.
    """
    read = _hours if chosen.seconds <= _MOST_IN_HOURS else _days
    begin = now - chosen.seconds
    first_day = month_begin(month_day, timezone.localdate(_at(begin)))
    pieces = read(wanted, first_day, now)
    moments: list[int] = []
    sums: list[tuple[int | None, int | None]] = []
    month, up, down, is_known = first_day, 0, 0, False
    for end, day, more_up, more_down in pieces:
        if (its_month := month_begin(month_day, day)) != month:
            month, up, down = its_month, 0, 0
        is_known = is_known or bool(more_up or more_down)
        up, down = up + more_up, down + more_down
        # The end of an hour or day that goes on is now.
        if min(end, now) <= begin:
            continue
        moments.append(min(end, now))
        sums.append((up, down) if is_known else (None, None))
    return Chart(moments, [*_lines(sums), *_flat(limits, len(moments))], Unit.BYTES)


def _lines(sums: Sequence[tuple[int | None, int | None]]) -> list[Line]:
    together = [None if up is None or down is None else up + down for up, down in sums]
    return [
        Line(_("together"), together),
        Line(_("up"), [up for up, _down in sums]),
        Line(_("down"), [down for _up, down in sums]),
    ]


def _flat(limits: Iterable[tuple[str | Promise, int | None]], length: int) -> list[Line]:
    return [Line(name, [value] * length, is_peak=True) for name, value in limits if value is not None]


def _hours(wanted: dict[str, Any], first_day: date, now: int) -> list[_Piece]:
    first = int(timezone.make_aware(datetime.combine(first_day, datetime.min.time())).timestamp()) // _HOUR
    rows = TrafficHour.objects.filter(**wanted, hour__gte=first).order_by().values_list("hour")
    found = {hour: (up, down) for hour, up, down in rows.annotate(Sum("up_bytes"), Sum("down_bytes"))}
    return [
        ((hour + 1) * _HOUR, timezone.localdate(_at(hour * _HOUR)), *found.get(hour, (0, 0)))
        for hour in range(first, now // _HOUR + 1)
    ]


def _days(wanted: dict[str, Any], first_day: date, now: int) -> list[_Piece]:
    rows = TrafficDay.objects.filter(**wanted, day__gte=first_day).order_by().values_list("day")
    found = {day: (up, down) for day, up, down in rows.annotate(Sum("up_bytes"), Sum("down_bytes"))}
    pieces = []
    for number in range((timezone.localdate(_at(now)) - first_day).days + 1):
        day = first_day + timedelta(days=number)
        over = timezone.make_aware(datetime.combine(day + timedelta(days=1), datetime.min.time()))
        pieces.append((int(over.timestamp()), day, *found.get(day, (0, 0))))
    return pieces
