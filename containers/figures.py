"""What is counted of relays."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count, Q
from django.urls import reverse
from django.utils.translation import gettext as _

from containers.models import Deployment, Relay
from derpmgmt.lib.figures import Figure, midnight


def figures(now: datetime) -> Iterator[Figure]:
    """Answer to "figures": the relays that carry packets of those that are wanted, and what became of the deployments of today."""
    carries = Q(status=Relay.Status.RUNNING, failing_since=None, server__silent_since=None)
    relays = Relay.objects.wanted().aggregate(
        wanted=Count("pk"), running=Count("pk", filter=carries & ~Q(last_health__is_ok=False))
    )
    yield Figure(
        _("relays that carry packets / wanted"),
        f"{relays['running']} / {relays['wanted']}",
        reverse("admin:containers_relay_changelist"),
    )
    deployments = Deployment.objects.filter(created_at__gte=midnight(now)).aggregate(
        all=Count("pk"), done=Count("pk", filter=Q(status=Deployment.Status.DONE))
    )
    yield Figure(
        _("deployments today: done / all"),
        f"{deployments['done']} / {deployments['all']}",
        reverse("admin:containers_deployment_changelist"),
    )


def relays_by_server() -> Iterator[tuple[int, int]]:
    """Answer to "relays_by_server": primary keys of servers, and how many relays each holds; servers without are left out."""
    counted = Relay.objects.live().values_list("server_id").annotate(number=Count("pk"))
    yield from counted.order_by("server_id")
