"""What operators see first: what needs a person, today's figures, and the fleet by region. Few queries, however much there is."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.db.models import Count, Max, Min, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import Notice, User
from containers.decisions import SLOTS
from containers.derp.probe import CAUSES
from containers.models import Deployment, Gate, Relay, ServerCheck
from containers.services import gates, rotation
from containers.services.images import GATE_LINK, RELAY_LINK
from derpmgmt.lib.address import is_loopback
from derpmgmt.lib.problems import explain
from fleet.models import Region, Server
from serials.numbers.models import SerialBatch, SerialNumber
from serials.rentals.models import Redemption, Rental

# Of each kind so many are named one by one; of the rest it is said how many there are.
SHOWN = 10
# What could not be renewed is critical when it ends this soon.
CERTIFICATE_CRITICAL = timedelta(days=14)
# Servers are visited every 15 s: after so long nobody seems to do it.
VISITS_MISSED = timedelta(minutes=2)
# A list of devices that did not reach its gate for so long.
LIST_LATE = timedelta(minutes=1)
ERRORS_SHOWN_FOR = timedelta(days=1)
NOTICES_SHOWN_FOR = timedelta(days=7)

CRITICAL, WARNING, INFORMATION = "critical", "warning", "information"
_LEVELS = (CRITICAL, WARNING, INFORMATION)


@dataclass(frozen=True)
class Matter:
    """Something that needs a person; `url` is the place where it is done."""

    level: str
    title: str
    text: str
    url: str
    at: datetime | None = None

    @property
    def level_text(self) -> str:
        """The level as a word."""
        return {CRITICAL: _("critical"), WARNING: _("warning"), INFORMATION: _("information")}[self.level]


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


def admin_overview(*, is_proxy_unknown: bool = False) -> Iterator[dict[str, Any]]:
    """Answer to "admin_overview": what the start page of the admin shows; `is_proxy_unknown`: one that is not counted passes requests on."""
    now = timezone.now()
    servers = list(
        Server.objects.exclude(status=Server.Status.RETIRED)
        .select_related("region")
        .order_by("region__code", "name")
    )
    visits = [server.last_visit_at for server in servers if server.last_visit_at]
    matters = [
        *_servers(servers, now),
        *_gates(servers, now),
        *_relays(now),
        *_certificates(now),
        *_customers(servers, now),
        *_notices(now),
        *_batches(),
        *(_proxies() if is_proxy_unknown else ()),
    ]
    yield {
        "matters": sorted(matters, key=lambda matter: _LEVELS.index(matter.level)),
        "figures": _figures(now),
        "regions": _regions(servers),
        "checked_at": max(visits, default=None),
    }


def _shown(rows: QuerySet[Any]) -> tuple[list[Any], int]:
    """The first `SHOWN` of the rows, and how many more there are."""
    first = list(rows[: SHOWN + 1])
    return first[:SHOWN], rows.count() - SHOWN if len(first) > SHOWN else 0


def _rest(level: str, title: str, count: int, url: str) -> Iterator[Matter]:
    """The line for those of a kind that are not named; none where all are."""
    if count:
        yield Matter(level, title % {"count": count}, _("The list shows them all."), url)


def _servers(servers: list[Server], now: datetime) -> Iterator[Matter]:
    if not (settings.IMAGE_DIR / RELAY_LINK).exists():
        text = _("Make one with “manage.py image_build”; no relay can be started before.")
        yield Matter(
            CRITICAL, _("There is no relay image"), text, reverse("admin:containers_relay_changelist")
        )
    managed = [server for server in servers if server.status != Server.Status.NEW]
    visited_at = max((server.last_visit_at for server in managed if server.last_visit_at), default=None)
    if managed and (visited_at is None or now - visited_at > VISITS_MISSED):
        text = _(
            "Every server is visited four times a minute. Does the panel's scheduler run, and its workers?"
        )
        url = reverse("admin:fleet_server_changelist")
        yield Matter(CRITICAL, _("No server is being visited"), text, url, visited_at)
    latest = {
        check.server_id: check
        for check in ServerCheck.objects.filter(server__status=Server.Status.NEW).defer("log").order_by("pk")
    }
    for server in servers:
        url = reverse("admin:fleet_server_change", args=[server.pk])
        title = f"{server} · {server.get_status_display()}"
        reason = server.reason
        is_announced = server.status in {Server.Status.MAINTENANCE, Server.Status.NEW}
        if server.status == Server.Status.UNHEALTHY:
            yield Matter(CRITICAL, title, reason, url, server.silent_since or server.last_contact_at)
        elif server.silent_since and not is_announced:
            yield Matter(CRITICAL, title, _("It does not answer."), url, server.silent_since)
        elif server.status == Server.Status.MAINTENANCE:
            yield Matter(INFORMATION, title, reason or _("Nothing new is placed on it."), url)
        elif server.status == Server.Status.NEW and not server.host_key:
            url = reverse("admin:fleet_server_host_key", args=[server.pk])
            yield Matter(WARNING, title, _("Its host key waits to be confirmed."), url, server.created_at)
        elif server.status == Server.Status.NEW:
            check = latest.get(server.pk)
            if check is None or not check.is_open:
                reason = check.reason if check else _("It has not been checked yet.")
                url = reverse("admin:containers_server_check", args=[server.pk])
                yield Matter(WARNING, title, reason, url, check.finished_at if check else None)


def _gates(servers: list[Server], now: datetime) -> Iterator[Matter]:
    if not (settings.IMAGE_DIR / GATE_LINK).exists():
        text = _("Make one with “manage.py image_build --only gate”; no new relay can be started before.")
        yield Matter(
            CRITICAL, _("There is no image of the gate"), text, reverse("admin:containers_gate_changelist")
        )
    host = urlsplit(settings.RELAY_URL).hostname or ""
    if is_loopback(host) and any(not is_loopback(server.address) for server in servers):
        text = _("Set DERPMGMT_RELAY_URL (docs/running.md); until then only devices that are known get in.")
        title = _("Servers cannot reach the panel at %(url)s") % {"url": settings.RELAY_URL}
        yield Matter(CRITICAL, title, text, reverse("admin:containers_gate_changelist"))
    gate_list = reverse("admin:containers_gate_changelist")
    gate_rows = Gate.objects.select_related("server").defer("secret")
    failed, more = _shown(gate_rows.filter(status=Gate.Status.FAILED).order_by("failed_at"))
    for gate in failed:
        title = _("The gate of %(server)s failed") % {"server": gate.server}
        url = reverse("admin:fleet_server_change", args=[gate.server_id])
        yield Matter(CRITICAL, title, str(gates.failure_text(gate)), url, gate.failed_at)
    title = ngettext("%(count)d more gate failed", "%(count)d more gates failed", more)
    yield from _rest(CRITICAL, title, more, f"{gate_list}?status__exact=failed")
    late_rows = gates.late_gates().filter(list_changed_at__lt=now - LIST_LATE, running_since__isnull=False)
    late, more = _shown(late_rows.select_related("server").defer("secret").order_by("list_changed_at"))
    for gate in late:
        title = _("The gate of %(server)s does not have the newest list of devices") % {"server": gate.server}
        text = _("While the panel is away it lets in who was known before, revoked devices too.")
        url = reverse("admin:fleet_server_change", args=[gate.server_id])
        yield Matter(CRITICAL, title, text, url, gate.list_changed_at)
    title = ngettext(
        "%(count)d more gate does not have the newest list of devices",
        "%(count)d more gates do not have the newest list of devices",
        more,
    )
    yield from _rest(CRITICAL, title, more, gate_list)


def _relays(now: datetime) -> Iterator[Matter]:
    wanted = Relay.objects.wanted().select_related("server", "rental__user").defer("certificate")
    relay_list = reverse("admin:containers_relay_changelist") + "?slot__isnull=0&status__exact="
    failed, more = _shown(wanted.filter(status=Relay.Status.FAILED).order_by("failed_at"))
    tries = {
        deployment.relay_id: deployment
        for deployment in Deployment.objects.filter(
            relay__in=failed, status__in=[Deployment.Status.FAILED, Deployment.Status.ERRORED]
        )
        .defer("log")
        .order_by("pk")
    }
    for relay in failed:
        last = tries.get(relay.pk)
        title = _("Relay of %(customer)s on %(server)s failed") % {
            "customer": relay.rental,
            "server": relay.server,
        }
        page = (
            ("admin:containers_deployment_change", last.pk)
            if last
            else ("admin:containers_relay_change", relay.pk)
        )
        text = last.reason if last else explain(relay.failure_code)
        yield Matter(CRITICAL, title, text, reverse(page[0], args=[page[1]]), relay.failed_at)
    title = ngettext("%(count)d more relay failed", "%(count)d more relays failed", more)
    yield from _rest(CRITICAL, title, more, f"{relay_list}failed")
    # Those of a server that does not answer stand behind that server's own line.
    silent_rows = wanted.filter(
        status=Relay.Status.RUNNING, last_health__is_ok=False, server__silent_since=None
    ).select_related("server", "rental__user", "last_health")
    silent, more = _shown(silent_rows)
    for relay in silent:
        title = _("Relay of %(customer)s on %(server)s did not pass its last test") % {
            "customer": relay.rental,
            "server": relay.server,
        }
        text = str(CAUSES.get(relay.last_health.cause, relay.last_health.cause))
        url = reverse("admin:containers_relay_change", args=[relay.pk])
        yield Matter(WARNING, title, text, url, relay.last_health.at)
    title = ngettext(
        "%(count)d more relay did not pass its last test",
        "%(count)d more relays did not pass their last test",
        more,
    )
    yield from _rest(WARNING, title, more, f"{relay_list}running&last_health__is_ok__exact=0")
    errors = Deployment.objects.filter(
        status=Deployment.Status.ERRORED, finished_at__gt=now - ERRORS_SHOWN_FOR
    ).count()
    if errors:
        title = ngettext("%(count)d internal error", "%(count)d internal errors", errors) % {"count": errors}
        url = reverse("admin:containers_deployment_changelist") + "?status__exact=errored"
        yield Matter(CRITICAL, title, _("Deployments of the last day; the panel's log says more."), url)


def _certificates(now: datetime) -> Iterator[Matter]:
    waiting = rotation.waiting_rotations(now)
    found = waiting.aggregate(
        count=Count("pk"), first=Min("certificate_ends_at"), last=Max("certificate_ends_at")
    )
    if not found["count"]:
        return
    title = ngettext(
        "The certificate of %(count)d relay ends on %(day)s",
        "The certificates of %(count)d relays end, the first on %(day)s",
        found["count"],
    ) % {"count": found["count"], "day": f"{timezone.localtime(found['first']):%Y-%m-%d}"}
    text = _(
        "No server has room for successors, or none of those that their customers are bound to: add one, or take one back "
        "into use. Once a certificate has ended, devices need a new map to reach the relay."
    )
    wanted = {
        "slot__isnull": 0,
        "status__exact": Relay.Status.RUNNING,
        "try_after__isnull": 0,
        "certificate_ends_at__lte": found["last"].isoformat(),
    }
    url = f"{reverse('admin:containers_relay_changelist')}?{urlencode(wanted)}"
    yield Matter(CRITICAL if found["first"] <= now + CERTIFICATE_CRITICAL else WARNING, title, text, url)


def _customers(servers: list[Server], now: datetime) -> Iterator[Matter]:
    usable = sum(server.status == Server.Status.HEALTHY for server in servers)
    if usable < len(SLOTS):
        title = ngettext("%(count)d usable server", "%(count)d usable servers", usable) % {"count": usable}
        text = _("A customer's three relays stand on three servers: add one.")
        yield Matter(CRITICAL, title, text, reverse("admin:fleet_server_add"))
    standing = Count("relays", filter=Q(relays__slot__isnull=False))
    short = (
        Rental.objects.with_rights(now).annotate(standing=standing).filter(standing__lt=len(SLOTS)).count()
    )
    if short:
        title = ngettext(
            "%(count)d customer has fewer than three relays",
            "%(count)d customers have fewer than three relays",
            short,
        )
        text = _("No further server is free for them; they are served by themselves as soon as one is.")
        yield Matter(CRITICAL, title % {"count": short}, text, reverse("admin:fleet_server_changelist"))


def _notices(now: datetime) -> Iterator[Matter]:
    failed = Notice.objects.filter(state=Notice.State.FAILED, created_at__gt=now - NOTICES_SHOWN_FOR).count()
    if failed:
        title = ngettext("%(count)d notice was not sent", "%(count)d notices were not sent", failed)
        text = _("Look at the reasons, then send them again.")
        url = reverse("admin:accounts_notice_changelist") + "?state__exact=failed"
        yield Matter(WARNING, title % {"count": failed}, text, url)


def _proxies() -> Iterator[Matter]:
    text = _(
        "Requests come with X-Forwarded-For, but DERPMGMT_TRUSTED_PROXIES is 0: everybody behind the proxy shares one address in "
        "limits and logs. Set it to the number of proxies in front (docs/running.md)."
    )
    url = reverse("admin:accounts_operationlog_changelist")
    yield Matter(WARNING, _("The reverse proxy in front of the panel is not believed"), text, url)


def _batches() -> Iterator[Matter]:
    used = Count("serials", filter=Q(serials__status=SerialNumber.Status.USED))
    url = reverse("admin:serials_serialbatch_changelist") + "?paid_at__isempty=1"
    # Those in use first: whoever is not named is no worse than who is.
    unpaid = SerialBatch.objects.filter(paid_at=None).annotate(used=used).order_by("-used", "-pk")
    batches, more = _shown(unpaid)
    for batch in batches:
        text = ngettext(
            "%(count)d serial number, %(used)d of them used",
            "%(count)d serial numbers, %(used)d of them used",
            batch.count,
        )
        yield Matter(
            WARNING if batch.used else INFORMATION,
            _("Batch %(batch)s is not paid for") % {"batch": batch},
            text % {"count": batch.count, "used": batch.used},
            url,
            batch.created_at,
        )
    title = ngettext("%(count)d more batch is not paid for", "%(count)d more batches are not paid for", more)
    yield from _rest(WARNING if batches and batches[-1].used else INFORMATION, title, more, url)


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
