"""What was redeemed, as people read it."""

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from serials.numbers.models import SerialBatch
from serials.rentals.models import Redemption
from serials.rentals.wording import moment, rate, traffic_given


def redeemed(redemption: Redemption) -> str:
    """To whom it was given: how many days, and until when their rental now runs."""
    days = redemption.granted_seconds // 86400
    text = ngettext(
        "Redeemed: %(days)d day. Your rental now ends on %(end)s.",
        "Redeemed: %(days)d days. Your rental now ends on %(end)s.",
        days,
    )
    return text % {"days": days, "end": moment(redemption.new_ends_at)}


def gives(batch: SerialBatch) -> list[str]:
    """What each serial number of a batch gives, in the words of who redeems it."""
    days, devices = batch.days, batch.device_limit
    sold = [
        ngettext("%(count)d day", "%(count)d days", days) % {"count": days},
        ngettext("%(count)d device", "%(count)d devices", devices) % {"count": devices},
    ]
    sold += traffic_given(batch) or [_("unlimited traffic")]
    if batch.rate_bytes_per_second is not None:
        sold.append(_("up to %(size)s for each device") % {"size": rate(batch.rate_bytes_per_second)})
    return sold
