"""What the queue and the clock ring for about notices."""

from django.utils import timezone

from accounts.services import closing, notices
from derpmgmt.lib import queue


def send_notice(pk: int) -> None:
    """Send one notice."""
    notices.send_notice(pk)


def sweep_notices() -> None:
    """Ring for every notice that waits and may go by now; take up those whose worker died."""
    now = timezone.now()
    notices.recover_lost(now)
    for pk in notices.due_notices(now):
        queue.enqueue(send_notice, pk, queue="notices", is_again=True)


def sweep_closing() -> None:
    """End the closing of accounts of which nothing is left; ring again for the others."""
    closing.sweep_closing(now=timezone.now())
