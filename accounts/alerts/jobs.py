"""What the clock and others ring for about alerts, on a queue of its own: what hangs elsewhere is told all the same."""

from django.utils import timezone

from accounts.alerts import feeding, services, telling
from accounts.alerts.rules import HABIT_SECONDS
from derpmgmt.lib import queue


@queue.on_queue("alerts")
def sweep_alerts(_pk: int = 0) -> None:
    """Take in what is wrong now, and have it told."""
    now = timezone.now()
    feeding.feed(now)
    telling.plan(now)
    telling.recover_lost(now)
    for pk in telling.due(now):
        queue.enqueue(tell_alerts, pk, is_again=True)


def sweep_habits(_pk: int = 0) -> None:
    """Take in what is compared with weeks; on the usual queue, since it may take seconds."""
    feeding.feed_habits(timezone.now())


@queue.on_queue("notices")
def tell_alerts(pk: int) -> None:
    """Send one message about alerts."""
    telling.send(pk)


@queue.on_queue("alerts")
def prune_alerts() -> None:
    """Forget what was over long ago."""
    services.prune(timezone.now())


def ring_for_alerts() -> None:
    """Something is wrong that should not wait for the clock; however many ring, one sweep hears all."""
    queue.enqueue(sweep_alerts, 0, is_again=True)


TICKS = [
    queue.every(10, sweep_alerts),
    queue.every(HABIT_SECONDS, sweep_habits),
    queue.every(3600, prune_alerts),
]
