"""What closing an account means for its rental, and the automatic closing of accounts whose rental ended long ago."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, gettext_noop

from accounts.models import Notice, User
from accounts.services import ClosingRefused, close_account, log_operation, notify
from accounts.sweeps import sweep
from accounts.works import Work, declare
from serials.rentals.models import Redemption, Rental
from serials.rentals.reminders import about
from serials.rentals.services.spans import lock_rental
from serials.rentals.wording import time_left

# So many days before it happens the customer is told that their account will be closed; without 1 they had no day left to act.
WARNING_DAYS = (7, 1)
# A warning must have gone out at least so long before, however late the sweep comes.
FAIR_NOTICE = timedelta(days=1)
# Who waits for a mail to leave, or for what is open to be settled, is looked at again after this time.
LOOK_AGAIN = timedelta(hours=1)
# Nobody closes operators, distributors and banned people by itself; they may become customers again.
NOT_FOR_HIM = timedelta(days=1)
# One sweep takes so many; what is left is taken by the next one.
AT_ONCE = 1000
NOT_RENEWED = gettext_noop("not renewed in time")


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": the rental, while it is open, and what was noted about it."""
    if Rental.objects.filter(user=user, closed_at=None).exists():
        yield _("The rental is not closed yet.")
    elif Redemption.objects.filter(rental__user=user).exclude(note="").exists():
        yield _("The notes about the rental are not deleted yet.")


def closing_losses(user: User) -> Iterator[str]:
    """Answer to "closing_losses": the time that would be lost."""
    rental = Rental.objects.filter(user=user, closed_at=None).first()
    if rental and rental.ends_at and rental.ends_at > (rental.paused_at or timezone.now()):
        left = time_left(rental.ends_at, rental.paused_at)
        yield _("The rest of your rental is lost: %(left)s.") % {"left": left}


def sweep_closing(*, now: datetime) -> None:
    """Warn the customers whose accounts will soon be closed for want of a renewal, and close those whose time is over.

    Nobody is closed who was not given the last warning `FAIR_NOTICE` before: after an outage, in which they could not have renewed,
    it comes first, and only it.
    `settings.CLOSE_AFTER_DAYS` counts from the moment when the relays stopped; with 0 nothing is closed by itself.
    """
    for rentals in due_rentals(now):
        sweep(CLOSING, now=now, rows=rentals)


def due_rentals(now: datetime) -> list[QuerySet[Rental]]:
    """The rentals that ended so long ago that the first warning is due, without those that can wait.

    Two queries, each of one index: those not looked at before, and those whose next moment has come. None where nothing is closed by
    itself.
    """
    if not settings.CLOSE_AFTER_DAYS:
        return []
    since = now - timedelta(days=settings.CLOSE_AFTER_DAYS) + timedelta(days=max(WARNING_DAYS))
    ended = Rental.objects.filter(status=Rental.Status.EXPIRED, runs_until__lte=since)
    return [
        ended.filter(closing_due_at=None).order_by("runs_until"),
        ended.filter(closing_due_at__lte=now).order_by("closing_due_at"),
    ]


@transaction.atomic
def _look_at(rental_pk: int, now: datetime) -> bool:
    """Warn, close or wait, and note when to look again, in one transaction: killed, doubled or late, each is done once."""
    rental = lock_rental(rental_pk)
    due_at = rental.closing_due_at
    if rental.status != Rental.Status.EXPIRED or (due_at is not None and due_at > now):
        return False
    Rental.objects.filter(pk=rental_pk).update(closing_due_at=_step(rental, now))
    return True


def _step(rental: Rental, now: datetime) -> datetime:
    """Do what is due for an ended rental, and say when to look again."""
    closes_at = rental.closes_at
    if closes_at is None:
        return now + NOT_FOR_HIM
    moments = {days: closes_at - timedelta(days=days) for days in WARNING_DAYS}
    days = min((days for days, moment in moments.items() if moment <= now), default=None)
    if days is None:  # the setting was raised meanwhile
        return min(moments.values())
    told = Notice.objects.filter(
        user=rental.user, channel=Notice.By.EMAIL, key__startswith=_key(rental, days)
    ).exclude(state=Notice.State.DROPPED)
    if not told:
        # What waits longer than it is true is dropped, and told anew.
        promised = max(closes_at, now + FAIR_NOTICE)
        later = [moment for moment in moments.values() if moment > now]
        _warn(rental, days, promised, fits_until=min(later, default=promised))
    elif now >= closes_at and any(_was_told(notice, now) for notice in told):
        _close(rental)
    return min(
        (moment for moment in (*moments.values(), closes_at) if moment > now), default=now + LOOK_AGAIN
    )


def _key(rental: Rental, days: int) -> str:
    """How the keys of this warning begin; one that is told anew promises another day, and its key ends in that."""
    return f"{about(rental)}account_closing-{days}"


def _was_told(notice: Notice, now: datetime) -> bool:
    """Whether the warning left long enough ago. One that could not be sent counts from when it was to be."""
    if notice.state in {Notice.State.WAITING, Notice.State.SENDING}:
        return False
    return (notice.sent_at or notice.created_at) <= now - FAIR_NOTICE


def _warn(rental: Rental, days: int, closes_at: datetime, *, fits_until: datetime) -> None:
    notify(
        user=rental.user,
        kind="account_closing",
        key=f"{_key(rental, days)}-{timezone.localdate(closes_at):%Y%m%d}",
        context={
            "closes_at": closes_at,
            "ends_at": rental.ends_at,
            "url": settings.PUBLIC_URL + reverse("serials:rental-renew"),
        },
        fits_until=fits_until,
    )


def _close(rental: Rental) -> None:
    try:
        close_account(user=rental.user, by=None, reason=NOT_RENEWED)
    except ClosingRefused as refusal:
        _tell_admins(rental, refusal)


def _tell_admins(rental: Rental, refusal: ClosingRefused) -> None:
    """Once for each end: the account stays until a person has settled what is open, or it settles itself."""
    told = []
    for admin in User.objects.filter(role__in=[User.Role.ADMIN, User.Role.SUPERADMIN], is_active=True):
        with translation.override(admin.language):
            reasons = [str(reason) for reason in refusal.reasons]
        told += notify(
            user=admin,
            kind="account_closing_refused",
            key=f"{about(rental)}account_closing_refused",
            # No name or address of the customer: this row outlives their account.
            context={
                "account": rental.user_id,
                "reasons": reasons,
                "url": f"{settings.PUBLIC_URL}{reverse('admin:accounts_user_change', args=[rental.user_id])}?tab=account",
            },
        )
    if told:
        reasons = [str(reason) for reason in refusal.reasons]
        log_operation(
            by=None, action="user.closing_refused", target=f"#{rental.user_id}", subject=rental.user,
            is_success=False, reasons=reasons,
        )  # fmt: skip


def _due(now: datetime) -> QuerySet[Rental]:
    due = Q(pk__in=[])
    for rentals in due_rentals(now):
        due |= Q(pk__in=rentals.order_by().values("pk"))
    return Rental.objects.filter(due)


CLOSING = declare(
    Work(
        name="automatic closing",
        title=gettext_lazy("Closing of accounts that were not renewed"),
        model=Rental,
        whose="user__email",
        due=_due,
        do=lambda pks, now: sum(_look_at(pk, now) for pk in pks),
        limit=AT_ONCE,
    )
)
