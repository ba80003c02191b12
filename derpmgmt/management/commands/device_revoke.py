from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.devices import services
from derpmgmt.device_command import DeviceCommand


class Command(DeviceCommand):
    """Revoke one of a customer's devices."""

    help: Any = gettext_lazy("Keep a device out from now on, and cut its connections.")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "key", metavar="NODEKEY", help=_("the node key, or at least the first eight digits of it")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        device = self.find_device(self.find_rental(options["email"]), options["key"])
        if not services.revoke_device(device=device, by=None):
            self.say(_("This device is revoked already."))
        device.refresh_from_db()
        self.emit_one(
            self.row(device),
            {
                "state": _("State"),
                "name": _("Name"),
                "node_key": _("Node key"),
                "last_seen_at": _("Last seen"),
            },
        )
