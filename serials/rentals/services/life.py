"""What happens to a rental: more time, pause and resume, the end, closing."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import OperationLog, User
from accounts.services import NotAllowed, log_line, log_lines, log_operation
from accounts.sweeps import sweep
from accounts.works import Work, declare
from derpmgmt.lib import queue
from derpmgmt.lib.lines import one_line
from serials.rentals import reminders, schedule
from serials.rentals.models import Redemption, Rental, TrafficGrant
from serials.rentals.services.notices import tell
from serials.rentals.services.refusals import (
    AccountBarred,
    AccountClosed,
    NothingToPause,
    NothingToRenew,
    NotLater,
    RentalClosed,
    TooFar,
)
from serials.rentals.services.spans import (
    Terms,
    lock_rental,
    read_schedule,
    request_plan,
    request_plans,
    write_schedule,
)

# Nobody renews further ahead: a typed year that is wrong shall not last for ever.
LONGEST_RENEWAL = timedelta(days=3660)
# So many ended rentals are recorded in one transaction.
_SWEEP_AT_ONCE = 100


def _ask_staff(by: User | None) -> None:
    if by is not None and not (by.is_staff and by.is_active):
        raise NotAllowed(_("Only admins change a customer's rental."))


def _now() -> datetime:
    # Schedules have whole seconds: what pages show and what is granted add up.
    return timezone.now().replace(microsecond=0)


def _lock_open(rental: Rental) -> Rental:
    """The rental's row, locked, of an account that goes on; raises `AccountClosed` or `RentalClosed`."""
    rental = lock_rental(rental.pk)
    _ask_account_open(rental.user)
    if rental.closed_at is not None:
        raise RentalClosed
    return rental


def _ask_account_open(owner: User) -> None:
    if owner.closing_at or owner.closed_at:
        raise AccountClosed


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


# More time


def grant_days(
    *,
    user: User,
    days: int,
    terms: Terms,
    kind: Redemption.Kind,
    by: User | None,
    note: str = "",
    start_now: bool = False,
    now: datetime | None = None,
) -> Redemption:
    """Give `user` whole days under `terms`, for whatever they redeemed or paid; call inside a transaction.

    The time starts at the later of now (or the pause's begin) and the end; with `start_now` at once, and what is left follows.
    Makes the rental when it is their first time; tells them. Raises `AccountBarred`. Announces `rental_changed`.
    """
    # Locked first: a ban or another redemption of the same person comes wholly before or wholly after.
    owner = User.objects.select_for_update().get(pk=user.pk)
    _ask_account_open(owner)
    if not owner.is_active:
        raise AccountBarred
    now = now or _now()
    rental, _is_new = Rental.objects.get_or_create(user=owner)
    rental = lock_rental(rental.pk)
    if rental.closed_at is not None:
        raise AccountBarred
    spans = read_schedule(rental)
    at = rental.paused_at or now
    _start_waiting(rental, at)
    add = schedule.start_now if start_now else schedule.add
    length = timedelta(days=days)
    renewed = add(spans, at=at, length=length, entitlement=terms)
    was_over = _is_over(rental, at)
    redemption = write_schedule(
        rental=rental,
        spans=renewed,
        kind=kind,
        granted=length,
        now=now,
        by=by,
        note=note,
    )
    if redemption.old_ends_at is None:
        tell(redemption, "rental_redeemed")
    else:
        is_changed = schedule.ruling(spans, at) != schedule.ruling(renewed, at)
        tell(redemption, "rental_renewed", was_over=was_over, is_changed=is_changed)
    return redemption


def _is_over(rental: Rental, at: datetime) -> bool:
    """Whether the relays had been stopped by `at` because the time, with its grace, was over."""
    return rental.runs_until is not None and rental.runs_until <= at


@transaction.atomic
def renew_rental(*, rental: Rental, until: datetime, by: User | None, note: str = "") -> Redemption:
    """Let the rental run until `until` with the terms it had last; never shortens. `by` None is the console.

    While it is paused its time does not run, so this end moves on, like all that lies behind the pause, by the pause's length.

    Raises `NotAllowed` and, in its kinds, `RentalRefused`: an end that is not later, so a doubled click too, changes nothing.
    Announces `rental_changed`.
    """
    _ask_staff(by)
    note = one_line(note)
    now, until = _now(), until.replace(microsecond=0)
    rental = _lock_open(rental)
    if until <= now:
        raise NotLater
    if until > now + LONGEST_RENEWAL:
        raise TooFar
    spans = read_schedule(rental)
    at = rental.paused_at or now
    try:
        renewed = schedule.renew_until(spans, at=at, until=until)
    except schedule.NoEntitlement:
        raise NothingToRenew from None
    if renewed == spans:
        raise NotLater
    _start_waiting(rental, at)
    was_over = _is_over(rental, at)
    redemption = write_schedule(
        rental=rental,
        spans=renewed,
        kind=Redemption.Kind.RENEWAL,
        granted=schedule.total(renewed) - schedule.total(spans),
        now=now,
        by=by,
        note=note[:200],
    )
    log_operation(
        by=by, action="rental.renewed", target=rental, subject=rental.user, note=note,
        old_ends_at=_iso(redemption.old_ends_at), new_ends_at=_iso(redemption.new_ends_at),
    )  # fmt: skip
    tell(redemption, "rental_renewed", was_over=was_over)
    return redemption


def _start_waiting(rental: Rental, at: datetime) -> None:
    """When nothing was running and no relay of theirs is, time is lost until their first one is proven: note since when.

    What an earlier time lost that ended before its first relay is kept: the moment is moved back by as much.
    """
    if rental.ends_at is not None and rental.ends_at > at:
        return
    if _has_running(rental):
        return
    lost = timedelta()
    if rental.waiting_since is not None and rental.ends_at is not None:
        lost = max(rental.ends_at - rental.waiting_since, lost)
    rental.waiting_since = at - lost
    rental.save(update_fields=["waiting_since"])


def _has_running(rental: Rental) -> bool:
    return any(queue.ask("has_running_relay", rental_pk=rental.pk))


# Pause and resume


@transaction.atomic
def pause_rental(*, rental: Rental, by: User | None, reason: str = "") -> bool:
    """Let the rental's time stand still and stop its relays; False when it is paused already.

    Raises `NotAllowed` and, in its kinds, `RentalRefused`. Announces `rental_changed`.
    """
    _ask_staff(by)
    reason = one_line(reason)
    now = _now()
    rental = _lock_open(rental)
    if rental.paused_at is not None:
        return False
    if rental.ends_at is None or rental.ends_at <= now:
        raise NothingToPause
    rental.paused_at, rental.status = now, Rental.Status.PAUSED
    reminders.hold_back(rental, now)
    rental.save(update_fields=["paused_at", "status", "remind_at"])
    request_plan(rental_pk=rental.pk, now=now)
    entry = log_operation(
        by=by, action="rental.paused", target=rental, subject=rental.user, reason=reason, ends_at=_iso(rental.ends_at)
    )  # fmt: skip
    tell(rental, "rental_paused", key=entry.pk, reason=reason)
    return True


@dataclass(frozen=True)
class Pause:
    """The pause that lasts: since when, by whom (None: the console), and why ("" when nobody said)."""

    at: datetime
    by: User | None
    reason: str

    @property
    def who(self) -> str:
        """By whom, for operators; to customers it is always the operator."""
        return self.by.email if self.by else _("the system or the console")


def current_pause(rental: Rental) -> Pause | None:
    """Who paused the rental when and why, for pages; None when it is not paused. Customers are not told which admin it was."""
    if rental.paused_at is None:
        return None
    paused = OperationLog.objects.filter(subject=rental.user_id, action="rental.paused")
    entry = paused.select_related("actor").order_by("-pk").first()
    return Pause(
        rental.paused_at, entry.actor if entry else None, entry.detail.get("reason", "") if entry else ""
    )


@transaction.atomic
def resume_rental(*, rental: Rental, by: User | None) -> Redemption | None:
    """Let the rental's time run again: all that was left at the pause's begin is left now. None when it is not paused.

    Time until the first relay is back is given back, as after a redemption. Raises `NotAllowed` and, in its kinds,
    `RentalRefused`. Announces `rental_changed`.
    """
    _ask_staff(by)
    now = _now()
    rental = _lock_open(rental)
    paused_at = rental.paused_at
    if paused_at is None:
        return None
    now = max(now, paused_at)
    rental.paused_at, rental.status = None, Rental.Status.ACTIVE
    if rental.waiting_since is not None:
        rental.waiting_since += now - paused_at
    elif rental.stopped_at is None and not _has_running(rental):
        rental.waiting_since = now
    rental.save(update_fields=["paused_at", "status", "waiting_since"])
    redemption = write_schedule(
        rental=rental,
        spans=schedule.resume(read_schedule(rental), paused_at=paused_at, now=now),
        kind=Redemption.Kind.RESUMED,
        granted=timedelta(),
        now=now,
        by=by,
    )
    log_operation(
        by=by, action="rental.resumed", target=rental, subject=rental.user, paused_at=_iso(paused_at),
        old_ends_at=_iso(redemption.old_ends_at), new_ends_at=_iso(redemption.new_ends_at),
    )  # fmt: skip
    tell(redemption, "rental_resumed")
    return redemption


# The end


@transaction.atomic
def close_rental(*, rental: Rental, by: User | None) -> bool:
    """End the rental for good: its relays are released, its history stays, but no note in it, which may name the person.

    False when it is closed already.

    Raises `NotAllowed` when somebody who is not staff closes another's rental. Announces `rental_changed`.
    """
    if by is not None and by.pk != rental.user_id:
        _ask_staff(by)
    now = _now()
    rental = lock_rental(rental.pk)
    Redemption.objects.filter(rental=rental).exclude(note="").update(note="")
    TrafficGrant.objects.filter(rental=rental).exclude(note="").update(note="")
    Rental.objects.filter(pk=rental.pk).exclude(cap_note="").update(cap_note="")
    if rental.closed_at is not None:
        return False
    rental.closed_at, rental.status = now, Rental.Status.CLOSED
    rental.save(update_fields=["closed_at", "status"])
    request_plan(rental_pk=rental.pk, now=now)
    log_operation(
        by=by, action="rental.closed", target=rental, subject=rental.user, ends_at=_iso(rental.ends_at)
    )
    return True


def sweep_rentals(*, now: datetime) -> int:
    """Record the rentals whose end, with its grace, has come as expired; returns how many.

    Rights end by the clock and not by this; however late or often it runs, each end is recorded once. Announces
    `rental_changed`.
    """
    return sweep(ENDS, now=now)


@transaction.atomic
def _expire(due: Sequence[int], now: datetime) -> int:
    # Owners before rentals, each in one order, as everybody locks them (`lock_rental`).
    owner_pks = list(Rental.objects.filter(pk__in=due).values_list("user_id", flat=True))
    owners = User.objects.select_for_update().filter(pk__in=owner_pks).order_by("pk")
    by_pk = {owner.pk: owner for owner in owners}
    # Looked at again under the lock: a renewal may have come between, or another sweep.
    locked = Rental.objects.select_for_update().filter(pk__in=due).order_by("pk")
    over = [
        rental
        for rental in locked
        if rental.status == Rental.Status.ACTIVE and rental.runs_until and rental.runs_until <= now
    ]
    Rental.objects.filter(pk__in=[rental.pk for rental in over]).update(status=Rental.Status.EXPIRED)
    request_plans(rental_pks=[rental.pk for rental in over], now=now)
    log_lines(
        log_line(
            by=None, action="rental.expired", target=by_pk[rental.user_id], subject=by_pk[rental.user_id],
            ends_at=_iso(rental.ends_at), runs_until=_iso(rental.runs_until),
        )
        for rental in over
    )  # fmt: skip
    return len(over)


ENDS = declare(
    Work(
        name="ended rentals",
        title=gettext_lazy("Recording the end of rentals"),
        model=Rental,
        whose="user__email",
        due=lambda now: Rental.objects.due(now).order_by("runs_until"),
        do=_expire,
        together=_SWEEP_AT_ONCE,
    )
)
