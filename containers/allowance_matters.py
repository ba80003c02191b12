"""What of servers' traffic needs a person: one whose month is used up, one whose month will not last."""

from collections.abc import Iterator

from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.matters import CRITICAL, WARNING, Cause, Matter
from fleet.matters import place_of, server_list
from fleet.models import Server


def _used_up(count: int) -> str:
    return ngettext(
        "%(count)d server has no traffic left", "%(count)d servers have no traffic left", count
    ) % {"count": count}


def _running_out(count: int) -> str:
    return ngettext(
        "%(count)d server's traffic will not last", "%(count)d servers' traffic will not last", count
    ) % {"count": count}


def traffic_matters() -> Iterator[Matter]:
    """Servers whose traffic of the month is used up, or will be before it is counted anew."""
    servers = Server.objects.managed().select_related("region").order_by("name")
    for server in servers.filter(traffic_over_at__isnull=False):
        yield Matter(
            CRITICAL,
            _("The traffic of %(server)s is used up") % {"server": server},
            _("Its heaviest relays are stopped, and nothing new is placed there until it is counted anew."),
            reverse("admin:fleet_server_change", args=[server.pk]),
            f"server_traffic_over:{server.pk}",
            server.traffic_over_at,
            server.name,
            Cause(
                "server_traffic_over", _used_up, server_list(traffic_over_at__isnull=0), "region__id__exact"
            ),
            place_of(server.region),
            server=server.pk,
        )
    for server in servers.filter(traffic_over_at=None, traffic_runs_out_on__isnull=False):
        day = date_format(server.traffic_runs_out_on, "Y-m-d")
        yield Matter(
            WARNING,
            _("The traffic of %(server)s runs out on %(day)s") % {"server": server, "day": day},
            _("That is before it is counted anew, as it goes: its heaviest relays will stop then."),
            reverse("admin:fleet_server_change", args=[server.pk]),
            f"server_traffic:{server.pk}",
            None,
            server.name,
            Cause(
                "server_traffic",
                _running_out,
                server_list(traffic_runs_out_on__isnull=0),
                "region__id__exact",
            ),
            place_of(server.region),
            server=server.pk,
        )
