"""What closing an account means for its rental, and the automatic closing of accounts whose rental ended long ago."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone, translation
from django.utils.translation import gettext as _
from django.utils.translation import gettext_noop

from accounts.models import Notice, User
from accounts.services import ClosingRefused, close_account, log_operation, notify
from serials.models import Rental
from serials.reminders import about
from serials.services.rentals import lock_rental

# So many days before it happens the customer is told that his account will be closed; without 1 he had no day left to act.
WARNING_DAYS = (7, 1)
# A warning must have gone out at least so long before, however late the sweep comes.
FAIR_NOTICE = timedelta(days=1)
NOT_RENEWED = gettext_noop("not renewed in time")


def closing_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": the rental, while it is open."""
    if Rental.objects.filter(user=user, closed_at=None).exists():
        yield _("The rental is not closed yet.")


def closing_losses(user: User) -> Iterator[str]:
    """Answer to "closing_losses": the time that would be lost."""
    rental = Rental.objects.filter(user=user, closed_at=None).first()
    if rental and rental.ends_at and rental.ends_at > (at := rental.paused_at or timezone.now()):
        yield _("%(days)s days of the rental are left. They are lost.") % {"days": (rental.ends_at - at).days}


def sweep_closing(*, now: datetime) -> None:
    """Warn the customers whose accounts will soon be closed for want of a renewal, and close those whose time is over.

    Nobody is closed who was not warned `FAIR_NOTICE` before: after an outage the warning comes first, and one only.
    `settings.CLOSE_AFTER_DAYS` counts from the moment when the relays stopped; with 0 nothing is closed by itself.
    """
    if not settings.CLOSE_AFTER_DAYS:
        return
    due = _due(now)
    warnings: dict[int, list[Notice]] = defaultdict(list)
    given = Notice.objects.filter(kind="account_closing", channel=Notice.By.EMAIL)
    for notice in given.filter(user__rental__in=due):
        warnings[notice.user_id].append(notice)
    for rental in due:
        of_this_end = {notice.key: notice for notice in warnings[rental.user_id]}
        given_days = {
            days: of_this_end[key] for days in WARNING_DAYS if (key := _key(rental, days)) in of_this_end
        }
        closes_at = _closes_at(rental)
        days = min(days for days in WARNING_DAYS if closes_at - timedelta(days=days) <= now)
        if not given_days or (now < closes_at and days < min(given_days)):
            _warn(rental, days, max(closes_at, now + FAIR_NOTICE))
        elif now >= closes_at and any(_was_told(notice, now) for notice in given_days.values()):
            _close(rental)


def _due(now: datetime) -> QuerySet[Rental]:
    """Customers' rentals that ended so long ago that the first warning is due; read from one index."""
    since = now - timedelta(days=settings.CLOSE_AFTER_DAYS) + timedelta(days=max(WARNING_DAYS))
    expired = Rental.objects.filter(status=Rental.Status.EXPIRED, runs_until__lte=since)
    return expired.filter(user__role=User.Role.USER, user__is_active=True).select_related("user")


def _closes_at(rental: Rental) -> datetime:
    assert rental.runs_until is not None
    return rental.runs_until + timedelta(days=settings.CLOSE_AFTER_DAYS)


def _key(rental: Rental, days: int) -> str:
    return f"{about(rental)}account_closing-{days}"


def _was_told(notice: Notice, now: datetime) -> bool:
    """Whether the warning left long enough ago. One that could not be sent counts from when it was to be."""
    if notice.state in {Notice.State.WAITING, Notice.State.SENDING}:
        return False
    return (notice.sent_at or notice.created_at) <= now - FAIR_NOTICE


def _is_as_seen(rental: Rental, seen: Rental) -> bool:
    return (rental.status, rental.runs_until) == (seen.status, seen.runs_until) and rental.user.is_active


def _warn(seen: Rental, days: int, closes_at: datetime) -> None:
    with transaction.atomic():
        rental = lock_rental(seen.pk)
        if _is_as_seen(rental, seen):
            notify(
                user=rental.user,
                kind="account_closing",
                key=_key(rental, days),
                context={
                    "closes_at": closes_at,
                    "ends_at": seen.ends_at,
                    "url": settings.PUBLIC_URL + reverse("serials:serial-redeem"),
                },
            )


def _close(seen: Rental) -> None:
    try:
        with transaction.atomic():
            rental = lock_rental(seen.pk)
            if _is_as_seen(rental, seen):
                close_account(user=rental.user, by=None, reason=NOT_RENEWED)
    except ClosingRefused as refusal:
        _tell_admins(seen, refusal)


@transaction.atomic
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
            # No name or address of the customer: this row outlives his account.
            context={
                "account": rental.user_id,
                "reasons": reasons,
                "url": settings.PUBLIC_URL + reverse("admin:accounts_user_change", args=[rental.user_id]),
            },
        )
    if told:
        reasons = [str(reason) for reason in refusal.reasons]
        log_operation(
            by=None, action="user.closing_refused", target=f"#{rental.user_id}", subject=rental.user,
            is_success=False, reasons=reasons,
        )  # fmt: skip
