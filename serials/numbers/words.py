"""What people call what happens to serial numbers."""

from django.utils.translation import gettext_lazy as _

from accounts.wordlist import declare

declare(
    actions={
        "batch.created": _("Batch of serial numbers made"),
        "batch.paid": _("Batch marked as paid"),
        "batch.unpaid": _("Batch marked as unpaid"),
        "batch.revealed": _("Serial numbers of a batch exported"),
        "serial.redeemed": _("Serial number redeemed"),
        "serial.refused": _("Serial number refused"),
        "serial.recalled": _("Serial number recalled"),
        "serial.revealed": _("Serial number revealed"),
    },
)
