"""Which reminder a rental's customer gets when: some days before the end, and at the end.

`Rental.remind_at` is the moment of the next one. It is set whenever the end moves and moved on by the sweep, so the sweep reads
the due rentals from one index, however many rentals there are. A reminder whose moment lay before the end was set is not sent,
and of those that a sleeping sweep has missed only the last one is: it is the one that fits now.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse
from django.utils import timezone

from accounts.models import User
from accounts.services import drop_notices, notify
from serials.models import Rental

REMINDERS = frozenset({"rental_ending", "rental_ended"})
# One sweep takes so many; what is left is taken by the next one, seconds later.
AT_ONCE = 1000


@dataclass(frozen=True)
class Reminder:
    """One reminder of a rental: from `at` on it fits, until the next one does. `name` tells it from the others of the end."""

    at: datetime
    kind: str
    name: str


def plan_reminders(rental: Rental) -> list[Reminder]:
    """All reminders of the rental's present end, in order of time."""
    if rental.ends_at is None:
        return []
    ending = [
        Reminder(rental.ends_at - timedelta(days=days), "rental_ending", f"-{days}")
        for days in sorted(settings.REMINDER_DAYS, reverse=True)
    ]
    return [*ending, Reminder(rental.ends_at, "rental_ended", "")]


def set_reminders(rental: Rental, now: datetime) -> None:
    """The end has moved: note (in `rental`, which the caller saves) when its next reminder is due, take back those of the old.

    A reminder whose moment lay before now is not for this end: who redeems three days is not told first that seven are left.
    """
    rental.remind_at = next((reminder.at for reminder in plan_reminders(rental) if reminder.at >= now), None)
    rental.closing_due_at = None
    drop_notices(user=rental.user, kinds=REMINDERS | {"account_closing"}, but_keys=about(rental))


def hold_back(rental: Rental, now: datetime) -> None:
    """A pause begins: what still waits to be sent about the end is no longer true.

    Until the pause is over `remind_at` (in `rental`, which the caller saves) stays at the reminder that has not been sent.
    """
    if drop_notices(user=rental.user, kinds=REMINDERS):
        rental.remind_at = _last(rental, now)


def is_held_back(rental: Rental) -> bool:
    """Whether a reminder of a paused rental was due, but not sent, when the pause began."""
    due_at, paused_at = rental.remind_at, rental.paused_at
    return due_at is not None and paused_at is not None and due_at <= paused_at


def catch_up(rental: Rental, now: datetime) -> None:
    """A pause is over whose begin held a reminder back: it is due at once, for the new end."""
    rental.remind_at = _last(rental, now)
    rental.save(update_fields=["remind_at"])


def _last(rental: Rental, now: datetime) -> datetime | None:
    """The moment of the last reminder that fits at `now`."""
    return max(
        (reminder.at for reminder in plan_reminders(rental) if reminder.at <= now), default=rental.remind_at
    )


def about(rental: Rental) -> str:
    """How the keys of what is told about this end begin. By the day: an end that moves by seconds is still the same one."""
    assert rental.ends_at is not None
    return f"rental-{rental.pk}-{timezone.localdate(rental.ends_at):%Y%m%d}-"


def send_reminders(now: datetime) -> int:
    """Write the notices that are due at `now` and note for each rental when its next one is; returns how many were written.

    Notice and next moment are written in one transaction, and a notice's key names rental, end date and reminder: killed,
    doubled or late, it sends each at most once for one end date.
    """
    due = Rental.objects.filter(remind_at__lte=now, paused_at=None).order_by("remind_at")
    return sum(_remind(pk, now) for pk in list(due.values_list("pk", flat=True)[:AT_ONCE]))


@transaction.atomic
def _remind(pk: int, now: datetime) -> bool:
    # The owner's row first, as wherever both are locked.
    user = User.objects.select_for_update().get(pk=Rental.objects.values_list("user_id").get(pk=pk)[0])
    rental = Rental.objects.select_for_update().get(pk=pk)
    if rental.remind_at is None or rental.remind_at > now or rental.paused_at:
        return False
    since, reminders = rental.remind_at, plan_reminders(rental)
    fitting = [reminder for reminder in reminders if since <= reminder.at <= now]
    Rental.objects.filter(pk=pk).update(
        remind_at=next((reminder.at for reminder in reminders if reminder.at > now), None)
    )
    if not fitting or rental.closed_at or user.closing_at or not user.is_active:
        return False
    reminder = fitting[-1]
    later = [other.at for other in reminders if other.at > reminder.at]
    closes_at = rental.closes_at
    told = notify(
        user=user,
        kind=reminder.kind,
        key=f"{about(rental)}{reminder.kind}{reminder.name}",
        context={
            "ends_at": rental.ends_at,
            "runs_until": rental.runs_until,
            # After a long outage that moment may be past; nobody is closed before he was warned once more.
            "closes_at": closes_at and max(closes_at, now),
            "url": settings.PUBLIC_URL + reverse("serials:serial-redeem"),
        },
        # Should it wait so long, the next one is sent in its place.
        fits_until=later[0] if later else None,
    )
    return bool(told)
