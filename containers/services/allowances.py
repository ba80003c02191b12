"""Allowances of the rows: what counts for a customer and their relays, what they used, and the verdicts written down.

A sweep compares what should be with the verdicts that stand in the rows, by a fixed number of queries; only where they differ a rental is
locked, read again, and written. So neither a visit nor a bell has to tell, and whatever changes, what flowed, what was sold, said or added, or
the month, is felt within seconds.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import F, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.models import User
from accounts.services import log_operation, notify
from containers.allowances import (
    Allowance,
    AtEnd,
    Caps,
    Decision,
    Outcome,
    RelayCase,
    State,
    Use,
    decide,
    inherit,
)
from containers.metering import next_month
from containers.models import RATE_RETRY, Relay
from containers.services.traffic import month_of
from containers.traffic_models import TrafficMonth
from derpmgmt.lib import queue
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.refusals import Refusal
from serials.rentals.limits import CAP_FIELDS, Limited
from serials.rentals.models import Rental, RentalSpan, TrafficGrant
from serials.rentals.services import (
    RentalClosed,
    ask_staff,
    grant_renewals,
    lock_rental,
    open_spans,
    record_use,
    renewed_when_over,
    request_plan,
    rules,
    write_limits,
)

_LONGEST_MONTH = timedelta(days=31)
_SOLD = (
    "quota_bytes",
    "upload_quota_bytes",
    "download_quota_bytes",
    "rate_bytes_per_second",
    "device_limit",
    "at_quota",
)
# Something was said, or came of it.
_LIMITED = (
    Q(cap_up_bytes__isnull=False)
    | Q(cap_down_bytes__isnull=False)
    | Q(cap_both_bytes__isnull=False)
    | Q(cap_rate__isnull=False)
    | ~Q(traffic_state=Limited.TrafficState.FINE)
    | Q(stopped_at__isnull=False)
)
_WIDENED = ~Q(added_bytes=0)
_STAND_OR_RETURN = Q(live=1) | Q(return_slot__isnull=False)


def caps_of(row: Any) -> Caps:
    """What was said for a customer (a rental) or for a relay."""
    return Caps(
        up=row.cap_up_bytes,
        down=row.cap_down_bytes,
        both=row.cap_both_bytes,
        rate=row.cap_rate,
        devices=getattr(row, "cap_devices", None),
        at_end=AtEnd(row.cap_at_quota) if row.cap_at_quota else None,
    )


def sold_caps(span: RentalSpan | None) -> Caps:
    """What was sold for the time that runs; nothing without any."""
    if span is None:
        return Caps()
    return Caps(
        up=span.upload_quota_bytes,
        down=span.download_quota_bytes,
        both=span.quota_bytes,
        rate=span.rate_bytes_per_second,
        devices=span.device_limit,
        at_end=AtEnd(span.at_quota),
    )


def allowance_of(rental: Rental, span: RentalSpan | None, relay: Relay | None = None) -> Allowance:
    """What counts for a customer, or for a relay of theirs, without what was added; no query."""
    return inherit(sold_caps(span), caps_of(rental), caps_of(relay) if relay else None)


@dataclass
class Case:
    """A rental with all that is decided on."""

    rental: Rental
    span: RentalSpan
    begins_on: date
    relays: list[Relay] = field(default_factory=list)
    used: dict[int, Use] = field(default_factory=dict)
    used_at: dict[int, Use] = field(default_factory=dict)
    added: int = 0

    def add(self, relay_pk: int, place: int | None, use: Use) -> None:
        """Count what flowed through a relay, and in its place."""
        self.used[relay_pk] = use
        if place is not None:
            self.used_at[place] = self.used_at.get(place, Use()) + use

    def used_by(self, relay: Relay) -> Use:
        """What counts for a relay's own allowance: also what flowed through those that had its place this month."""
        if relay.place is None:
            return self.used.get(relay.pk, Use())
        return self.used_at.get(relay.place, Use())

    def decide(self) -> Decision:
        return decide(
            sold=sold_caps(self.span),
            customer=caps_of(self.rental),
            added=self.added,
            used=sum(self.used.values(), Use()),
            relays={relay.pk: RelayCase(caps_of(relay), self.used_by(relay)) for relay in self.relays},
            lifeline=settings.LIFELINE_RATE,
        )

    def is_recorded(self) -> bool:
        """Whether the rows say what was decided."""
        decision, rental = self.decide(), self.rental
        is_stopped = decision.customer.happens is AtEnd.STOP
        return (
            rental.traffic_state == decision.customer.verdict.state
            and rental.added_bytes == self.added
            and (rental.stopped_at is not None) == is_stopped
            and all(_is_so(relay, decision.relays[relay.pk], is_stopped) for relay in self.relays)
        )


def _is_so(relay: Relay, outcome: Outcome, is_rental_stopped: bool) -> bool:
    is_held = _is_held(relay, outcome, is_rental_stopped)
    return (relay.traffic_state, relay.stopped_at is not None, relay.rate) == (
        outcome.verdict.state,
        is_held,
        outcome.rate,
    )


def _is_held(relay: Relay, outcome: Outcome, is_rental_stopped: bool) -> bool:
    """Whether a relay alone is to be stopped; where all are, each keeps what it has."""
    return relay.stopped_at is not None if is_rental_stopped else outcome.happens is AtEnd.STOP


def _spans_of(rentals: QuerySet[Rental], now: datetime) -> QuerySet[RentalSpan]:
    """The spans that run of those that have, or had, limits."""
    own = Relay.objects.filter(_LIMITED | Q(rate__isnull=False), _STAND_OR_RETURN)
    spans = open_spans(RentalSpan.objects.filter(rental__in=rentals), now).filter(
        Q(quota_bytes__isnull=False)
        | Q(upload_quota_bytes__isnull=False)
        | Q(download_quota_bytes__isnull=False)
        | Q(rate_bytes_per_second__isnull=False)
        | Q(rental__in=rentals.filter(_LIMITED | _WIDENED).values("pk"))
        | Q(rental__in=own.values("rental"))
    )
    rental_fields = [f"rental__{name}" for name in (*CAP_FIELDS, *_STATE)]
    return spans.select_related("rental").only("starts_at", "ends_at", *_SOLD, *rental_fields)


_SPANS = Prepared(lambda now: _spans_of(Rental.objects.entitled(now), now))


def read_cases(rentals: QuerySet[Rental], now: datetime) -> list[Case]:
    """The rentals among those whose time runs that have, or had, limits; four queries."""
    return _cases_of(_spans_of(rentals, now), now)


def _cases_of(spans: Iterable[RentalSpan], now: datetime) -> list[Case]:
    cases: dict[int, Case] = {}
    for span in spans:
        if rules(span, span.rental, now):
            cases[span.rental_id] = Case(span.rental, span, month_of(span.rental, now))
    if not cases:
        return []
    relays = Relay.objects.filter(_STAND_OR_RETURN, rental__in=list(cases))
    for relay in relays.only("rental_id", "place", "traffic_state", "stopped_at", "rate", *CAP_FIELDS):
        cases[relay.rental_id or 0].relays.append(relay)
    oldest = timezone.localdate(now) - _LONGEST_MONTH
    months = TrafficMonth.objects.filter(rental__in=list(cases), begins_on__gte=oldest)
    for rental_pk, relay_pk, place, begins_on, up, down in months.values_list(
        "rental_id", "relay_id", "relay__place", "begins_on", "up_bytes", "down_bytes"
    ):
        if begins_on == cases[rental_pk].begins_on:
            cases[rental_pk].add(relay_pk, place, Use(up, down))
    since = timezone.make_aware(datetime.combine(oldest, time()))
    for rental_pk, size, at in TrafficGrant.objects.filter(rental__in=list(cases), at__gte=since).values_list(
        "rental_id", "size_bytes", "at"
    ):
        if month_of(cases[rental_pk].rental, at) == cases[rental_pk].begins_on:
            cases[rental_pk].added += size
    return list(cases.values())


_STATE = (
    "user_id",
    "created_at",
    "paused_at",
    "closed_at",
    "ends_at",
    "runs_until",
    "traffic_state",
    "added_bytes",
    "stopped_at",
    "cap_devices",
)


def unrecorded(now: datetime) -> list[int]:
    """The rentals whose rows do not say what follows from what they used, or that were renewed since it was used up; a fixed number of
    queries."""
    cases = _cases_of(_SPANS.read(now=now), now)
    found = {case.rental.pk for case in cases if not case.is_recorded()}
    return sorted(found.union(renewed_when_over(now)))


def judge_rental(*, rental_pk: int, now: datetime) -> None:
    """Write down what follows for a customer from what they used, and tell them where an end is near or reached.

    May run at any time and twice. Announces `rental_changed` where their relays stop or go on, `rental_relays_changed` never.
    """
    with transaction.atomic():
        rental = lock_rental(rental_pk)
        for case in read_cases(Rental.objects.entitled(now).filter(pk=rental_pk), now):
            decision = case.decide()
            if decision.customer.verdict.state is State.OVER:
                base = (decision.customer.verdict.allowed or 0) - case.added
                if grant_renewals(rental=rental, size_bytes=base, now=now):
                    case = read_cases(Rental.objects.entitled(now).filter(pk=rental_pk), now)[0]
                    decision = case.decide()
            _write(rental, case, decision, now)


def _write(rental: Rental, case: Case, decision: Decision, now: datetime) -> None:
    is_stopped = decision.customer.happens is AtEnd.STOP
    for relay in case.relays:
        outcome = decision.relays[relay.pk]
        if not _is_so(relay, outcome, is_stopped):
            _write_relay(rental, relay, outcome, is_held=_is_held(relay, outcome, is_stopped), now=now)
    state = decision.customer.verdict.state
    if (state, case.added, is_stopped) != (
        rental.traffic_state,
        rental.added_bytes,
        rental.stopped_at is not None,
    ):
        record_use(rental=rental, state=state, added=case.added, is_stopped=is_stopped, now=now)
    _tell(rental, case, decision.customer, relay=None)
    for relay in case.relays:
        # What is the customer's is told once, for all relays together.
        if decision.relays[relay.pk].verdict != decision.customer.verdict:
            _tell(rental, case, decision.relays[relay.pk], relay=relay)


def _write_relay(rental: Rental, relay: Relay, outcome: Outcome, *, is_held: bool, now: datetime) -> None:
    has_changed = is_held != (relay.stopped_at is not None)
    fields: dict[str, Any] = {"traffic_state": outcome.verdict.state}
    if has_changed:
        fields["stopped_at"] = now if is_held else None
    if relay.rate != outcome.rate:
        fields |= {"rate": outcome.rate, "rate_owed_at": now, **RATE_RETRY.cleared}
        queue.announce("relay_rate_changed", relay.pk)
    # Nothing of this is in a map.
    Relay.objects.filter(pk=relay.pk).update(**fields, changed_at=F("changed_at"))
    if has_changed:
        action = "relay.stopped" if is_held else "relay.going_on"
        log_operation(by=None, action=action, target=f"#{relay.pk}", subject=rental.user)
        request_plan(rental_pk=rental.pk, now=now)


def _tell(rental: Rental, case: Case, outcome: Outcome, *, relay: Relay | None) -> None:
    """Tell a customer, once a month each, that little is left, or nothing."""
    verdict = outcome.verdict
    if verdict.state is State.FINE:
        return
    kind = "traffic_over" if verdict.state is State.OVER else "traffic_near"
    ends_on = next_month(timezone.localdate(rental.created_at).day, case.begins_on)
    ends_at = timezone.make_aware(datetime.combine(ends_on, time()))
    context: dict[str, Any] = {
        "used": verdict.used,
        "allowed": verdict.allowed,
        "way": verdict.name,
        "ends_at": ends_at.isoformat(),
        "at_end": allowance_of(case.rental, case.span, relay).at_end,
        "lifeline": settings.LIFELINE_RATE,
        "url": settings.PUBLIC_URL + reverse("home"),
    }
    if relay is not None:
        row = (
            Relay.objects.select_related("server__region")
            .only("server__region", "certificate_address")
            .get(pk=relay.pk)
        )
        region = row.server.region
        context |= {
            "region_zh": region.name_zh,
            "region_en": region.name_en,
            "address": row.certificate_address,
        }
    # Once a month for a place, whichever relays have it one after another.
    about = rental.pk if relay is None else f"{rental.pk}-{_place_name(relay)}"
    key = f"{kind}-{about}-{case.begins_on}"
    notify(user=rental.user, kind=kind, key=key, context=context, fits_until=ends_at)


class NoLimits(Refusal):
    """A relay that neither stands nor comes back, or is nobody's, has no limits."""

    code = "relay_gone"
    sentence = _("This relay is removed already.")


def _place_name(relay: Relay) -> str:
    return f"relay-{relay.pk}" if relay.place is None else f"place-{relay.place}"


@transaction.atomic
def set_relay_limits(*, relay: Relay, caps: Mapping[str, Any], note: str, by: User | None) -> bool:
    """Say what counts for one relay instead of what counts for its customer; as `serials.rentals.services.set_limits`.

    Raises `NoLimits`, `RentalClosed`. It counts for those too that stand, or come back, in the same place: a successor on its way, and the one that it replaces.
    """
    ask_staff(by)
    if relay.rental_id is None:
        raise NoLimits
    rental = lock_rental(relay.rental_id)
    if rental.closed_at is not None:
        raise RentalClosed
    same_place = Q(pk=relay.pk)
    if relay.place is not None:
        same_place |= Q(rental=rental, place=relay.place)
    standing = Relay.objects.select_for_update().filter(_STAND_OR_RETURN, same_place)
    rows = {row.pk: row for row in standing.only("rental_id", *CAP_FIELDS, "cap_note")}
    if relay.pk not in rows:
        raise NoLimits
    changes = {pk: write_limits(row, CAP_FIELDS, caps, note) for pk, row in rows.items()}
    row, changed = rows[relay.pk], changes[relay.pk]
    if not any(changes.values()):
        return False
    log_operation(
        by=by, action="relay.limits_changed", target=f"#{relay.pk}", subject=rental.user, note=row.cap_note, changes=changed
    )  # fmt: skip
    queue.announce("limits_changed", rental.pk)
    return True
