"""Relays' certificates that are replaced in place, since no client takes them: those of another address, and those that are over.

Where a relay works and its certificate ends, a successor with another one stands beside it instead (`rotation`).
"""

from datetime import datetime

from django.db import transaction
from django.db.models import F, Q

from containers.certificates import make_certificate
from containers.models import Relay
from containers.services.relay_requests import request_repair
from derpmgmt.lib import queue
from fleet.models import Server


def renew_certificate(*, relay: Relay, now: datetime) -> None:
    """Give a relay a certificate for its server's present address, and have its container remade with it."""
    certificate = make_certificate(relay.server.address, now)
    with transaction.atomic():
        changed = (
            Relay.objects.filter(pk=relay.pk, certificate_sha256=relay.certificate_sha256)
            .exclude(status__in=[Relay.Status.REMOVING, Relay.Status.RELEASED])
            .update(
                certificate=certificate.pem,
                certificate_key=certificate.key_pem,
                certificate_sha256=certificate.sha256,
                certificate_address=relay.server.address,
                certificate_ends_at=certificate.not_after,
                status=Relay.Status.PLANNED,
                try_after=None,
            )
        )
        if changed:
            queue.announce("relay_to_apply", relay.pk)


def follow_server(*, server_pk: int, now: datetime) -> None:
    """After a server's addresses changed: a relay whose certificate names another one gets a new one, the rest are remade."""
    server = Server.objects.get(pk=server_pk)
    for relay in server.relays.live().select_related("server"):
        if relay.certificate_address != server.address:
            renew_certificate(relay=relay, now=now)
        else:
            request_repair(relay_pk=relay.pk)


def refused_certificates(now: datetime, limit: int = 200) -> list[Relay]:
    """Relays whose certificate every client refuses: it names another address than the server's, or its time is over.

    The latter do not include retiring ones, which are let go then. This looks at all relays.
    """
    is_astray = ~Q(certificate_address=F("server__address"))
    is_over = Q(certificate_ends_at__lte=now, retiring_since=None)
    return list(
        Relay.objects.live()
        .exclude(status=Relay.Status.REMOVING)
        .filter(is_astray | is_over, rental__isnull=False)
        .select_related("server")
        .order_by("pk")[:limit]
    )
