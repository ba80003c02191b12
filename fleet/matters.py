"""What of the fleet needs a person."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.matters import CRITICAL, INFORMATION, WARNING, Cause, Matter, Place
from derpmgmt.lib.prepared import Prepared
from fleet import outages
from fleet.engine_errors import SENTENCES as ENGINE_SENTENCES
from fleet.models import UNHEALTHY_AFTER, Region, Server

# Servers are visited every 15 s: after so long nobody seems to do it.
VISITS_MISSED = timedelta(minutes=2)

# What the Engine says or lacks while SSH answers.
DOCKER_CODES = frozenset(ENGINE_SENTENCES)


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


_SERVERS = Prepared(
    lambda: (
        Server.objects.exclude(status=Server.Status.RETIRED)
        .select_related("region")
        .order_by("region__code", "name")
    )
)


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": servers that do not answer or do not work, wait for a person, or are visited by nobody."""
    servers = _SERVERS.read()
    managed = [server for server in servers if server.status != Server.Status.NEW]
    cut_off = outages.find_cut_off(servers, now)
    visited_at = max((server.last_visit_at for server in managed if server.last_visit_at), default=None)
    if managed and (visited_at is None or now - visited_at > VISITS_MISSED):
        text = _("Every server is visited four times a minute. Do the panel's workers run?")
        url = reverse("admin:fleet_server_changelist")
        yield Matter(
            CRITICAL, _("No server is being visited"), text, url, "no_visits", visited_at, rule="panel",
            # While none can be reached nobody can tell.
            is_certain=not cut_off,
        )  # fmt: skip
    if cut_off:
        yield _cut_off(cut_off)
    for server in servers:
        if matter := _matter_of(
            server, is_seen=not cut_off and outages.is_heard_of_others(server, servers, now)
        ):
            yield matter
        if matter := _traffic_of(server):
            yield matter


def _cut_off(found: outages.CutOff) -> Matter:
    text = _("%(silent)d of %(count)d servers: look at the panel's own network first.") % {
        "silent": found.silent,
        "count": found.servers,
    }
    title = _("Most servers have stopped answering at once: the panel itself may be cut off")
    url, key = reverse("admin:fleet_server_changelist"), "panel_cut_off"
    return Matter(
        CRITICAL, title, text, url, key, found.since, rule="panel_cut_off", is_certain=found.is_certain
    )


def _rule_of(server: Server) -> str:
    """By which rule its alert is raised: that of Docker where the machine answers and its Engine does not."""
    return "docker_error" if server.status_code in DOCKER_CODES else "server_error"


def _matter_of(server: Server, *, is_seen: bool) -> Matter | None:
    """What there is to say of a server; alerts only of those that the panel is not cut off from."""
    page = reverse("admin:fleet_server_change", args=[server.pk])
    title, region = f"{server} · {server.get_status_display()}", place_of(server.region)
    if server.silent_since and server.status in outages.UNANNOUNCED:
        url = server_list(status__in=",".join(outages.UNANNOUNCED), silent_since__isnull=0)
        cause = Cause("server_silent", _silent, url, "region__id__exact")
        title = _("%(server)s does not answer") % {"server": server}
        text = server.reason
        since, key = server.silent_since, f"server_silent:{server.pk}"
        return Matter(
            CRITICAL, title, text, page, key, since, server.name, cause, region,
            rule=_rule_of(server), server=server.pk,
            # One lost visit is none; one that answers wrongly is none that was lost.
            is_certain=is_seen and (server.contact_failures >= UNHEALTHY_AFTER or server.status_code not in outages.NOTHING_HEARD),
        )  # fmt: skip
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
            CRITICAL, title, server.reason, page, key, server.unhealthy_since, server.name, cause, region,
            rule=_rule_of(server), server=server.pk,
        )  # fmt: skip
    if server.status == Server.Status.MAINTENANCE:
        url = server_list(status__exact=server.status)
        cause = Cause("server_maintenance", _in_maintenance, url, "region__id__exact")
        text, key = server.reason or _("Nothing new is placed on it."), f"server_maintenance:{server.pk}"
        return Matter(INFORMATION, title, text, page, key, None, server.name, cause, region, rule="")
    if server.status == Server.Status.NEW and not server.host_key:
        url = server_list(status__exact=server.status, host_key__exact="")
        cause = Cause("server_without_key", _without_key, url, "region__id__exact")
        page, key = (
            reverse("admin:fleet_server_host_key", args=[server.pk]),
            f"server_without_key:{server.pk}",
        )
        text = _("Its host key waits to be confirmed.")
        return Matter(
            WARNING, title, text, page, key, server.created_at, server.name, cause, region, server=server.pk
        )
    return None


def _used_up(count: int) -> str:
    return ngettext(
        "%(count)d server has no traffic left", "%(count)d servers have no traffic left", count
    ) % {"count": count}


def _running_out(count: int) -> str:
    return ngettext(
        "%(count)d server's traffic will not last", "%(count)d servers' traffic will not last", count
    ) % {"count": count}


def _traffic_of(server: Server) -> Matter | None:
    """That a server's traffic of the month is used up, or will be before it is counted anew: one matter, which may become worse."""
    page, region = reverse("admin:fleet_server_change", args=[server.pk]), place_of(server.region)
    key, rule = f"server_traffic:{server.pk}", "server_traffic"
    if server.traffic_over_at:
        url = server_list(traffic_over_at__isnull=0)
        cause = Cause("server_traffic_over", _used_up, url, "region__id__exact")
        title = _("The traffic of %(server)s is used up") % {"server": server}
        text = _("Its heaviest relays are stopped, and nothing new is placed there until it is counted anew.")
        since = server.traffic_over_at
        return Matter(
            CRITICAL, title, text, page, key, since, server.name, cause, region, rule=rule, server=server.pk
        )
    if server.traffic_runs_out_on:
        url = server_list(traffic_runs_out_on__isnull=0)
        cause = Cause("server_traffic", _running_out, url, "region__id__exact")
        day = date_format(server.traffic_runs_out_on, "Y-m-d")
        title = _("The traffic of %(server)s runs out on %(day)s") % {"server": server, "day": day}
        text = _("That is before it is counted anew, as it goes: its heaviest relays will stop then.")
        return Matter(
            WARNING, title, text, page, key, None, server.name, cause, region, rule=rule, server=server.pk
        )
    return None
