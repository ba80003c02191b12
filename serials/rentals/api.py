"""Rentals by the JSON API: what somebody has and until when, pause and resume."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import find_person
from accounts.models import User
from derpmgmt.lib.api import Answer, Input, Line, Moment, NotFound, Output, Pk
from derpmgmt.lib.prepared import Prepared
from serials.rentals import services
from serials.rentals.admin_acts import paused_sentence, resumed_sentence, stops
from serials.rentals.limits import AtQuota
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.wording import days_left, moves_on, time_left

user = Room("user")
rental = Room("rental")


class SpanShown(Output):
    """A stretch of the rental's time and what was sold for it."""

    starts_at: Moment = Field(examples=["2026-11-01T04:00:00Z"])
    ends_at: Moment = Field(examples=["2026-12-01T04:00:00Z"])
    is_current: bool = Field(
        description="Whether this one rules now; in a pause, where the time stands still."
    )
    device_limit: int = Field(description="Devices that may be approved.", examples=[20])
    quota_bytes: int | None = Field(description="Traffic a month, both ways together; null for no limit.")
    upload_quota_bytes: int | None = Field(description="What devices send a month; null for no limit.")
    download_quota_bytes: int | None = Field(
        description="What is sent to devices a month; null for no limit."
    )
    rate_bytes_per_second: int | None = Field(description="For each device; null for no limit.")
    at_quota: AtQuota = Field(description="What happens at the allowance.")
    grace_days: int | None = Field(
        description="So long everything runs on after the end; null: as set for the whole panel."
    )
    may_open: bool = Field(description="Whether device checking may be switched off.")


class RentalShown(Output):
    """A customer's rental."""

    rental_id: Pk = Field(examples=[12])
    user_id: Pk = Field(examples=[7])
    status: Rental.Status
    is_running: bool = Field(description="Whether the time, or its grace, runs now, so that relays run.")
    is_in_grace: bool = Field(
        description="Whether the time is over and everything still runs for the days of grace."
    )
    ends_at: Moment | None = Field(description="Null where no time was ever given.")
    runs_until: Moment | None = Field(description="The end with its grace.")
    days_left: int = Field(description="The nearest whole number; 0 in the last twelve hours.", examples=[30])
    paused_at: Moment | None = Field(description="While it is paused, every end moves on.")
    closed_at: Moment | None = Field(description="Since when it is over for good.")
    waiting_since: Moment | None = Field(
        description="Since when the first relay is waited for; that time is given back."
    )
    spans: list[SpanShown] = Field(description="What rules now and what follows, in order.")


class RentalAnswer(Answer):
    """What is rented; null where no serial number was ever redeemed."""

    user_id: Pk = Field(examples=[7])
    rental: RentalShown | None = Field(description="Null where no serial number was ever redeemed.")


class Renewed(Answer):
    """A rental whose end moved."""

    rental: RentalShown
    new_expiry_time: Moment = Field(description="When the rental ends now.")


class Pausing(Input):
    """Why a rental is paused."""

    reason: Line = Field("", description="The customer is told.", examples=["payment in dispute"])


def describe_rental(found: Rental, now: datetime, spans: Sequence[RentalSpan] | None = None) -> RentalShown:
    """The rental as the API shows it; one query, for the spans, unless they are given."""
    at = found.paused_at or now
    rows = services.open_spans(found.spans.all(), now) if spans is None else spans
    is_running = found.is_entitled(now)
    is_in_grace = is_running and found.ends_at is not None and found.ends_at <= now
    return RentalShown(
        rental_id=found.pk,
        user_id=found.user_id,
        status=Rental.Status(found.status),
        is_running=is_running,
        is_in_grace=is_in_grace,
        ends_at=found.ends_at,
        runs_until=found.runs_until,
        days_left=0 if found.closed_at or not found.ends_at else days_left(found.ends_at, at),
        paused_at=found.paused_at,
        closed_at=found.closed_at,
        waiting_since=found.waiting_since,
        spans=[_describe_span(row, is_current=services.rules(row, found, now)) for row in rows],
    )


def _describe_span(span: RentalSpan, *, is_current: bool) -> SpanShown:
    sold: dict[str, Any] = {name: getattr(span, name) for name in span.ENTITLEMENT_FIELDS}
    return SpanShown(starts_at=span.starts_at, ends_at=span.ends_at, is_current=is_current, **sold)


def answer_renewed(found: Rental, message: str) -> Renewed:
    """The rental after its end moved."""
    assert found.ends_at is not None
    more = [moves_on()] if found.paused_at else []
    return Renewed(
        message=" ".join([message, *more]),
        rental=describe_rental(found, timezone.now()),
        new_expiry_time=found.ends_at,
    )


_STAFF = User(role=User.Role.ADMIN, is_staff=True)
_OF_RENTAL = [field.attname for field in Rental._meta.concrete_fields]
_OF_SPAN = [field.attname for field in RentalSpan._meta.concrete_fields]


def _with_spans(spans: QuerySet[RentalSpan], wanted: int, now: Any) -> Any:
    rows = services.open_spans(spans.filter(rental__user=wanted), now)
    return rows.values(*_OF_SPAN, *(f"rental__{name}" for name in _OF_RENTAL))


# What programs ask for all the time: the rental and its spans in one query.
_OWN = Prepared(
    lambda wanted, asker, now: _with_spans(RentalSpan.objects.visible_to(User(pk=asker)), wanted, now)
)
_ANY = Prepared(lambda wanted, now: _with_spans(RentalSpan.objects.visible_to(_STAFF), wanted, now))


def _rental_of(asker: User, wanted: int, now: datetime) -> tuple[Rental | None, list[RentalSpan]]:
    """The rental of that person, as far as `asker` may see it, and its spans that rule or follow."""
    given: dict[str, Any] = {"wanted": wanted, "now": now}
    rows = _ANY.read(**given) if asker.is_staff else _OWN.read(asker=asker.pk, **given)
    if not rows:
        # Before any time was given there is no span.
        return Rental.objects.visible_to(asker).filter(user=wanted).first(), []
    rental = Rental.from_db(None, _OF_RENTAL, [rows[0][f"rental__{name}"] for name in _OF_RENTAL])
    return rental, [RentalSpan.from_db(None, _OF_SPAN, [row[name] for name in _OF_SPAN]) for row in rows]


@user.reads("/rental_info", RentalAnswer)
def user_rental_info(
    request: ApiRequest,
    user_id: Annotated[Pk | None, Query(description="For operators: whose; without it one's own.")] = None,
) -> RentalAnswer:
    """What somebody has rented: until when, under which terms, whether it is paused."""
    wanted = user_id or request.user.pk
    now = timezone.now()
    found, spans = _rental_of(request.user, wanted, now)
    if found is None:
        person = find_person(request, user_id)
        return RentalAnswer(message=_("No serial number was redeemed yet."), user_id=person.pk, rental=None)
    said = "" if found.closed_at else time_left(found.ends_at, found.paused_at)
    return RentalAnswer(message=said, user_id=wanted, rental=describe_rental(found, now, spans))


def _find(request: ApiRequest, pk: int) -> Rental:
    found = Rental.objects.visible_to(request.user).select_related("user").filter(pk=pk).first()
    if found is None:
        raise NotFound
    return found


def _answer(request: ApiRequest, pk: int, message: str) -> RentalAnswer:
    found = _find(request, pk)
    shown = describe_rental(found, timezone.now())
    return RentalAnswer(message=message, user_id=found.user_id, rental=shown)


@rental.does("/{rental_id}/pause", RentalAnswer, scope=Scope.OPERATE)
def rental_pause(request: ApiRequest, rental_id: Pk, body: Pausing) -> RentalAnswer:
    """Let a rental's time stand still and stop its relays, for operators; one that is paused stays as it is."""
    found = _find(request, rental_id)
    stopped = stops(found)
    is_new = services.pause_rental(rental=found, by=request.user, reason=body.reason)
    message = paused_sentence(found, stopped) if is_new else _("This rental is paused already.")
    return _answer(request, rental_id, message)


@rental.does("/{rental_id}/resume", RentalAnswer, scope=Scope.OPERATE)
def rental_resume(request: ApiRequest, rental_id: Pk) -> RentalAnswer:
    """Let a paused rental's time run again, for operators; its relays come back. One that is not paused stays as it is."""
    found = _find(request, rental_id)
    is_new = services.resume_rental(rental=found, by=request.user) is not None
    return _answer(request, rental_id, resumed_sentence(found) if is_new else _("This rental is not paused."))
