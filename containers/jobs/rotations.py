"""Relays that make way for successors: certificates near their end, and the old ones that nobody needs any more."""

import logging
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.sweeps import try_row
from accounts.works import Work, declare
from containers.derp.presence import has_devices
from containers.models import Relay
from containers.services import leaving, relay_certificates, relays, rotation
from derpmgmt.lib import queue
from derpmgmt.lib.sweeps import attempt
from fleet.models import Server

log = logging.getLogger(__name__)


def check_certificates() -> None:
    """Replace the certificates that every client refuses, whether a bell for it was lost or no successor came in time."""
    now = timezone.now()
    for relay in relay_certificates.refused_certificates(now):
        renew = partial(relay_certificates.renew_certificate, relay=relay, now=now)
        attempt(f"the certificate of relay {relay.pk}", renew)


def rotate_certificates() -> None:
    """Give the relays whose certificate is near its end successors."""
    now = timezone.now()
    for relay in rotation.due_rotations(now):
        try:
            successor = rotation.rotate_relay(relay=relay, now=now)
        except Exception:
            log.exception("successor of relay %s", relay.pk)
            successor = None
        if successor is None:
            rotation.record_unrotated(relay=relay, now=now)


def drain_servers() -> None:
    """Have relays made elsewhere for those on servers that are being drained, where there is room by now."""
    for server in leaving.draining_servers():

        def move(server: Server = server) -> None:
            leaving.move_away(leaving.foresee_leaving(server=server, now=timezone.now()), by=None)

        attempt(f"the draining of server {server.pk}", move)


def sweep_retiring() -> None:
    """Ring for the retiring relays that may go now."""
    for relay_pk in rotation.due_retirements(timezone.now()):
        queue.enqueue(retire_relay, relay_pk, is_again=True)


@queue.on_queue("slow")
def retire_relay(relay_pk: int) -> None:
    """Remove a retiring relay when its time is over, or when it may go earlier and says that no device is connected to it."""
    now = timezone.now()
    if later := try_row(RETIRING, relay_pk, now=now):
        rotation.record_staying(relay_pk=relay_pk, until=later)


def _retire_all(pks: Sequence[int], now: datetime) -> int:
    for relay in Relay.objects.retiring().select_related("server").filter(pk__in=pks):
        _retire(relay, now)
    return len(pks)


RETIRING = declare(
    Work(
        name="the retiring of relays",
        title=_("Retiring of relays"),
        model=Relay,
        whose="rental__user__email",
        # Whether they are to be looked at now or not: they are put off by that moment.
        due=lambda _now: Relay.objects.retiring(),
        do=_retire_all,
    )
)


def _retire(relay: Relay, now: datetime) -> None:
    if rotation.may_go(relay, now) or (rotation.may_go_unused(relay, now) and _is_unused(relay)):
        rotation.retire_relay(relay=relay)
    else:
        rotation.record_staying(relay_pk=relay.pk, until=now + rotation.LOOK_EVERY)


def _is_unused(relay: Relay) -> bool:
    """Whether nobody is connected to a relay: not to one that does not run and cannot be asked either."""
    answer = has_devices(relays.target_of(relay))
    return answer is False or (answer is None and relay.status == Relay.Status.FAILED)
