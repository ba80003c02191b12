"""A rental's schedule in the database: reading it, writing what the rules of `serials.schedule` made of it."""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q

from accounts.models import User
from accounts.services import log_operation
from derpmgmt.lib import queue
from serials import schedule
from serials.models import Entitlement, Redemption, Rental, RentalSpan, SerialBatch, SerialNumber


@dataclass(frozen=True)
class Terms:
    """What a span gives, as a value that can be compared; `servers` are pks, none = all servers."""

    device_limit: int
    quota_bytes: int | None
    rate_bytes_per_second: int | None
    at_quota: str
    servers: frozenset[int]

    @classmethod
    def of(cls, sold: SerialBatch | RentalSpan) -> "Terms":
        """The terms of a batch or of a span."""
        fields = {name: getattr(sold, name) for name in Entitlement.ENTITLEMENT_FIELDS}
        return cls(**fields, servers=frozenset(server.pk for server in sold.servers.all()))

    def fields(self) -> dict[str, Any]:
        """The values of `Entitlement`'s fields."""
        return {name: getattr(self, name) for name in Entitlement.ENTITLEMENT_FIELDS}


def read_schedule(rental: Rental) -> schedule.Spans:
    """The rental's spans, for the rules to work on."""
    return tuple(
        schedule.Span(row.starts_at, row.ends_at, Terms.of(row), row.redemption_id)
        for row in rental.spans.order_by("starts_at").prefetch_related("servers")
    )


def write_schedule(
    *,
    rental: Rental,
    spans: schedule.Spans,
    kind: Redemption.Kind,
    granted: timedelta,
    now: datetime,
    by: User | None,
    serial: SerialNumber | None = None,
    note: str = "",
) -> Redemption:
    """Make `spans` the schedule of `rental` and record what moved its end; call with the rental's row locked.

    `spans` whose redemption is `schedule.NEW` belong to the Redemption that is made here. `granted` is whole seconds,
    negative for a refund. Rows that stay as they are are not touched. Announces `rental_changed`.
    """
    ends_at = spans[-1].ends_at if spans else now
    redemption = Redemption.objects.create(
        rental=rental,
        kind=kind,
        serial=serial,
        granted_seconds=int(granted.total_seconds()),
        old_ends_at=rental.ends_at,
        new_ends_at=ends_at,
        at=now,
        by=by,
        note=note,
    )
    wanted = {
        (span.starts_at, span.ends_at, span.entitlement, span.redemption or redemption.pk): span
        for span in spans
    }
    outdated = []
    for row in rental.spans.prefetch_related("servers"):
        if wanted.pop((row.starts_at, row.ends_at, Terms.of(row), row.redemption_id), None) is None:
            outdated.append(row.pk)
    # Deleted before the new ones come: a moved span may start where another one started.
    RentalSpan.objects.filter(pk__in=outdated).delete()
    for starts_at, span_ends_at, terms, redemption_pk in wanted:
        assert isinstance(terms, Terms)
        row = RentalSpan.objects.create(
            rental=rental,
            redemption_id=redemption_pk,
            starts_at=starts_at,
            ends_at=span_ends_at,
            **terms.fields(),
        )
        row.servers.set(terms.servers)
    rental.ends_at = ends_at
    rental.save(update_fields=["ends_at"])
    queue.announce("rental_changed", rental.pk)
    return redemption


@transaction.atomic
def credit_waiting_time(*, rental_pk: int, now: datetime) -> Redemption | None:
    """Give back, once, the time since `waiting_since`, because the first relay has now been proven.

    Whole seconds, rounded up; what lies after a pause began or after the end was not lost. None when nothing is to be given.
    """
    rental = Rental.objects.select_for_update().select_related("user").get(pk=rental_pk)
    since = rental.waiting_since
    if not Rental.objects.filter(pk=rental_pk, waiting_since=since, waiting_since__isnull=False).update(
        waiting_since=None
    ):
        return None
    assert since is not None
    rental.waiting_since = None
    at = rental.paused_at or now
    lost = timedelta(seconds=math.ceil((min(at, rental.ends_at or at) - since).total_seconds()))
    spans = read_schedule(rental)
    if lost <= timedelta() or not spans:
        return None
    spans = schedule.credit(spans, at=at, length=lost)
    redemption = write_schedule(
        rental=rental, spans=spans, kind=Redemption.Kind.WAITING, granted=lost, now=now, by=None
    )
    log_operation(
        by=None, action="rental.waiting_credited", target=rental, subject=rental.user, seconds=redemption.granted_seconds,
        old_ends_at=_iso(redemption.old_ends_at), new_ends_at=_iso(redemption.new_ends_at),
    )  # fmt: skip
    return redemption


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def current_span(rental: Rental, now: datetime) -> RentalSpan | None:
    """The span that rules at `now` (while paused: the one in which the pause began); None when the rental has no time."""
    at = rental.paused_at or now
    return rental.spans.filter(starts_at__lte=at, ends_at__gt=at).first()


def bound_servers(rental: Rental, now: datetime) -> set[int] | None:
    """The servers (pks) on which alone relays may be placed at `now`; None = all."""
    span = current_span(rental, now)
    return (set(span.servers.values_list("pk", flat=True)) or None) if span else None


def is_paid(rental: Rental, now: datetime) -> bool:
    """Whether the time that runs at `now` is paid for: there is a span, and its batch was not set back to unpaid."""
    at = rental.paused_at or now
    paid = Q(redemption__serial=None) | Q(redemption__serial__batch__paid_at__isnull=False)
    return rental.spans.filter(paid, starts_at__lte=at, ends_at__gt=at).exists()
