"""What would become of devices that somebody pasted, shown before anything is done."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from acl.devices.models import Device
from acl.devices.node_keys import NewDevice
from acl.devices.services.places import places_left
from containers.derp.keys import format_node_key
from serials.rentals.models import Rental


@dataclass(frozen=True)
class PastedLine:
    """One device as it was named, and its row where the rental has one; `is_ticked` is who is approved unless that is undone."""

    device: NewDevice
    row: Device | None
    is_ticked: bool

    @property
    def name(self) -> str:
        """What it is called, by the paste or by its row; "" for nothing."""
        return self.device.name or (self.row.name if self.row else "")

    @property
    def is_open(self) -> bool:
        """Whether it may be ticked."""
        return self.is_ticked or not (self.is_approved or self.is_revoked)

    @property
    def is_approved(self) -> bool:
        """Whether nothing is to be done."""
        return self.row is not None and self.row.status == Device.Status.APPROVED

    @property
    def is_revoked(self) -> bool:
        """Whether the customer keeps it out; in a list it is left out."""
        return self.row is not None and self.row.status == Device.Status.REVOKED


@dataclass(frozen=True)
class Paste:
    """Devices that were pasted; `left` is how many places there are for them, `text` names them again, for the confirmation."""

    lines: tuple[PastedLine, ...]
    left: int
    text: str

    @property
    def may_add(self) -> bool:
        """Whether any of them may be approved."""
        return any(line.is_open for line in self.lines)

    @property
    def is_too_many(self) -> bool:
        """Whether more are to be approved than there are places."""
        return sum(line.is_ticked for line in self.lines) > self.left


def describe_paste_of(*, rental: Rental, devices: Sequence[NewDevice], now: datetime) -> Paste:
    """What would become of them; two queries however many they are. Of a list, revoked ones are not ticked."""
    keys = [device.node_key for device in devices]
    rows = {row.node_key: row for row in Device.objects.filter(rental=rental, node_key__in=keys)}
    lines = []
    left = places_left(rental, now)
    for device in devices:
        row = rows.get(device.node_key)
        line = PastedLine(device, row, is_ticked=False)
        is_ticked = not line.is_approved and (not line.is_revoked or len(devices) == 1)
        left += is_ticked and row is not None and row.is_placed(now)
        lines.append(PastedLine(device, row, is_ticked))
    # As Headscale lists them: names may have signs that are JSON's own.
    named = [{"node_key": format_node_key(one.node_key), "given_name": one.name} for one in devices]
    text = json.dumps(named, ensure_ascii=False)
    return Paste(tuple(lines), left, text)
