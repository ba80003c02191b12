"""Why a rental is not changed: one exception and one sentence for each case."""

from django.utils.translation import gettext_lazy as _

from derpmgmt.lib.refusals import Refusal


class RentalRefused(Refusal):
    """What was asked for does not fit the rental's state."""


class AccountBarred(RentalRefused):
    """The account is banned, or its rental is closed."""

    code = "account"
    sentence = _("This account is banned or closed; it cannot redeem serial numbers.")


class RentalClosed(RentalRefused):
    """The rental is closed for good."""

    code = "closed"
    sentence = _("This rental is closed.")


class AccountClosed(AccountBarred):
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
