"""What is counted of relays."""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from django.db.models import Count, Q
from django.urls import reverse
from django.utils.translation import gettext as _

from containers.models import Deployment, Relay
from containers.traffic_models import TrafficServerMonth
from derpmgmt.lib.figures import Figure, midnight
from derpmgmt.lib.metrics import Metric, single


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


def metrics(now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": relays, today's deployments, and what flows through servers."""
    states = Relay.objects.live().values_list("status").annotate(number=Count("pk")).order_by("status")
    yield Metric("relays", "Relays that stand or are to stand.", ("status",), [((s,), n) for s, n in states])
    wanted = Relay.objects.wanted()
    yield single("relays_wanted", "Relays that customers should have.", wanted.count())
    carrying = wanted.carrying().exclude(last_health__is_ok=False).count()
    yield single("relays_carrying", "Those of them that carry packets, as far as is known.", carrying)
    deployments = Deployment.objects.filter(created_at__gte=midnight(now)).values_list("status")
    counted = deployments.annotate(number=Count("pk")).order_by("status")
    yield Metric(
        "deployments_today",
        "Deployments of today, by what became of them.",
        ("status",),
        [((s,), n) for s, n in counted],
    )
    months = (
        TrafficServerMonth.objects.filter(server__in_use=1).select_related("server").order_by("begins_on")
    )
    newest = {month.server_id: month for month in months.filter(read_at__gte=now - timedelta(days=62))}
    labels = ("server", "direction")
    yield Metric(
        "server_month_bytes",
        "What its relays carried since the server's month began: up is what devices sent.",
        labels,
        _both_ways(newest.values(), "bytes"),
    )
    yield Metric(
        "server_bytes_per_second", "What its relays carry now.", labels, _both_ways(newest.values(), "rate")
    )


def _both_ways(months: Iterable[TrafficServerMonth], what: str) -> list[tuple[tuple[str, str], float]]:
    return [
        ((month.server.name, way), getattr(month, f"{way}_{what}"))
        for month in months
        for way in ("up", "down")
    ]
