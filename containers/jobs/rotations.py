"""Relays that make way for successors: certificates near their end, and the old ones that nobody needs any more."""

import logging

from django.utils import timezone

from containers.derp.presence import has_devices
from containers.models import Relay
from containers.services import relays, rotation
from derpmgmt.lib import queue

log = logging.getLogger(__name__)


def rotate_certificates() -> None:
    """Give the relays whose certificate is near its end successors, and those whose certificate is refused another at once."""
    now = timezone.now()
    for relay in relays.refused_certificates(now):
        relays.renew_certificate(relay=relay, now=now)
    for relay in rotation.due_rotations(now):
        try:
            successor = rotation.rotate_relay(relay=relay, now=now)
        except Exception:
            log.exception("successor of relay %s", relay.pk)
            successor = None
        if successor is None:
            rotation.record_unrotated(relay=relay, now=now)


def sweep_retiring() -> None:
    """Ring for the retiring relays that may go now."""
    for relay_pk in rotation.due_retirements(timezone.now()):
        queue.enqueue(retire_relay, relay_pk, queue="slow", is_again=True)


def retire_relay(relay_pk: int) -> None:
    """Remove a retiring relay when its grace is over, or when it says itself that no device is connected to it."""
    relay = Relay.objects.retiring().select_related("server").filter(pk=relay_pk).first()
    if relay is None:
        return
    now = timezone.now()
    if rotation.is_grace_over(relay, now) or (
        rotation.may_be_asked(relay, now) and has_devices(relays.target_of(relay)) is False
    ):
        rotation.retire_relay(relay=relay)
    else:
        rotation.record_in_use(relay=relay, now=now)
