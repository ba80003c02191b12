from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.services import checks
from derpmgmt.lib.commands import CommandRefused
from derpmgmt.server_command import ServerCommand


class Command(ServerCommand):
    """Have a server checked again."""

    help: Any = gettext_lazy(
        "Check a server again; one that is being added is taken into use when all is well."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_name(parser)
        parser.add_argument("--no-wait", action="store_true", help=_("do not wait for the checks"))

    def handle(self, *args: Any, **options: Any) -> None:
        server = self.find_server(options["server"])
        if not server.host_key:
            raise CommandRefused(
                _("Its host key is not confirmed yet: manage.py server_edit %(name)s --host-key SHA256:…")
                % {"name": server.name},
                code="host_key_unconfirmed",
            )
        since = self.last_check(server)
        check = checks.request_check(server_pk=server.pk)
        if not options["no_wait"]:
            self.follow_check(server, min(since, check.pk - 1))
        self.show(server)
