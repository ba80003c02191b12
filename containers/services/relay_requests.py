"""What is asked for of a relay: repair, another try, a test."""

from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q

from accounts.models import User
from accounts.services import log_operation
from containers.models import Relay
from derpmgmt.lib import queue
from fleet.models import Server

# How often one person may have relays tested.
PROBE_RATE = "30/5m"
# A test that somebody asked for is made within this time, else asked for anew.
PROBE_PATIENCE = timedelta(seconds=10)


def request_repair(*, relay_pk: int) -> bool:
    """Have a relay that is said to run looked at and put right; False when it is being worked on anyway."""
    with transaction.atomic():
        moved = Relay.objects.filter(pk=relay_pk, status=Relay.Status.RUNNING).update(
            status=Relay.Status.PLANNED, try_after=None
        )
        if moved:
            queue.announce("relay_to_apply", relay_pk)
    return bool(moved)


def retry_relay(*, relay: Relay, by: User | None) -> None:
    """Try a failed relay again now, and its server too even if that is being rested."""
    with transaction.atomic():
        Relay.objects.filter(
            pk=relay.pk, status__in=[Relay.Status.FAILED, Relay.Status.PLANNED, Relay.Status.REMOVING]
        ).update(try_after=None)
        Relay.objects.filter(pk=relay.pk, status=Relay.Status.FAILED).update(status=Relay.Status.PLANNED)
        Server.objects.filter(pk=relay.server_id).update(next_contact_at=None)
        log_operation(
            by=by,
            action="relay.retried",
            target=relay,
            subject=relay.rental.user if relay.rental else None,
        )
        queue.announce("relay_to_apply", relay.pk)


def ask_probe(*, relay: Relay, now: datetime) -> bool:
    """Have a relay tested; False when a test asked for in the last ten seconds is still under way.

    Where the bell is lost, the next scheduled round after these makes the test.
    """
    recently = now - PROBE_PATIENCE
    with transaction.atomic():
        asked = (
            Relay.objects.live()
            .filter(pk=relay.pk)
            .filter(
                Q(probe_asked_at=None)
                | Q(probe_asked_at__lt=recently)
                | Q(last_health__at__gt=F("probe_asked_at"))
            )
            .values_list("pk", flat=True)
        )
        moved = Relay.objects.filter(pk__in=list(asked)).update(probe_asked_at=now)
        if moved:
            soon = now + PROBE_PATIENCE
            Relay.objects.to_prove().filter(pk=relay.pk, prove_after__gt=soon).update(prove_after=soon)
            queue.announce("probe_asked", relay.pk)
    return bool(moved)
