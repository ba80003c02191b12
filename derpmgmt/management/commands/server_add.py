from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandParser
from django.db import transaction
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.services import checks
from derpmgmt.lib.commands import CommandRefused
from derpmgmt.server_command import ServerCommand, refuse_invalid
from fleet import services
from fleet.models import Region, Server


class Command(ServerCommand):
    """Register a server, pin its host key, check it, and take it into use."""

    help: Any = gettext_lazy(
        "Add a server: connects, shows the host key's fingerprint for confirmation, checks Docker, disk, clock and ports, "
        "and proves the server with a throw-away relay. Run again for a server that is still being added, it goes on there."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", help=_("public IPv4 address that customers' devices reach"))
        parser.add_argument("--name", help=_("name in the panel (default: the address)"))
        parser.add_argument("--region", required=True, help=_("code of the region, for example sh"))
        self.add_sign_in(parser)
        self.add_fields(parser, with_defaults=True)
        parser.add_argument("--no-wait", action="store_true", help=_("do not wait for the checks"))

    def handle(self, *args: Any, **options: Any) -> None:
        region = self.find_region(options["region"])
        address, port = options["address"].strip(), options["ssh_port"]
        host = self.check_addresses(self.read_fields(options) | {"address": address})
        known = self._find_unfinished(address, port)
        key = self.confirm_key(host, port, options["host_key"], known.host_key if known else "")
        try:
            # Together: a server that is refused leaves no credential behind.
            with transaction.atomic():
                server = self._save(known, region, options)
        except ValidationError as error:
            raise refuse_invalid(error) from error
        since = self.last_check(server)
        if key.line != server.host_key:
            services.confirm_host_key(server=server, line=key.line, by=None)  # has it checked
        else:
            self.say(_("This server is being added already; its checks are made again."))
            check = checks.request_check(server_pk=server.pk)
            since = min(since, check.pk - 1)
        if not options["no_wait"]:
            self.follow_check(server, since)
        self.show(server)

    @staticmethod
    def _find_unfinished(address: str, port: int) -> Server | None:
        """The row of this address that is still being added; raises `CommandRefused` for one that is in use."""
        known = (
            Server.objects.exclude(status=Server.Status.RETIRED)
            .filter(address=address, ssh_port=port)
            .first()
        )
        if known is not None and known.status != Server.Status.NEW:
            values = {"name": known.name, "state": known.get_status_display()}
            raise CommandRefused(
                _(
                    "There is a server with this address already: %(name)s (%(state)s). Change it by server_edit, check it by "
                    "server_check, or remove it by server_remove."
                )
                % values,
                code="server_exists",
                details={"server": known.name, "status": known.status},
            )
        return known

    def _save(self, known: Server | None, region: Region, options: dict[str, Any]) -> Server:
        name = options["name"] or (known.name if known else options["address"])
        credential = self.read_credential(options, name, known) or (known.credential if known else None)
        if credential is None:
            raise CommandRefused(
                _("Say how to sign in: --key FILE, --password-stdin or --credential NAME."), code="no_sign_in"
            )
        fields = {
            "name": name,
            "region": region,
            "credential": credential,
            **self.read_fields(options),
        }
        if known is None:
            return services.create_server(by=None, address=options["address"], **fields)
        services.update_server(server=known, by=None, **fields)
        return known
