"""A rental's schedule in the database: reading it, writing what the rules of `serials.rentals.schedule` made of it."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import DateTimeField, F, Q, QuerySet, Value
from django.db.models.functions import Coalesce

from accounts.models import User
from accounts.services import log_operation
from derpmgmt.lib import queue
from derpmgmt.lib.prepared import Prepared
from serials.rentals import reminders, schedule
from serials.rentals.models import Entitlement, Redemption, Rental, RentalSpan

# A plan that could not give a customer all their relays is made again after this time.
PLAN_AGAIN = timedelta(seconds=5)


@dataclass(frozen=True)
class Terms:
    """What a span gives, as a value that can be compared; `servers` are pks, none = all servers."""

    device_limit: int
    quota_bytes: int | None
    rate_bytes_per_second: int | None
    at_quota: str
    servers: frozenset[int]
    upload_quota_bytes: int | None = None
    download_quota_bytes: int | None = None
    # No part of what a person compares: two serial numbers that differ only here give the same while they run.
    grace_days: int | None = field(default=None, compare=False)
    may_open: bool = field(default=True, compare=False)

    @classmethod
    def of(cls, sold: Entitlement) -> "Terms":
        """The terms of what is sold, or of a span."""
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
    note: str = "",
) -> Redemption:
    """Make `spans` the schedule of `rental` and record what moved its end; call with the rental's row locked.

    `spans` whose redemption is `schedule.NEW` belong to the Redemption that is made here. `granted` is whole seconds,
    negative for a refund. Rows that stay as they are are not touched. Announces `rental_changed`.
    """
    ends_at = spans[-1].ends_at if spans else now
    grace = _grace(spans[-1].entitlement) if spans else timedelta()
    redemption = Redemption.objects.create(
        rental=rental,
        kind=kind,
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
    rental.ends_at, rental.runs_until = ends_at, ends_at + grace
    if rental.status == Rental.Status.EXPIRED and rental.is_entitled(now):
        rental.status = Rental.Status.ACTIVE
    reminders.set_reminders(rental, redemption, now)
    rental.save(update_fields=["ends_at", "runs_until", "status", "end_name", "remind_at", "closing_due_at"])
    request_plan(rental_pk=rental.pk, now=now)
    return redemption


def _grace(terms: object) -> timedelta:
    """How long everything runs on after a span of these terms, when it is the last."""
    assert isinstance(terms, Terms)
    return timedelta(days=settings.GRACE_DAYS if terms.grace_days is None else terms.grace_days)


def lock_rental(rental_pk: int) -> Rental:
    """The rental's row, locked; call inside a transaction.

    The owner's row is locked first, as in a redemption: what is written later points at both, and two transactions that took
    them in different orders would stand in each other's way.
    """
    owner = Rental.objects.values_list("user_id", flat=True).get(pk=rental_pk)
    User.objects.select_for_update().get(pk=owner)
    return Rental.objects.select_for_update().get(pk=rental_pk)


def request_plan(*, rental_pk: int, now: datetime) -> None:
    """Have a rental's relays looked at, because its rights or its relays have changed. Announces `rental_changed`."""
    request_plans(rental_pks=[rental_pk], now=now)


def request_plans(*, rental_pks: Collection[int], now: datetime) -> None:
    """`request_plan` for many."""
    Rental.objects.filter(pk__in=rental_pks).update(plan_due_at=now)
    queue.announce_all("rental_changed", rental_pks)


def record_plan(*, rental: Rental, is_settled: bool, now: datetime, again_at: datetime | None = None) -> None:
    """A plan has been made: look again at `again_at`, else when rights change by themselves, or, when something is still missing,
    soon."""
    due_at: datetime | None = again_at or now + PLAN_AGAIN
    if is_settled and again_at is None:
        due_at = None
        if rental.is_entitled(now):
            starts_at = rental.spans.filter(starts_at__gt=now).order_by("starts_at")
            due_at = starts_at.values_list("starts_at", flat=True).first() or rental.runs_until
    Rental.objects.filter(pk=rental.pk).update(plan_due_at=due_at)


@transaction.atomic
def credit_waiting_time(*, rental_pk: int, now: datetime) -> Redemption | None:
    """Give back, once, the time since `waiting_since`, because the first relay has now been proven.

    Whole seconds, rounded up; what lies after a pause began or after the end was not lost. None when nothing is to be given.
    """
    rental = lock_rental(rental_pk)
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


def ruling_spans(rental: Rental, now: datetime) -> QuerySet[RentalSpan]:
    """At most one span: the one that covers `now` (while paused: the pause's begin), or in the grace after the end the last."""
    at = rental.paused_at or now
    if rental.ends_at is not None and rental.ends_at <= at and rental.is_entitled(at):
        return rental.spans.filter(ends_at=rental.ends_at)
    return rental.spans.filter(starts_at__lte=at, ends_at__gt=at)


def current_span(rental: Rental, now: datetime) -> RentalSpan | None:
    """The span that rules at `now` (`ruling_spans`); None when the rental has no time."""
    return ruling_spans(rental, now).first()


def open_spans(spans: QuerySet[RentalSpan], now: Any) -> QuerySet[RentalSpan]:
    """Of these what rules now, or when the pause began, and what follows; after the end the last one."""
    at = Coalesce("rental__paused_at", Value(now, DateTimeField()))
    return spans.filter(Q(ends_at__gt=at) | Q(ends_at=F("rental__ends_at"))).order_by("starts_at")


def rules(span: RentalSpan, rental: Rental, now: datetime) -> bool:
    """Whether `ruling_spans` has it."""
    at = rental.paused_at or now
    is_in_grace = rental.ends_at is not None and rental.ends_at <= at and rental.is_entitled(at)
    return span.ends_at == rental.ends_at if is_in_grace else span.starts_at <= at < span.ends_at


@dataclass(frozen=True)
class Standing:
    """A rental as it stands now: the span that rules it (`current_span`), and whether that `is_paid`."""

    rental: Rental
    span: RentalSpan | None
    is_paid: bool


_SPANS_OF = Prepared(
    lambda owner, now: open_spans(RentalSpan.objects.filter(rental__user=owner), now).select_related(
        "rental", "redemption"
    )
)


def read_standing(*, user: User, now: datetime) -> Standing | None:
    """That person's rental as it stands; None when they have none. One query, two where no time was given yet."""
    spans = _SPANS_OF.read(owner=user.pk, now=now)
    rental = spans[0].rental if spans else Rental.objects.filter(user=user).first()
    if rental is None:
        return None
    rental.user = user
    span = next((span for span in spans if rules(span, rental, now)), None)
    return Standing(rental, span, span is not None and span.redemption.unpaid_since is None)


def bound_servers(rental: Rental, now: datetime) -> set[int] | None:
    """The servers (pks) on which alone relays may be placed at `now`; None = all."""
    span = current_span(rental, now)
    return (set(span.servers.values_list("pk", flat=True)) or None) if span else None


def bound_servers_of(rentals: Collection[Rental], now: datetime) -> dict[int, frozenset[int] | None]:
    """As `bound_servers` for many rentals, by pk; two queries however many."""
    by_pk = {rental.pk: rental for rental in rentals}
    found: dict[int, frozenset[int] | None] = dict.fromkeys(by_pk)
    for span in open_spans(RentalSpan.objects.filter(rental__in=by_pk), now).prefetch_related("servers"):
        if rules(span, by_pk[span.rental_id], now):
            found[span.rental_id] = frozenset(server.pk for server in span.servers.all()) or None
    return found


def is_paid(rental: Rental, now: datetime) -> bool:
    """Whether the time that runs at `now` is paid for: there is a span, and what granted it was not set back to unpaid."""
    return ruling_spans(rental, now).filter(redemption__unpaid_since=None).exists()
