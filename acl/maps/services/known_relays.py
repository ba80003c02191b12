"""Which relays a customer's devices can have a way to: judged by the versions of their map that they took or that were fetched."""

from collections.abc import Iterator

from django.db.models import Q

from acl.maps import derpmap
from acl.maps.models import AclConfig, AclEvent
from acl.maps.services.downloads import PARTIAL
from containers.models import Relay


def known_relays(rental_pk: int) -> Iterator[int]:
    """Answer to "known_relays": the relays (pks) of a rental to which, as they are now, a version leads that its customer took
    or that was fetched by a live URL."""
    taken = Q(kind=AclEvent.Kind.DOWNLOADED, by__rental=rental_pk) | Q(kind=AclEvent.Kind.FETCHED)
    events = AclEvent.objects.filter(taken, rental=rental_pk, version__isnull=False).exclude(reason=PARTIAL)
    versions = events.values("version")
    maps = AclConfig.objects.filter(rental=rental_pk, version__in=versions).values_list("derp_map", flat=True)
    # Another region ID alone does not lead elsewhere.
    ways = {way[1:] for derp_map in maps for way in derpmap.ways(derp_map)}
    relays = (
        Relay.objects.live()
        .filter(rental=rental_pk)
        .values_list("pk", "server__address", "derp_port", "stun_port", "certificate_sha256")
    )
    for pk, *way in relays:
        if tuple(way) in ways:
            yield pk
