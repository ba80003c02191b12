"""What the operators' commands about limits share: their options, and showing what counts."""

from argparse import ArgumentTypeError
from typing import Any

from django.core.management.base import CommandParser
from django.utils import timezone
from django.utils.translation import gettext as _

from containers.allowance_words import limits_as_values, limits_in_words
from containers.allowances import Use
from containers.models import Relay
from containers.services.allowances import allowance_of
from containers.services.traffic import month_of
from derpmgmt.lib.arguments import MOST_GB, MOST_MBIT, amount, number, or_otherwise
from derpmgmt.lib.commands import PanelCommand
from serials.rentals.limits import AtQuota
from serials.rentals.models import Rental
from serials.rentals.services import current_span
from serials.rentals.wording import BYTES_PER_GB, BYTES_PER_MBIT, traffic

_OPTIONS = {
    "traffic": "cap_both_bytes",
    "up": "cap_up_bytes",
    "down": "cap_down_bytes",
    "rate": "cap_rate",
    "devices": "cap_devices",
    "at_quota": "cap_at_quota",
}


def _at_quota(text: str) -> str:
    if text in AtQuota.values:
        return text
    raise ArgumentTypeError(", ".join(AtQuota.values))


class LimitsCommand(PanelCommand):
    """A command that shows limits, and says others where an option gives one."""

    def add_limits(self, parser: CommandParser, *, with_devices: bool) -> None:
        """The options that say something; one that is not given is not there, so that it stays as it is."""
        given: dict[str, Any] = {"default": None, "nargs": 1}
        size = or_otherwise(amount(BYTES_PER_GB, MOST_GB))
        parser.add_argument(
            "--traffic", metavar="GB", type=size, **given,
            help=_("traffic a month, both ways together; 0 = unlimited, - = as it is otherwise, here and below"),
        )  # fmt: skip
        parser.add_argument("--up", metavar="GB", type=size, **given, help=_("of it from devices"))
        parser.add_argument("--down", metavar="GB", type=size, **given, help=_("of it to devices"))
        rate = or_otherwise(amount(BYTES_PER_MBIT, MOST_MBIT))
        parser.add_argument("--rate", metavar="MBIT", type=rate, **given, help=_("Mbit/s for each device"))
        if with_devices:
            devices = or_otherwise(number(1, 1000))
            parser.add_argument(
                "--devices", metavar="N", type=devices, **given, help=_("devices that may be approved")
            )
        parser.add_argument(
            "--at-quota", metavar="|".join(AtQuota.values), type=or_otherwise(_at_quota, ""), **given,
            help=_("what happens at the allowance"),
        )  # fmt: skip
        parser.add_argument("--note", help=_("operators read it beside the limits"))

    @staticmethod
    def read_limits(options: dict[str, Any], row: Rental | Relay) -> tuple[dict[str, Any], str] | None:
        """What the options say, as services take it, and the note; None where they say nothing."""
        given = {field: options[name] for name, field in _OPTIONS.items() if options.get(name) is not None}
        if not given and options["note"] is None:
            return None
        note = row.cap_note if options["note"] is None else options["note"]
        return {field: value for field, (value,) in given.items()}, note

    def show_limits(self, rental: Rental, relay: Relay | None, used: Use) -> None:
        """Print what counts for a customer, or a relay of theirs, where that was said, and what is used this month."""
        now = timezone.now()
        row = relay or rental
        begins_on = month_of(rental, now)
        if not self.as_json:
            names = [
                *limits_in_words(rental, now, relay),
                (_("used since %(day)s") % {"day": begins_on}, traffic(used.both)),
                (_("traffic this month"), row.get_traffic_state_display()),
                (_("stopped, traffic used up"), row.stopped_at),
                (_("note on the limits"), row.cap_note),
            ]
            self.emit_one(dict(names), {name: name for name, _value in names})
            return
        allowance = allowance_of(rental, current_span(rental, now), relay)
        found: dict[str, Any] = {
            "email": rental.user.email,
            "limits": limits_as_values(allowance),
            "note": row.cap_note,
            "month": begins_on,
            "up_bytes": used.up,
            "down_bytes": used.down,
            "traffic_state": row.traffic_state,
            "stopped_at": row.stopped_at,
        }
        found |= (
            {"added_bytes": rental.added_bytes}
            if relay is None
            else {"relay": relay.pk, "rate_now": relay.rate}
        )
        self.emit_one(found, {})
