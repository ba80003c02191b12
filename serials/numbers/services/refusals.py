"""Why a serial number is not redeemed: one exception and one sentence for each case."""

from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.refusals import Refusal


class SerialRefused(Refusal):
    """A serial number that cannot be redeemed."""

    sentence = _("This serial number cannot be redeemed.")


class SerialMistyped(SerialRefused):
    """The check symbol does not fit: a typing error, not a wrong code."""

    code = "mistyped"
    sentence = _(
        "There is a typing error in this serial number. Compare it with the original, character by character."
    )


class SerialUnknown(SerialRefused):
    """Well typed, but never issued."""

    code = "unknown"
    sentence = _(
        "This serial number is typed correctly, but it was never issued here. Please ask the seller."
    )


class SerialUsed(SerialRefused):
    """Somebody redeemed it."""

    code = "used"
    sentence = _("This serial number has already been used.")


class AlreadyRedeemed(SerialUsed):
    """The same person redeemed it, perhaps a moment ago with another click."""

    code = "already_redeemed"
    sentence = _("You have already redeemed this serial number, on %(day)s.")


class SerialExpired(SerialRefused):
    """Its last day for redeeming is over."""

    code = "expired"
    sentence = _("This serial number had to be redeemed by %(day)s.")


class SerialRecalled(SerialRefused):
    """An admin took it back."""

    code = "recalled"
    sentence = _("This serial number has been recalled. Please ask the seller.")


class SerialUnpaid(SerialRefused):
    """Its batch is not paid for."""

    code = "unpaid"
    sentence = _("This serial number is not active yet, because it is not paid for. Please ask the seller.")
