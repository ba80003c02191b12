from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, pgettext

from accounts.models import User
from containers.models import TrafficMonth
from containers.services.traffic_files import csv_lines
from derpmgmt.lib.commands import MOST_ROWS
from derpmgmt.server_command import ServerCommand
from serials.rentals.wording import traffic


class Command(ServerCommand):
    """What flowed through a customer's relays, or a server's, by relay and month."""

    help: Any = gettext_lazy("Show the traffic of a customer or a server, by relay and month.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "whose", metavar="EMAIL|SERVER", help=_("a customer's address, or a server's name or address")
        )
        parser.add_argument("--csv", action="store_true", help=_("all months as a file for spreadsheets"))

    def handle(self, *args: Any, **options: Any) -> None:
        rows = TrafficMonth.objects.filter(**self._read_whose(options["whose"])).order_by(
            "-begins_on", "relay"
        )
        if options["csv"]:
            for line in csv_lines(rows.order_by("begins_on", "relay")):
                self.stdout.write(line, ending="")
            return
        names = (
            "begins_on",
            "relay_id",
            "relay__server__name",
            "rental__user__email",
            "up_bytes",
            "down_bytes",
        )
        self.emit(
            [
                {
                    "month": begins_on,
                    "relay": relay,
                    "server": server,
                    "email": email,
                    "up_bytes": up,
                    "down_bytes": down,
                    "up": traffic(up),
                    "down": traffic(down),
                }
                for begins_on, relay, server, email, up, down in rows.values_list(*names)[:MOST_ROWS]
            ],
            {
                "month": _("Month from"),
                "relay": _("Relay"),
                "server": _("Server"),
                "email": _("Customer"),
                "up": pgettext("traffic", "Up"),
                "down": pgettext("traffic", "Down"),
            },
        )

    def _read_whose(self, text: str) -> dict[str, Any]:
        """The condition on months; raises `CommandError` for nobody's address and no server's name."""
        if "@" not in text:
            return {"relay__server": self.find_server(text, with_retired=True)}
        user = User.objects.filter(email=text.strip().lower()).first()
        if user is None:
            raise CommandError(_("There is no account with the address %(email)s.") % {"email": text})
        return {"rental__user": user}
