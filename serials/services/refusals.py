"""Why a serial number is not redeemed or a rental not changed: one exception and one sentence for each case."""

from typing import Any

from django.utils.translation import gettext_lazy as _


class Refusal(Exception):
    """What was asked for is not done; `code` is a slug for scripts and logs, `str()` the sentence for people.

    The sentence is in the language that is active when it is read.
    """

    code = "refused"
    sentence: Any

    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.values = values

    def __str__(self) -> str:
        return str(self.sentence) % self.values


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


class AccountBarred(SerialRefused):
    """The account is banned, or its rental is closed."""

    code = "account"
    sentence = _("This account is banned or closed; it cannot redeem serial numbers.")


class RentalRefused(Refusal):
    """What was asked for does not fit the rental's state."""


class RentalClosed(RentalRefused):
    """The rental is closed for good."""

    code = "closed"
    sentence = _("This rental is closed.")


class AccountClosed(AccountBarred, RentalRefused):
    """The account is closed, or its closing has begun; its rental ends with it."""

    code = "account_closed"
    sentence = _(
        "This account is closed or is being closed, and its rental ends with it. "
        "A serial number that was not redeemed before stays unused."
    )


class NothingToRenew(RentalRefused):
    """There has never been time whose terms could go on."""

    code = "nothing_to_renew"
    sentence = _("This customer has never redeemed a serial number, so there are no terms that could go on.")


class NotLater(RentalRefused):
    """The chosen end is over, or the rental runs at least as long already."""

    code = "not_later"
    sentence = _("Choose an end that is later than now and than the present end; a renewal never shortens.")


class TooFar(RentalRefused):
    """The chosen end is too far away to be meant."""

    code = "too_far"
    sentence = _("This end is more than ten years away.")


class NothingToPause(RentalRefused):
    """No time is left that could stand still."""

    code = "nothing_to_pause"
    sentence = _("This rental has ended: there is no time left that could be kept.")
