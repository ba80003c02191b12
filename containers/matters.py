"""What of relays, gates and server checks needs a person."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode, urlsplit

from django.conf import settings
from django.db.models import Count, Max, Min, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from containers.decisions import SLOTS
from containers.derp.probe import CAUSES
from containers.models import Deployment, Gate, Relay, ServerCheck
from containers.services import gates, rotation, traffic
from containers.services.images import GATE_LINK, RELAY_LINK
from containers.traffic_models import TrafficError
from derpmgmt.lib.address import is_loopback
from derpmgmt.lib.matters import CRITICAL, WARNING, Cause, Matter
from derpmgmt.lib.prepared import Prepared, in_all
from derpmgmt.lib.problems import explain
from fleet.matters import place_of, server_list
from fleet.models import Server
from serials.rentals.models import Rental

# What could not be renewed is critical when it ends this soon.
CERTIFICATE_CRITICAL = timedelta(days=14)
# A list of devices that did not reach its gate for so long.
LIST_LATE = timedelta(minutes=1)
ERRORS_SHOWN_FOR = timedelta(days=1)
_OF_REGION = "server__region__id__exact"


def _answering() -> QuerySet[Relay]:
    """Wanted relays of servers that answer: those of others stand behind that server's own matter."""
    return (
        Relay.objects.wanted()
        .filter(server__silent_since=None)
        .select_related("server__region", "rental__user")
        .defer(*Relay.SECRETS)
    )


def _late_gates(before: datetime) -> QuerySet[Gate]:
    rows = gates.late_gates().filter(list_changed_at__lt=before, running_since__isnull=False)
    return rows.select_related("server__region").defer("secret").order_by("list_changed_at")


def _traffic_errors(since: datetime) -> QuerySet[TrafficError]:
    rows = TrafficError.objects.filter(last_at__gt=since)
    rows = rows.select_related("relay__server__region", "relay__rental__user")
    return rows.defer(*(f"relay__{name}" for name in Relay.SECRETS)).order_by("since")


def _short(now: datetime) -> QuerySet[Any, Any]:
    # Those whose own traffic is used up are not missing.
    held = Q(relays__return_slot__isnull=False, relays__stopped_at__isnull=False)
    standing = Count("relays", filter=Q(relays__slot__isnull=False) | held)
    rows = Rental.objects.with_rights(now).annotate(standing=standing)
    return rows.filter(standing__lt=len(SLOTS)).values("pk")


# Alerts read all of it six times a minute.
_ADDRESSES = Prepared(lambda: Server.objects.exclude(status=Server.Status.RETIRED).values("address"))
_FAILED_GATES = Prepared(
    lambda: (
        Gate.objects.filter(status=Gate.Status.FAILED)
        .select_related("server__region")
        .defer("secret")
        .order_by("failed_at")
    )
)
_LATE_GATES = Prepared(_late_gates)
_TO_CHECK = Prepared(
    lambda: (
        Server.objects.filter(status=Server.Status.NEW)
        .exclude(host_key="")
        .select_related("region")
        .order_by("region__code", "name")
    )
)
_FAILED = Prepared(lambda: _answering().filter(status=Relay.Status.FAILED).order_by("failed_at"))
_FAILED_PROOFS = Prepared(
    lambda: (
        _answering()
        .filter(status=Relay.Status.RUNNING, last_health__is_ok=False)
        .select_related("server__region", "rental__user", "last_health")
        .order_by("last_health__at")
    )
)
_ERRORS = Prepared(
    lambda since: in_all(
        Deployment.objects.filter(status=Deployment.Status.ERRORED, finished_at__gt=since),
        count=Count("pk"),
        first=Min("finished_at"),
    )
)
_CERTIFICATES = Prepared(
    lambda until: in_all(
        rotation.waiting_rotations(until),
        count=Count("pk"),
        first=Min("certificate_ends_at"),
        last=Max("certificate_ends_at"),
    )
)
_TRAFFIC_ERRORS = Prepared(_traffic_errors)
_USABLE = Prepared(lambda: in_all(Server.objects.filter(status=Server.Status.HEALTHY), count=Count("pk")))
_SHORT = Prepared(_short)


def _relay_list(**wanted: Any) -> str:
    return f"{reverse('admin:containers_relay_changelist')}?{urlencode({'slot__isnull': 0, **wanted})}"


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": relays and gates that fail, images that are missing, checks that wait, customers without relays."""
    yield from _images()
    yield from _gates(now)
    yield from _checks()
    yield from _failed_relays()
    yield from _failed_proofs()
    yield from _internal_errors(now)
    yield from _certificates(now)
    yield from _traffic(now)
    yield from _places(now)


def _images() -> Iterator[Matter]:
    relay_list, gate_list = (
        reverse("admin:containers_relay_changelist"),
        reverse("admin:containers_gate_changelist"),
    )
    if not (settings.IMAGE_DIR / RELAY_LINK).exists():
        text = _("Make one with “manage.py image_build”; no relay can be started before.")
        yield Matter(CRITICAL, _("There is no relay image"), text, relay_list, "no_relay_image", rule="panel")
    if not (settings.IMAGE_DIR / GATE_LINK).exists():
        text = _("Make one with “manage.py image_build --only gate”; no new relay can be started before.")
        yield Matter(
            CRITICAL, _("There is no image of the gate"), text, gate_list, "no_gate_image", rule="panel"
        )
    if not is_loopback(urlsplit(settings.RELAY_URL).hostname or ""):
        return
    if any(not is_loopback(row["address"]) for row in _ADDRESSES.read()):
        text = _("Set DERPMGMT_RELAY_URL (docs/running.md); until then only devices that are known get in.")
        title = _("Servers cannot reach the panel at %(url)s") % {"url": settings.RELAY_URL}
        yield Matter(CRITICAL, title, text, gate_list, "panel_out_of_reach", rule="panel")


def _gates_failed(count: int) -> str:
    return ngettext("%(count)d gate failed", "%(count)d gates failed", count) % {"count": count}


def _lists_late(count: int) -> str:
    return ngettext(
        "%(count)d gate does not have the newest list of devices",
        "%(count)d gates do not have the newest list of devices",
        count,
    ) % {"count": count}


def _gates(now: datetime) -> Iterator[Matter]:
    page = reverse("admin:containers_gate_changelist")
    for gate in _FAILED_GATES.read():
        code = gate.failure_code
        wanted = {"status__exact": gate.status, "failure_code__exact": code}
        cause = Cause(f"gate_failed.{code}", _gates_failed, f"{page}?{urlencode(wanted)}", _OF_REGION)
        yield Matter(
            CRITICAL,
            _("The gate of %(server)s failed") % {"server": gate.server},
            str(gates.failure_text(gate)),
            reverse("admin:fleet_server_change", args=[gate.server_id]),
            f"gate_failed:{gate.pk}",
            gate.failed_at,
            gate.server.name,
            cause,
            place_of(gate.server.region),
            rule="relay",
            server=gate.server_id,
        )
    cause = Cause("gate_list_late", _lists_late, f"{page}?list=late", _OF_REGION)
    for gate in _LATE_GATES.read(before=now - LIST_LATE):
        yield Matter(
            CRITICAL,
            _("The gate of %(server)s does not have the newest list of devices") % {"server": gate.server},
            _("While the panel is away it lets in who was known before, revoked devices too."),
            reverse("admin:fleet_server_change", args=[gate.server_id]),
            f"gate_list_late:{gate.pk}",
            gate.list_changed_at,
            gate.server.name,
            cause,
            place_of(gate.server.region),
            rule="relay",
            server=gate.server_id,
        )


def _to_check(count: int) -> str:
    return ngettext(
        "%(count)d server is not in use: its check failed or is still to be made",
        "%(count)d servers are not in use: their checks failed or are still to be made",
        count,
    ) % {"count": count}


def _checks() -> Iterator[Matter]:
    servers = _TO_CHECK.read()
    if not servers:
        return
    latest = {
        check.server_id: check
        for check in ServerCheck.objects.filter(
            pk__in=ServerCheck.objects.filter(server__in=servers)
            .values("server")
            .annotate(last=Max("pk"))
            .values("last")
        ).defer("log")
    }
    cause = Cause(
        "server_to_check",
        _to_check,
        server_list(status__exact=Server.Status.NEW, host_key__gt=""),
        "region__id__exact",
    )
    for server in servers:
        check = latest.get(server.pk)
        if check and check.is_open:
            continue
        yield Matter(
            WARNING,
            f"{server} · {server.get_status_display()}",
            check.reason if check else _("It has not been checked yet."),
            reverse("admin:containers_server_check", args=[server.pk]),
            f"server_to_check:{server.pk}",
            check.finished_at if check else None,
            server.name,
            cause,
            place_of(server.region),
            server=server.pk,
        )


def _relay_name(relay: Relay) -> str:
    return f"{relay.rental} · {relay.server}"


def _own_name(relay: Relay) -> str:
    """What its customer knows it as: its region and place."""
    return f"{relay.server.region.name} {relay.slot}"


def _relays_failed(count: int) -> str:
    return ngettext("%(count)d relay failed", "%(count)d relays failed", count) % {"count": count}


def _failed_relays() -> Iterator[Matter]:
    failed = _FAILED.read()
    if not failed:
        return
    tries = Deployment.objects.filter(
        relay__in=failed, status__in=[Deployment.Status.FAILED, Deployment.Status.ERRORED]
    )
    newest = tries.values("relay").annotate(last=Max("pk")).values("last")
    last = {
        deployment.relay_id: deployment
        for deployment in Deployment.objects.filter(pk__in=newest).defer("log", "detail")
    }
    for relay in failed:
        code, deployment = relay.failure_code, last.get(relay.pk)
        page = "admin:containers_deployment_change" if deployment else "admin:containers_relay_change"
        wanted = {
            "status__exact": relay.status,
            "failure_code__exact": code,
            "server__silent_since__isempty": 1,
        }
        yield Matter(
            CRITICAL,
            _("Relay of %(customer)s on %(server)s failed")
            % {"customer": relay.rental, "server": relay.server},
            deployment.reason if deployment else explain(code),
            reverse(page, args=[deployment.pk if deployment else relay.pk]),
            f"relay_failed:{relay.pk}",
            relay.failed_at,
            _relay_name(relay),
            Cause(f"relay_failed.{code}", _relays_failed, _relay_list(**wanted), _OF_REGION),
            place_of(relay.server.region),
            rule="relay",
            server=relay.server_id,
            customer=relay.rental.user_id if relay.rental else None,
            own=_("%(relay)s does not run; it is started again by itself.") % {"relay": _own_name(relay)},
        )


def _proofs_failed(count: int) -> str:
    return ngettext(
        "%(count)d relay did not pass its last test", "%(count)d relays did not pass their last test", count
    ) % {"count": count}


def _failed_proofs() -> Iterator[Matter]:
    for relay in _FAILED_PROOFS.read():
        health = relay.last_health
        assert health
        wanted = {
            "status__exact": relay.status,
            "last_health__is_ok__exact": 0,
            "last_health__cause__exact": health.cause,
            "server__silent_since__isempty": 1,
        }
        yield Matter(
            WARNING,
            _("Relay of %(customer)s on %(server)s did not pass its last test")
            % {"customer": relay.rental, "server": relay.server},
            str(CAUSES.get(health.cause, health.cause)),
            reverse("admin:containers_relay_change", args=[relay.pk]),
            f"proof_failed:{relay.pk}",
            relay.failing_since or health.at,
            _relay_name(relay),
            Cause(f"proof_failed.{health.cause}", _proofs_failed, _relay_list(**wanted), _OF_REGION),
            place_of(relay.server.region),
            rule="relay",
            server=relay.server_id,
            customer=relay.rental.user_id if relay.rental else None,
            own=_("%(relay)s did not pass its tests; it is tested on by itself.")
            % {"relay": _own_name(relay)},
        )


def _internal_errors(now: datetime) -> Iterator[Matter]:
    (errors,) = _ERRORS.read(since=now - ERRORS_SHOWN_FOR)
    if not errors["count"]:
        return
    title = ngettext("%(count)d internal error", "%(count)d internal errors", errors["count"])
    yield Matter(
        CRITICAL,
        title % {"count": errors["count"]},
        _("Deployments of the last day; the panel's log says more."),
        f"{reverse('admin:containers_deployment_changelist')}?status__exact=errored",
        "internal_errors",
        errors["first"],
        rule="panel",
    )


def _certificates(now: datetime) -> Iterator[Matter]:
    (found,) = _CERTIFICATES.read(until=now + rotation.CERTIFICATE_RESERVE)
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
    url = _relay_list(
        status__exact=Relay.Status.RUNNING,
        try_after__isnull=0,
        certificate_ends_at__lte=found["last"].isoformat(),
    )
    level = CRITICAL if found["first"] <= now + CERTIFICATE_CRITICAL else WARNING
    yield Matter(level, title, text, url, "certificates_without_successor", rule="certificate")


def _miscounted(count: int) -> str:
    return ngettext(
        "%(count)d relay counted its traffic wrongly",
        "%(count)d relays counted their traffic wrongly",
        count,
    ) % {"count": count}


def _traffic(now: datetime) -> Iterator[Matter]:
    for error in _TRAFFIC_ERRORS.read(since=now - traffic.ERROR_ENDS_AFTER):
        relay = error.relay
        yield Matter(
            WARNING,
            _("The traffic of %(customer)s on %(server)s was counted wrongly")
            % {"customer": relay.rental, "server": relay.server},
            _(
                "What its server said cannot be and was not counted: %(received)s bytes in, %(sent)s bytes out (%(number)s times). "
                "The next reading that is right counts all."
            )
            % {"received": error.received_bytes, "sent": error.sent_bytes, "number": error.number},
            reverse("admin:containers_relay_change", args=[relay.pk]),
            f"traffic_error:{relay.pk}",
            error.since,
            _relay_name(relay),
            Cause("traffic_error", _miscounted, _relay_list(), _OF_REGION),
            place_of(relay.server.region),
            rule="traffic_error",
            server=relay.server_id,
        )


def _places(now: datetime) -> Iterator[Matter]:
    usable = _USABLE.read()[0]["count"]
    if usable < len(SLOTS):
        title = ngettext("%(count)d usable server", "%(count)d usable servers", usable) % {"count": usable}
        text = _("A customer's three relays stand on three servers: add one.")
        yield Matter(CRITICAL, title, text, reverse("admin:fleet_server_add"), "too_few_servers")
    short = len(_SHORT.read(now=now))
    if short:
        title = ngettext(
            "%(count)d customer has fewer than three relays",
            "%(count)d customers have fewer than three relays",
            short,
        )
        text = _("No further server is free for them; they are served by themselves as soon as one is.")
        url = reverse("admin:fleet_server_changelist")
        yield Matter(CRITICAL, title % {"count": short}, text, url, "customers_without_relays")
