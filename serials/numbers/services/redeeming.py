"""From a code to time: looking it up, showing what it would do, redeeming it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from accounts.services import log_operation
from derpmgmt.lib.refusals import Refusal
from serials.numbers import codes
from serials.numbers.models import SerialBatch, SerialNumber
from serials.numbers.services.batches import code_hash, today
from serials.numbers.services.refusals import (
    AlreadyRedeemed,
    SerialExpired,
    SerialMistyped,
    SerialRecalled,
    SerialRefused,
    SerialUnknown,
    SerialUnpaid,
    SerialUsed,
)
from serials.rentals import schedule
from serials.rentals.models import Redemption, Rental
from serials.rentals.services.life import grant_days
from serials.rentals.services.spans import Terms, read_schedule


def _refusal(serial: SerialNumber, user: User | None, now: datetime) -> SerialRefused | None:
    status = SerialNumber.Status
    match serial.status:
        case status.USED:
            redemption = serial.redemption
            if redemption is None or user is None or redemption.rental.user_id != user.pk:
                return SerialUsed()
            return AlreadyRedeemed(day=timezone.localdate(redemption.at).isoformat())
        case status.RECALLED:
            return SerialRecalled()
    redeem_by = serial.batch.redeem_by
    if serial.status == status.EXPIRED or (redeem_by is not None and redeem_by < today(now)):
        return SerialExpired(day=redeem_by.isoformat() if redeem_by else "–")
    return None if serial.batch.is_paid else SerialUnpaid()


def find_serial(code: str, *, user: User | None = None) -> SerialNumber:
    """The serial number of a typed code, with its batch, when it can be redeemed now.

    `user` lets a serial number that they redeemed themselves be told from one that somebody else used. Raises `SerialMistyped`,
    `SerialUnknown`, `SerialUsed` (`AlreadyRedeemed`), `SerialExpired`, `SerialRecalled` or `SerialUnpaid`.
    """
    serial = serial_of(code)
    if refusal := _refusal(serial, user, timezone.now()):
        raise refusal
    return serial


def serial_of(code: str) -> SerialNumber:
    """The serial number of a typed code, in whatever state, with its batch and redemption. Raises `SerialMistyped`, `SerialUnknown`."""
    if not codes.is_well_typed(code):
        raise SerialMistyped
    by_hash = SerialNumber.objects.filter(code_hash=code_hash(codes.normalize(code)))
    serial = by_hash.select_related("batch", "redemption__rental").first()
    if serial is None:
        raise SerialUnknown
    return serial


def look_up_serial(
    *, code: str, user: User, ip: str | None = None
) -> tuple[SerialNumber, SerialRefused | None]:
    """The serial number of a typed code, with its batch and redemption, and why `user` cannot redeem it now (None: they can).

    What somebody else redeemed is shown to operators only, to others it is as unknown as one that was never issued. Raises
    `SerialMistyped`, `SerialUnknown`, which are written to the activity log.
    """
    try:
        serial = serial_of(code)
        refusal = _refusal(serial, user, timezone.now())
        if type(refusal) is SerialUsed and not user.is_staff:
            raise SerialUnknown
    except SerialRefused as refused:
        _log_refusal(refused, code=code, user=user, by=user, ip=ip)
        raise
    return serial, refusal


def check_serial(*, code: str, user: User | None, ip: str | None = None) -> SerialNumber:
    """`find_serial` for a page: a refusal is written to the activity log. `user` None is a visitor."""
    try:
        return find_serial(code, user=user)
    except SerialRefused as refusal:
        _log_refusal(refusal, code=code, user=user, by=user, ip=ip)
        raise


def _log_refusal(refusal: Refusal, *, code: str, user: User | None, by: User | None, ip: str | None) -> None:
    normalized = codes.normalize(code)
    log_operation(
        by=by, action="serial.refused", target=f"••••-{normalized[-4:]}", subject=user, is_success=False, ip=ip,
        reason=refusal.code, code_hash=code_hash(normalized)[:12],
    )  # fmt: skip


@dataclass(frozen=True)
class Stretch:
    """A part of the schedule that a person is shown: what runs from when to when, and whether it is what they buy now."""

    starts_at: datetime
    ends_at: datetime
    terms: Terms
    is_new: bool


@dataclass(frozen=True)
class Preview:
    """What redeeming would do. The new end is the same whether the new time starts now or afterwards.

    `paused_at` is set while the rental is paused: both ends then move on. `is_different` says that the person may choose, because what is left has another entitlement; `afterwards` and
    `immediately` are then the two orders, from now on.
    """

    days: int
    terms: Terms
    old_ends_at: datetime | None
    new_ends_at: datetime
    paused_at: datetime | None
    is_different: bool
    afterwards: tuple[Stretch, ...]
    immediately: tuple[Stretch, ...]


def preview_redemption(*, serial: SerialNumber, user: User, now: datetime) -> Preview:
    """What redeeming `serial` at `now` would do to the rental of `user`; nothing is written."""
    rental = Rental.objects.filter(user=user).first()
    spans = read_schedule(rental) if rental else ()
    at = rental.paused_at or now if rental else now
    new_terms = Terms.of(serial.batch)
    length = timedelta(days=serial.batch.days)
    _, left = schedule.split(spans, at)

    def shown_to_people(spans: schedule.Spans) -> tuple[Stretch, ...]:
        shown: list[Stretch] = []
        for span in schedule.split(spans, at)[1]:
            assert isinstance(span.entitlement, Terms)
            terms, is_new, starts_at = span.entitlement, span.redemption == schedule.NEW, span.starts_at
            if shown and (shown[-1].terms, shown[-1].is_new) == (terms, is_new):
                starts_at = shown.pop().starts_at
            shown.append(Stretch(starts_at, span.ends_at, terms=terms, is_new=is_new))
        return tuple(shown)

    afterwards = schedule.add(spans, at=at, length=length, entitlement=new_terms)
    return Preview(
        days=serial.batch.days,
        terms=new_terms,
        old_ends_at=rental.ends_at if rental else None,
        new_ends_at=afterwards[-1].ends_at,
        paused_at=rental.paused_at if rental else None,
        is_different=any(span.entitlement != new_terms for span in left),
        afterwards=shown_to_people(afterwards),
        immediately=shown_to_people(schedule.start_now(spans, at=at, length=length, entitlement=new_terms)),
    )


def redeem_serial(
    *, code: str, user: User, by: User | None, ip: str | None = None, start_now: bool = False
) -> Redemption:
    """Give `user` the days of the serial number; whatever the race, one call succeeds and each other is refused.

    The new time starts at the later of now (or the pause's begin) and the rental's end, or with `start_now` at once, and what is
    left of the old follows. Raises `SerialRefused` in its kinds, and `AccountBarred`; refusals are logged, so call it
    outside of a transaction. Announces `rental_changed`.
    """
    try:
        serial = find_serial(code, user=user)
        with transaction.atomic():
            return _redeem(serial=serial, user=user, by=by, ip=ip, start_now=start_now)
    except Refusal as refusal:
        _log_refusal(refusal, code=code, user=user, by=by, ip=ip)
        raise


def _redeem(
    *, serial: SerialNumber, user: User, by: User | None, ip: str | None, start_now: bool
) -> Redemption:
    # Locked before the serial number, so that two of one person's redemptions queue up here.
    owner = User.objects.select_for_update().get(pk=user.pk)
    now = timezone.now().replace(microsecond=0)
    _claim(serial, owner, now)
    redemption = grant_days(
        user=owner,
        days=serial.batch.days,
        terms=Terms.of(serial.batch),
        kind=Redemption.Kind.SERIAL,
        by=by,
        start_now=start_now,
        now=now,
    )
    SerialNumber.objects.filter(pk=serial.pk).update(redemption=redemption)
    log_operation(
        by=by, action="serial.redeemed", target=serial, subject=owner, ip=ip, days=serial.batch.days,
        batch=serial.batch_id, code_hash=serial.code_hash[:12], start_now=start_now,
        old_ends_at=redemption.old_ends_at and redemption.old_ends_at.isoformat(),
        new_ends_at=redemption.new_ends_at.isoformat(),
    )  # fmt: skip
    return redemption


def _claim(serial: SerialNumber, user: User, now: datetime) -> None:
    """Take the unused serial number of a batch that may be redeemed; this one conditional UPDATE decides who wins."""
    # Locked, so that whoever sets the batch back to unpaid comes wholly before or wholly after: then it finds this redemption.
    batch = SerialBatch.objects.select_for_update().get(pk=serial.batch_id)
    if batch.is_paid and (batch.redeem_by is None or batch.redeem_by >= today(now)):
        unused = SerialNumber.objects.unused().filter(pk=serial.pk)
        if unused.update(status=SerialNumber.Status.USED, redeemed_at=now):
            return
    late = SerialNumber.objects.select_related("batch", "redemption__rental").get(pk=serial.pk)
    raise _refusal(late, user, now) or SerialUsed()
