from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from acl.devices.models import Device
from derpmgmt.device_command import DeviceCommand

ORDER = [Device.Status.APPROVED, Device.Status.PENDING, Device.Status.REVOKED]


class Command(DeviceCommand):
    """List a customer's devices."""

    help: Any = gettext_lazy(
        "List a customer's devices: approved ones, those that wait, revoked ones; and who is connected now."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        connected = self.read_connected(rental)
        devices = Device.objects.filter(rental=rental).select_related("last_relay__server")
        self.emit(
            [
                {
                    **self.row(device),
                    "is_connected": None if connected is None else device.node_key in connected,
                }
                for device in sorted(devices, key=lambda device: ORDER.index(Device.Status(device.status)))
            ],
            {"state": _("State"), "name": _("Name"), "key": _("Node key"), "is_connected": _("Connected"),
             "first_seen_at": _("First seen"), "last_seen_at": _("Last seen"), "address": _("IP address"),
             "place": _("Place"), "relay": _("Relay")},
        )  # fmt: skip
