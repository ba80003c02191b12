"""What the operators' commands about one customer's devices share."""

import re
from collections.abc import Mapping
from typing import Any

from django.core.management.base import CommandError
from django.utils.translation import gettext as _

from acl.devices import presence
from acl.devices.models import Device
from derpmgmt.rental_command import RentalCommand
from serials.rentals.models import Rental

# Digits of a node key that a table shows, and that are needed at least to name a device.
SHOWN_DIGITS = 16
FEWEST_DIGITS = 8
# Relays that do not say who is connected within this time (seconds) are not waited for.
_PRESENCE_SECONDS = 10.0


class DeviceCommand(RentalCommand):
    """A command about the devices of the customer with an address."""

    def row(self, device: Device) -> dict[str, Any]:
        """A device as the tables and `--json` have it."""
        relay = device.last_relay
        return {
            "node_key": f"nodekey:{device.node_key}",
            "key": f"nodekey:{device.node_key[:SHOWN_DIGITS]}…",
            "name": device.name,
            "status": device.status,
            "state": device.get_status_display(),
            "source": device.source,
            "first_seen_at": device.first_seen_at,
            "last_seen_at": device.last_seen_at,
            "address": device.last_ip,
            "place": device.last_place,
            "relay": str(relay) if relay else None,
        }

    def find_device(self, rental: Rental, text: str) -> Device:
        """The device whose node key begins so; raises `CommandError` when that is no beginning, of none or of several."""
        match = re.fullmatch(rf"(?:nodekey:)?([0-9a-f]{{{FEWEST_DIGITS},64}})", text.strip().lower())
        if match is None:
            raise CommandError(
                _("Name the device by its node key, or by at least the first %(count)d digits of it.")
                % {"count": FEWEST_DIGITS},
                returncode=2,
            )
        found = list(Device.objects.filter(rental=rental, node_key__startswith=match[1])[:2])
        if not found:
            raise CommandError(
                _("%(email)s has no device with this node key.") % {"email": rental.user.email}
            )
        if len(found) > 1:
            raise CommandError(_("Several devices have a node key that begins like this; give more digits."))
        return found[0]

    @staticmethod
    def read_connected(rental: Rental) -> Mapping[str, presence.Presence] | None:
        """Who is connected now by node key, as the rental's relays say when they are asked; None when that is not known."""
        try:
            presence.read_presence(rental.pk).result(timeout=_PRESENCE_SECONDS)
        except TimeoutError:
            return None
        return presence.present_devices(rental)
