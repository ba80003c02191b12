"""Times and sizes of a rental as people read them."""

from datetime import datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

register = template.Library()

# Traffic is sold in decimal units and rates in bits, as providers do.
BYTES_PER_GB = 10**9
BYTES_PER_MBIT = 125_000


@register.filter
def time_left(moment: datetime | None) -> str:
    """How long until `moment`: whole days, below one day whole hours, below one hour a phrase; "" for None."""
    if moment is None:
        return ""
    # A page that has just computed "30 days from now" shall not say 29.
    left = moment - timezone.now() + timedelta(minutes=1)
    if left <= timedelta(minutes=1):
        return _("ended")
    if left >= timedelta(days=1):
        return ngettext("%(count)d day left", "%(count)d days left", left.days) % {"count": left.days}
    if left >= timedelta(hours=1):
        hours = left // timedelta(hours=1)
        return ngettext("%(count)d hour left", "%(count)d hours left", hours) % {"count": hours}
    return _("less than an hour left")


@register.filter
def moment(value: datetime | None) -> str:
    """Day and time in the panel's zone, the same in both languages: `2026-12-15 21:30`; "" for None."""
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M}" if value else ""


@register.filter
def traffic(size_bytes: int) -> str:
    """Bytes as GB, or TB from a thousand of them: `500 GB`, `1.5 TB`."""
    gigabytes = size_bytes / BYTES_PER_GB
    return f"{gigabytes / 1000:.4g} TB" if gigabytes >= 1000 else f"{gigabytes:.4g} GB"


@register.filter
def rate(bytes_per_second: int) -> str:
    """Bytes a second as `20 Mbit/s`."""
    return f"{bytes_per_second / BYTES_PER_MBIT:.4g} Mbit/s"
