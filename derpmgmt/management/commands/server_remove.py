from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.server_command import ServerCommand
from fleet import services


class Command(ServerCommand):
    """Remove a server that holds no relay."""

    help: Any = gettext_lazy(
        "Remove a server that holds no relay; its history stays, its name and address are free again."
    )
    destroys = True

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_name(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        server = self.find_server(options["server"])
        name = server.name
        self.confirm(
            name,
            _("This removes the server %(name)s from the panel.") % {"name": name},
            is_sure=options["yes"],
        )
        services.retire_server(server=server, by=None)
        server.refresh_from_db()
        self.emit_one(
            {
                "id": server.pk,
                "name": name,
                "address": server.address,
                "status": server.status,
                "state": server.get_status_display(),
            },
            {"name": _("Name"), "address": _("Address"), "state": _("State")},
        )
