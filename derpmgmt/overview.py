"""What operators see first: what needs a person, today's figures, and the fleet by region. Few queries, however much there is."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from django.db.models import Count, Q
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.matters import unknown_proxy
from accounts.models import User
from containers.models import Deployment, Relay
from derpmgmt.lib.matters import group_matters, read_matters
from fleet.models import Region, Server
from serials.rentals.models import Redemption, Rental


@dataclass(frozen=True)
class Figure:
    """One number of today."""

    label: str
    value: str
    url: str


@dataclass
class RegionLine:
    """The servers of one region together; `load` and `disk_free_bytes` are those of the worst of them."""

    region: Region
    url: str
    states: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    relays: int = 0
    capacity: int = 0
    load: float | None = None
    disk_free_bytes: int | None = None
    visited_at: datetime | None = None

    @property
    def state_words(self) -> list[tuple[Server.Status, int]]:
        """States in the order of their definition, with how many servers are in each."""
        return [(status, self.states[status]) for status in Server.Status if self.states.get(status)]


def admin_overview(*, is_proxy_unknown: bool = False) -> dict[str, Any]:
    """What the start page of the admin shows; `is_proxy_unknown`: the request came through a proxy that is not counted."""
    now = timezone.now()
    servers = list(
        Server.objects.exclude(status=Server.Status.RETIRED)
        .select_related("region")
        .order_by("region__code", "name")
    )
    visits = [server.last_visit_at for server in servers if server.last_visit_at]
    found = read_matters(now)
    proxy = unknown_proxy()
    if is_proxy_unknown and proxy.key not in {matter.key for matter in found}:
        found.append(proxy)
    return {
        "matters": group_matters(found),
        "figures": _figures(now),
        "regions": _regions(servers),
        "checked_at": max(visits, default=None),
    }


def _figures(now: datetime) -> list[Figure]:
    today = timezone.localtime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    relays = Relay.objects.wanted().aggregate(
        wanted=Count("pk"),
        running=Count(
            "pk",
            filter=Q(status=Relay.Status.RUNNING, failing_since=None, server__silent_since=None)
            & ~Q(last_health__is_ok=False),
        ),
    )
    deployments = Deployment.objects.filter(created_at__gte=today).aggregate(
        all=Count("pk"), done=Count("pk", filter=Q(status=Deployment.Status.DONE))
    )
    redeemed = Redemption.objects.filter(kind=Redemption.Kind.SERIAL, at__gte=today).count()
    return [
        Figure(
            _("new accounts today"),
            str(User.objects.filter(date_joined__gte=today).count()),
            reverse("admin:accounts_user_changelist"),
        ),
        Figure(_("redeemed today"), str(redeemed), reverse("admin:serials_redemption_changelist")),
        Figure(
            _("active rentals"),
            str(Rental.objects.entitled(now).count()),
            reverse("admin:serials_rental_changelist"),
        ),
        Figure(
            _("relays that carry packets / wanted"),
            f"{relays['running']} / {relays['wanted']}",
            reverse("admin:containers_relay_changelist"),
        ),
        Figure(
            _("deployments today: done / all"),
            f"{deployments['done']} / {deployments['all']}",
            reverse("admin:containers_deployment_changelist"),
        ),
    ]


def _regions(servers: Iterable[Server]) -> list[RegionLine]:
    standing = dict(
        Relay.objects.live().values_list("server_id").annotate(number=Count("pk")).order_by("server_id")
    )
    page = reverse("admin:fleet_server_changelist")
    lines: dict[int, RegionLine] = {}
    for server in servers:
        url = f"{page}?region__id__exact={server.region_id}"
        line = lines.setdefault(server.region_id, RegionLine(server.region, url))
        line.states[server.status] += 1
        line.relays += standing.get(server.pk, 0)
        line.capacity += server.capacity
        line.load = max(
            (value for value in (line.load, server.load_ratio) if value is not None), default=None
        )
        free = (line.disk_free_bytes, server.disk_free_bytes)
        line.disk_free_bytes = min((value for value in free if value is not None), default=None)
        visits = (line.visited_at, server.last_visit_at)
        line.visited_at = min((value for value in visits if value is not None), default=None)
    return list(lines.values())
