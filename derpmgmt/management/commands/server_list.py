from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Count, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.models import ServerCheck
from derpmgmt.server_command import ServerCommand
from fleet.models import Server


class Command(ServerCommand):
    """The servers and how they are."""

    help: Any = gettext_lazy(
        "List the servers: state and its reason, region, relays against capacity, last visit."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--region", nargs="+", metavar="CODE", help=_("only those in these regions, for example sh")
        )
        parser.add_argument(
            "--status", nargs="+", choices=Server.Status.values, help=_("only those in these states")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        servers = Server.objects.select_related("region").annotate(
            relay_count=Count("relays", filter=Q(relays__live=1))
        )
        if options["region"]:
            servers = servers.filter(region__in=[self.find_region(code) for code in options["region"]])
        if options["status"]:
            servers = servers.filter(status__in=options["status"])
        latest = {
            check.server_id: check
            for check in ServerCheck.objects.filter(server__status=Server.Status.NEW)
            .defer("log")
            .order_by("pk")
        }
        rows = [
            {
                "id": server.pk,
                "name": server.name,
                "status": server.status,
                "state": server.get_status_display(),
                "reason": self.reason_of(server, latest.get(server.pk)),
                "words": check.detail if (check := latest.get(server.pk)) else "",
                "region": server.region.code,
                "region_name": server.region.name,
                "address": server.address,
                "ssh": f"{server.ssh_address}:{server.ssh_port}",
                "relays": server.relay_count,
                "capacity": server.capacity,
                "fill": f"{server.relay_count}/{server.capacity}",
                "docker_version": server.docker_version,
                "last_visit_at": server.last_visit_at,
            }
            for server in servers
        ]
        self.emit(
            rows,
            {
                "name": _("Name"),
                "state": _("State"),
                "region_name": _("Region"),
                "address": _("Address"),
                "fill": _("Relays"),
                "docker_version": "Docker",
                "last_visit_at": _("Last visit"),
                "reason": _("Reason"),
            },
        )
