from typing import Any

from django.db.models import Count, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.commands import PanelCommand
from fleet.models import Server


class Command(PanelCommand):
    """The servers and how they are."""

    help: Any = gettext_lazy("List the servers: state, region, relays against capacity, last visit.")

    def handle(self, *args: Any, **options: Any) -> None:
        servers = Server.objects.select_related("region").annotate(
            relay_count=Count("relays", filter=Q(relays__live=1))
        )
        rows = [
            {
                "id": server.pk,
                "name": server.name,
                "status": server.status,
                "state": server.get_status_display(),
                "reason": server.reason,
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
