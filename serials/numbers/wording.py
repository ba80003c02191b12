"""What was redeemed, as people read it."""

from django.utils.translation import ngettext

from serials.rentals.models import Redemption
from serials.rentals.wording import moment


def redeemed(redemption: Redemption) -> str:
    """To whom it was given: how many days, and until when their rental now runs."""
    days = redemption.granted_seconds // 86400
    text = ngettext(
        "Redeemed: %(days)d day. Your rental now ends on %(end)s.",
        "Redeemed: %(days)d days. Your rental now ends on %(end)s.",
        days,
    )
    return text % {"days": days, "end": moment(redemption.new_ends_at)}
