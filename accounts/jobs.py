"""What the queue and the clock ring for about notices, closing accounts and what sweeps put off."""

from django.utils import timezone

from accounts import sweeps
from accounts.access import upkeep
from accounts.alerts import jobs as alerts
from accounts.services import closing, notices
from derpmgmt.lib import queue


@queue.on_queue("notices")
def send_notice(pk: int) -> None:
    """Send one notice."""
    notices.send_notice(pk)


@queue.on_queue("notices")
def sweep_notices() -> None:
    """Ring for every notice that waits and may go by now; take up those whose worker died."""
    now = timezone.now()
    notices.recover_lost(now)
    for pk in notices.due_notices(now):
        queue.enqueue(send_notice, pk, is_again=True)


def sweep_closing() -> None:
    """End the closing of accounts of which nothing is left; ring again for the others."""
    closing.sweep_closing(now=timezone.now())


def try_again(pk: int) -> None:
    """Do now what a sweep put off."""
    sweeps.try_again(put_off_pk=pk, now=timezone.now())


def forget_settled() -> None:
    """Forget what sweeps put off and is to be done no more."""
    sweeps.forget_settled(now=timezone.now())


def delete_old_access() -> None:
    """Delete tokens that ended long ago, codes that count no more, and answers that were kept for a day."""
    now = timezone.now()
    upkeep.delete_ended_tokens(now)
    upkeep.delete_kept_answers(now)


# What stays in this room: a notice was made; somebody asks for what was put off.
RINGS: dict[str, list[queue.Job]] = {
    "notice_made": [send_notice],
    "retry_asked": [try_again],
    "alert_to_tell": [alerts.tell_alerts],
}
TICKS = [
    queue.every(30, sweep_closing),
    queue.every(10, sweep_notices),
    queue.every(60, forget_settled),
    queue.every(3600, delete_old_access),
    *alerts.TICKS,
]
