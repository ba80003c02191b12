"""The tests of a server's relays on its page in the admin."""

from typing import Any

from django import template
from django.utils import timezone

from containers.models import Relay
from containers.services.proving import SECRETS
from containers.ticks import relay_days, server_day
from fleet.models import Server

register = template.Library()
# So many relays are drawn one by one; a link leads to all.
MOST = 60


@register.inclusion_tag("admin/containers/_server_proofs.html")
def server_proofs(server: Server) -> dict[str, Any]:
    """The last day of a server's relays, together and one by one; a fixed number of queries."""
    now = timezone.now()
    rows = (
        Relay.objects.live().filter(server=server).select_related("rental__user").defer("mesh_key", *SECRETS)
    )
    relays = list(rows.order_by("failing_since", "pk")[: MOST + 1])
    days = relay_days([relay.pk for relay in relays[:MOST]], now)
    return {
        "server": server,
        "day": server_day(server.pk, now),
        "rows": [(relay, days[relay.pk]) for relay in relays[:MOST]],
        "is_cut": len(relays) > MOST,
    }
