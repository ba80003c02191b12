"""What of the fleet needs a person."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.matters import CRITICAL, INFORMATION, WARNING, Cause, Matter, Place
from fleet.models import Region, Server

# Servers are visited every 15 s: after so long nobody seems to do it.
VISITS_MISSED = timedelta(minutes=2)

_UNANNOUNCED = (Server.Status.HEALTHY, Server.Status.UNHEALTHY, Server.Status.DRAINING)


def place_of(region: Region) -> Place:
    """A region as matters are grouped by it."""
    return Place(region.pk, region.name)


def server_list(**wanted: str | int) -> str:
    """The address of the list of servers that are so."""
    return f"{reverse('admin:fleet_server_changelist')}?{urlencode(wanted)}"


def _silent(count: int) -> str:
    text = ngettext("%(count)d server does not answer", "%(count)d servers do not answer", count)
    return text % {"count": count}


def _unhealthy(count: int) -> str:
    text = ngettext("%(count)d server is unhealthy", "%(count)d servers are unhealthy", count)
    return text % {"count": count}


def _in_maintenance(count: int) -> str:
    text = ngettext("%(count)d server is in maintenance", "%(count)d servers are in maintenance", count)
    return text % {"count": count}


def _without_key(count: int) -> str:
    text = ngettext(
        "%(count)d server waits until its host key is confirmed",
        "%(count)d servers wait until their host keys are confirmed",
        count,
    )
    return text % {"count": count}


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": servers that do not answer or do not work, wait for a person, or are visited by nobody."""
    servers = list(
        Server.objects.exclude(status=Server.Status.RETIRED)
        .select_related("region")
        .order_by("region__code", "name")
    )
    managed = [server for server in servers if server.status != Server.Status.NEW]
    visited_at = max((server.last_visit_at for server in managed if server.last_visit_at), default=None)
    if managed and (visited_at is None or now - visited_at > VISITS_MISSED):
        text = _("Every server is visited four times a minute. Do the panel's workers run?")
        url = reverse("admin:fleet_server_changelist")
        yield Matter(CRITICAL, _("No server is being visited"), text, url, "no_visits", visited_at)
    for server in servers:
        if matter := _matter_of(server):
            yield matter


def _matter_of(server: Server) -> Matter | None:
    page = reverse("admin:fleet_server_change", args=[server.pk])
    title, region = f"{server} · {server.get_status_display()}", place_of(server.region)
    if server.silent_since and server.status in _UNANNOUNCED:
        url = server_list(status__in=",".join(_UNANNOUNCED), silent_since__isnull=0)
        cause = Cause("server_silent", _silent, url, "region__id__exact")
        text = server.reason or _("It does not answer.")
        since, key = server.silent_since, f"server_silent:{server.pk}"
        return Matter(CRITICAL, title, text, page, key, since, server.name, cause, region)
    if server.status == Server.Status.UNHEALTHY:
        # What a person or an older panel wrote has no code.
        code = server.status_code
        url = server_list(
            status__exact=server.status,
            silent_since__isnull=1,
            **({"status_code__exact": code} if code else {}),
        )
        cause = Cause(f"server_unhealthy.{code}", _unhealthy, url, "region__id__exact")
        key = f"server_unhealthy:{server.pk}"
        return Matter(
            CRITICAL, title, server.reason, page, key, server.unhealthy_since, server.name, cause, region
        )
    if server.status == Server.Status.MAINTENANCE:
        url = server_list(status__exact=server.status)
        cause = Cause("server_maintenance", _in_maintenance, url, "region__id__exact")
        text, key = server.reason or _("Nothing new is placed on it."), f"server_maintenance:{server.pk}"
        return Matter(INFORMATION, title, text, page, key, None, server.name, cause, region)
    if server.status == Server.Status.NEW and not server.host_key:
        url = server_list(status__exact=server.status, host_key__exact="")
        cause = Cause("server_without_key", _without_key, url, "region__id__exact")
        page, key = (
            reverse("admin:fleet_server_host_key", args=[server.pk]),
            f"server_without_key:{server.pk}",
        )
        text = _("Its host key waits to be confirmed.")
        return Matter(WARNING, title, text, page, key, server.created_at, server.name, cause, region)
    return None
