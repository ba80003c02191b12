"""The admin's buttons at serial numbers."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.acts import Act, Doing, Shown
from serials.numbers import services
from serials.numbers.models import SerialNumber


def recall(serial: SerialNumber, doing: Doing) -> str:
    """Take an unused serial number back; the sentence of it. Raises `SerialRefused`."""
    services.recall_serial(serial=serial, by=doing.by)
    return _("%(serial)s is recalled and can no longer be redeemed.") % {"serial": serial}


def _reveal(serial: SerialNumber, doing: Doing) -> Shown:
    code = services.reveal_code(serial=serial, by=doing.by, ip=doing.ip)
    return Shown(code, _("That you saw it is written in the activity log."))


SERIAL_ACTS = (
    Act(
        verb="reveal",
        label=gettext_lazy("Show the code (logged)"),
        explain=lambda serial: [
            _("The whole code of %(serial)s is shown once, and the activity log says that you saw it.")
            % {"serial": serial}
        ],
        run=_reveal,
    ),
    Act(
        verb="recall",
        label=gettext_lazy("Recall"),
        fits=lambda serial: serial.status == SerialNumber.Status.UNUSED,
        explain=lambda serial: [
            _("%(serial)s can never be redeemed again; whoever has it is refused.") % {"serial": serial}
        ],
        run=recall,
    ),
)
