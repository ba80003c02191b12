import argparse
import sys
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from acl.devices import services
from acl.devices.models import Device
from acl.devices.node_keys import (
    LONGEST_INPUT,
    NewDevice,
    NoNodeKey,
    NotAList,
    TooLong,
    parse_devices,
    parse_node_key,
)
from acl.devices.pasted import decode
from derpmgmt.device_command import DeviceCommand
from serials.rentals.models import Rental

STANDARD_INPUT = "-"


def _key(text: str) -> str:
    if text == STANDARD_INPUT:
        return text
    try:
        return parse_node_key(text)
    except NoNodeKey as error:
        # Not repeated: somebody may have pasted a private key.
        raise argparse.ArgumentTypeError(_("a node key is “nodekey:” and 64 hexadecimal digits")) from error


class Command(DeviceCommand):
    """Approve devices by their node keys."""

    help: Any = gettext_lazy("Let devices in by their node keys.")

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.add_argument(
            "keys",
            metavar="NODEKEY",
            nargs="+",
            type=_key,
            help=_(
                "nodekey:…; - reads a list, or what “tailscale status --json” prints, from standard input"
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        rental = self.find_rental(options["email"])
        devices = self._read(options["keys"])
        try:
            added = services.add_devices(rental=rental, devices=devices, by=None)
        except services.LimitReached:
            added = services.Added(left_out=tuple(devices))
        except services.DeviceRefused as refusal:
            raise CommandError(str(refusal)) from refusal
        left_out = [Device(node_key=device.node_key, name=device.name) for device in added.left_out]
        results = {
            "added": _("added"),
            "known": _("known already"),
            "revoked": _("left out: revoked"),
            "left_out": _("left out"),
        }
        found = {"added": added.added, "known": added.known, "revoked": added.revoked, "left_out": left_out}
        self.emit(
            [
                {
                    "result": result,
                    "outcome": results[result],
                    "node_key": f"nodekey:{device.node_key}",
                    "name": device.name,
                }
                for result, devices_of in found.items()
                for device in devices_of
            ],
            {"outcome": _("Result"), "node_key": _("Node key"), "name": _("Name")},
        )
        reasons = [self._reason(rental, len(left_out))] if left_out else []
        if added.revoked:
            text = ngettext(
                "%(count)d device is revoked and was left out: name it alone to approve it again.",
                "%(count)d devices are revoked and were left out: name them one by one to approve them again.",
                len(added.revoked),
            )
            reasons.append(text % {"count": len(added.revoked)})
        if reasons:
            raise CommandError(" ".join(reasons))

    @staticmethod
    def _read(keys: list[str]) -> list[NewDevice]:
        devices = [NewDevice(key) for key in keys if key != STANDARD_INPUT]
        if STANDARD_INPUT in keys:
            try:
                # UTF-16, as PowerShell writes files, has two bytes for a character.
                devices += parse_devices(decode(sys.stdin.buffer.read(2 * LONGEST_INPUT + 2)))
            except NotAList as error:
                raise CommandError(
                    _(
                        "Standard input is cut off, or does not say whose devices it names: give all that the command prints."
                    )
                ) from error
            except TooLong as error:
                raise CommandError(
                    _("Standard input is too long. Give the devices in several parts.")
                ) from error
            except NoNodeKey as error:
                raise CommandError(_("No node key was found in standard input.")) from error
        return list({device.node_key: device for device in devices}.values())

    @staticmethod
    def _reason(rental: Rental, count: int) -> str:
        text = ngettext(
            "%(count)d device was left out: the rental allows %(limit)d, and all places are taken.",
            "%(count)d devices were left out: the rental allows %(limit)d, and all places are taken.",
            count,
        )
        return text % {"count": count, "limit": services.device_limit(rental, timezone.now())}
