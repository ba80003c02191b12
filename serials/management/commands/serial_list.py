from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from derpmgmt.lib.commands import CONSOLE, CommandRefused, ListCommand
from serials.numbers.models import SerialBatch, SerialNumber
from serials.numbers.services import search_serials


def _describe(serial: SerialNumber) -> dict[str, Any]:
    batch, redemption = serial.batch, serial.redemption
    return {
        "id": serial.pk,
        "serial": serial.masked,
        "batch_id": batch.pk,
        "batch": batch.name,
        "days": batch.days,
        "status": serial.status,
        "state": serial.get_status_display(),
        "is_paid": batch.is_paid,
        "redeem_by": batch.redeem_by,
        "redeemed_at": serial.redeemed_at,
        "email": redemption.rental.user.email if redemption else None,
    }


def _batches(text: str) -> list[int]:
    """The batches with this number or name; raises `CommandRefused`."""
    wanted = Q(name=text)
    if text.isascii() and text.isdecimal() and len(text) < 19:
        wanted |= Q(pk=int(text))
    found = list(SerialBatch.objects.visible_to(CONSOLE).filter(wanted).values_list("pk", flat=True))
    if not found:
        raise CommandRefused(
            _("There is no batch with the number or name %(text)s.") % {"text": text}, code="no_batch"
        )
    return found


class Command(ListCommand):
    """Serial numbers."""

    help: Any = gettext_lazy(
        "List serial numbers, masked, the newest first: batch, state, and who redeemed them."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "text",
            nargs="?",
            default="",
            metavar="TEXT",
            help=_("a whole serial number, its last four characters, or words of the customer's address"),
        )
        parser.add_argument("--batch", metavar="ID|NAME", help=_("only those of this batch"))
        parser.add_argument(
            "--status",
            nargs="+",
            choices=SerialNumber.Status.values,
            help=_("only serial numbers in these states"),
        )
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        serials = search_serials(SerialNumber.objects.visible_to(CONSOLE), options["text"])
        if options["batch"]:
            serials = serials.filter(batch__in=_batches(options["batch"]))
        if options["status"]:
            serials = serials.filter(status__in=options["status"])
        self.emit_page(
            serials.select_related("batch", "redemption__rental__user").defer("code"),
            _describe,
            {"id": "ID", "serial": _("Serial number"), "batch": _("Batch"), "days": _("Days"),
             "state": _("State"), "is_paid": _("Paid"), "redeem_by": _("Redeem by"),
             "redeemed_at": _("Redeemed"), "email": _("Customer")},
            options,
        )  # fmt: skip
