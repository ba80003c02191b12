from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser
from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.commands import CommandRefused
from derpmgmt.server_command import ServerCommand, refuse_invalid
from fleet import services


class Command(ServerCommand):
    """Change a server's fields, how it is signed in at, or its pinned host key."""

    help: Any = gettext_lazy(
        "Change a server. A new address means new certificates and maps; another host key is shown and confirmed as at first."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        self.add_name(parser)
        parser.add_argument("--name", help=_("new name in the panel"))
        parser.add_argument("--region", help=_("code of the region, for example sh"))
        parser.add_argument("--address", help=_("public IPv4 address that customers' devices reach"))
        self.add_sign_in(parser)
        self.add_fields(parser, with_defaults=False)

    def handle(self, *args: Any, **options: Any) -> None:
        server = self.find_server(options["server"])
        changes = self.read_fields(options)
        changes |= {name: options[name] for name in ("name", "address") if options[name] is not None}
        if options["region"]:
            changes["region"] = self.find_region(options["region"])
        if options["user"] and not (options["key"] or options["password_stdin"] or options["credential"]):
            raise CommandRefused(
                _("Say how to sign in: --key FILE, --password-stdin or --credential NAME."),
                code="no_sign_in",
                returncode=2,
            )
        key = None
        if options["host_key"]:
            now = {name: getattr(server, name) for name in ("address", "bind_address", "ssh_host")}
            host = self.check_addresses(now | changes)
            key = self.confirm_key(host, changes.get("ssh_port", server.ssh_port), options["host_key"])
        try:
            with transaction.atomic():
                credential = self.read_credential(options, changes.get("name", server.name), server)
                if credential is not None:
                    changes["credential"] = credential
                if not changes and key is None:
                    raise CommandRefused(
                        _("Say what to change; --help lists what can be."), code="usage", returncode=2
                    )
                if changes:
                    services.update_server(server=server, by=None, **changes)
        except ValidationError as error:
            raise refuse_invalid(error) from error
        if key is not None and key.line != server.host_key:
            services.confirm_host_key(server=server, line=key.line, by=None)
        self.show(server)
