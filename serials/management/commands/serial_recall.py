import sys
from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from derpmgmt.lib.commands import CommandRefused, PanelCommand
from serials.numbers import services
from serials.numbers.models import SerialNumber
from serials.numbers.services import SerialRefused

STANDARD_INPUT = "-"


class Command(PanelCommand):
    """Recall serial numbers."""

    help: Any = gettext_lazy("Take unused serial numbers back for good: whoever has one is refused.")
    destroys = True

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "codes",
            metavar="CODE",
            nargs="+",
            help=_("the serial number; - reads them from standard input, one a line"),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        serials = self._find(options["codes"])
        if all(serial.status != SerialNumber.Status.UNUSED for serial in serials):
            services.recall_serial(serial=serials[0], by=None)  # says why not, before anybody is asked
        question = ngettext(
            "This recalls %(count)d serial number: %(serials)s.",
            "This recalls %(count)d serial numbers: %(serials)s.",
            len(serials),
        )
        names = ", ".join(str(serial) for serial in serials)
        last = serials[-1].code_end
        self.confirm(last, question % {"count": len(serials), "serials": names}, is_sure=options["yes"])
        rows = [self._recall(serial) for serial in serials]
        self.emit(
            rows,
            {"serial": _("Serial number"), "batch": _("Batch"), "state": _("State"), "reason": _("Reason")},
        )
        if left_out := [row["serial"] for row in rows if not row["is_recalled"]]:
            text = ngettext(
                "%(count)d serial number was not recalled.",
                "%(count)d serial numbers were not recalled.",
                len(left_out),
            )
            raise CommandRefused(
                text % {"count": len(left_out)}, code="not_recalled", details={"serials": left_out}
            )

    @staticmethod
    def _find(texts: list[str]) -> list[SerialNumber]:
        """The serial numbers of these codes, each once. Raises `SerialMistyped`, `SerialUnknown`."""
        codes = [text for text in texts if text != STANDARD_INPUT]
        if STANDARD_INPUT in texts:
            codes += [line for line in sys.stdin if line.strip()]
        found = {serial.pk: serial for serial in map(services.serial_of, codes)}
        if not found:
            raise services.SerialMistyped
        return list(found.values())

    @staticmethod
    def _recall(serial: SerialNumber) -> dict[str, Any]:
        reason = ""
        try:
            services.recall_serial(serial=serial, by=None)
        except SerialRefused as refusal:
            reason = str(refusal)
        serial.refresh_from_db(fields=["status"])
        return {
            "id": serial.pk,
            "serial": serial.masked,
            "batch_id": serial.batch_id,
            "batch": serial.batch.name,
            "status": serial.status,
            "state": serial.get_status_display(),
            "is_recalled": not reason,
            "reason": reason,
        }
