"""Which reminder a rental's customer gets when: some days before the end, and at the end.

`Rental.remind_at` is the moment of the next one. It is set whenever the end moves and moved on by the sweep, so the sweep reads
the due rentals from one index, however many rentals there are. A reminder whose moment lay before the end was set is not sent,
and of those that a sleeping sweep has missed only the last one is: it is the one that fits now.

An end has a name (`Rental.end_name`), from which the keys of what is told about it are made: the redemption that set it. It keeps
that name where it only comes later because waiting time is given back or a pause is over, so nothing is told twice. Time
that is granted or refunded makes another end, even on the same day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext_lazy

from accounts.models import User
from accounts.services import Message, drop_notices, notify_all
from accounts.sweeps import sweep
from accounts.works import Work, declare
from serials.rentals.models import Redemption, Rental

REMINDERS = frozenset({"rental_ending", "rental_ended"})
# What is true only when the end has come.
IT_IS_OVER = frozenset({"rental_ended", "account_closing"})
# Waiting time given back moves the end; by so much, and it is another one.
ANOTHER_END = timedelta(days=1)
# So many are reminded in one transaction.
_TOGETHER = 100
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


def set_reminders(rental: Rental, moved_by: Redemption, now: datetime) -> None:
    """`moved_by` has moved the end: note (in `rental`, which the caller saves) its name and when its next reminder is due.

    What was to be told about another end is taken back, and a reminder whose moment lay before now is not for a new one: who
    redeems three days is not told first that seven are left. Where the same end has only come later, its reminders come later.
    """
    at = rental.paused_at or now
    due_at = next((reminder.at for reminder in plan_reminders(rental) if reminder.at >= at), None)
    old = moved_by.old_ends_at
    if old is not None and _is_same_end(moved_by):
        rental.end_name = rental.end_name or _by_day(old)
        drop_notices(user=rental.user, kinds=IT_IS_OVER)
        if rental.remind_at is not None:
            moved = rental.remind_at + (moved_by.new_ends_at - old)
            due_at = min(moved, due_at or moved)
    else:
        rental.end_name = f"r{moved_by.pk}"
        drop_notices(user=rental.user, kinds=REMINDERS | IT_IS_OVER)
    rental.remind_at = due_at
    rental.closing_due_at = None


def _is_same_end(moved_by: Redemption) -> bool:
    """Whether the end is still the one that the customer was told about: nobody gave or took time, it only went by unused.

    A day given back is so much that they are told anew.
    """
    if moved_by.kind == Redemption.Kind.WAITING:
        assert moved_by.old_ends_at is not None
        return moved_by.new_ends_at - moved_by.old_ends_at < ANOTHER_END
    return moved_by.kind == Redemption.Kind.RESUMED


def hold_back(rental: Rental, now: datetime) -> None:
    """A pause begins: what still waits to be sent about the end is no longer true.

    `remind_at` (in `rental`, which the caller saves) stays at, or goes back to, the reminder that has not been sent: after the
    pause it is due at once.
    """
    if drop_notices(user=rental.user, kinds=REMINDERS):
        rental.remind_at = max(
            (reminder.at for reminder in plan_reminders(rental) if reminder.at <= now),
            default=rental.remind_at,
        )


def about(rental: Rental) -> str:
    """How the keys of what is told about this end begin."""
    assert rental.ends_at is not None
    return f"rental-{rental.pk}-{rental.end_name or _by_day(rental.ends_at)}-"


def _by_day(ends_at: datetime) -> str:
    return f"{timezone.localdate(ends_at):%Y%m%d}"


def send_reminders(now: datetime) -> int:
    """Write the notices that are due at `now` and note for each rental when its next one is; returns how many were written.

    Notice and next moment are written in one transaction, and a notice's key names rental, end and reminder: killed,
    doubled or late, it sends each at most once for one end.
    """
    return sweep(REMINDING, now=now)


@transaction.atomic
def _remind(pks: Sequence[int], now: datetime) -> int:
    # Owners first, as wherever both are locked, each in one order.
    owners = Rental.objects.filter(pk__in=pks).values_list("user_id", flat=True)
    people = {
        user.pk: user for user in User.objects.select_for_update().filter(pk__in=list(owners)).order_by("pk")
    }
    due, messages = [], []
    for rental in Rental.objects.select_for_update().filter(pk__in=pks).order_by("pk"):
        if rental.remind_at is None or rental.remind_at > now or rental.paused_at:
            continue
        rental.user = people[rental.user_id]
        reminders = plan_reminders(rental)
        if message := _message(rental, reminders, now):
            messages.append(message)
        rental.remind_at = next((reminder.at for reminder in reminders if reminder.at > now), None)
        due.append(rental)
    Rental.objects.bulk_update(due, ["remind_at"])
    return notify_all(messages)


def _message(rental: Rental, reminders: Sequence[Reminder], now: datetime) -> Message | None:
    """What the customer is reminded of now; None when no moment has come, or nobody is to be told any more."""
    since = rental.remind_at
    fitting = [reminder for reminder in reminders if since and since <= reminder.at <= now]
    if not fitting or rental.closed_at or rental.user.closing_at or not rental.user.is_active:
        return None
    reminder = fitting[-1]
    later = [other.at for other in reminders if other.at > reminder.at]
    closes_at = rental.closes_at
    return Message(
        user=rental.user,
        kind=reminder.kind,
        key=f"{about(rental)}{reminder.kind}{reminder.name}",
        context={
            "ends_at": rental.ends_at,
            "runs_until": rental.runs_until,
            # After a long outage that moment may be past; nobody is closed before they were warned once more.
            "closes_at": closes_at and max(closes_at, now),
            "url": settings.PUBLIC_URL + reverse("serials:rental-renew"),
        },
        # Should it wait so long, the next one is sent in its place.
        fits_until=later[0] if later else None,
    )


REMINDING = declare(
    Work(
        name="reminders",
        title=gettext_lazy("Reminding of the end of rentals"),
        model=Rental,
        whose="user__email",
        due=lambda now: Rental.objects.filter(remind_at__lte=now, paused_at=None).order_by("remind_at"),
        do=_remind,
        limit=AT_ONCE,
        together=_TOGETHER,
    )
)
