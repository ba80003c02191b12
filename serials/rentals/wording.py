"""Times and sizes of a rental as people read them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from derpmgmt.lib.moments import moment as moment

# Traffic is sold in decimal units and rates in bits, as providers do.
BYTES_PER_GB = 10**9
BYTES_PER_MBIT = 125_000


def time_left(moment: datetime | None, since: datetime | None = None) -> str:
    """How long from `since` (None: now; of a paused rental the pause's begin) until `moment`; "" for None.

    The nearest number of days, as people count: neither do 30 days turn into 29 within the first minute, nor into 31 by waiting
    time that was given back. Below one day hours, below one hour a phrase.
    """
    if moment is None:
        return ""
    left = moment - (since or timezone.now())
    if left <= timedelta():
        return _("ended")
    # What is computed now is read some seconds later: "1 day" shall not be 23 hours by then.
    left += timedelta(minutes=1)
    if left >= timedelta(days=1):
        days = _whole_days(left)
        return ngettext("%(count)d day left", "%(count)d days left", days) % {"count": days}
    if left >= timedelta(hours=1):
        hours = min((left + timedelta(minutes=30)) // timedelta(hours=1), 23)
        return ngettext("%(count)d hour left", "%(count)d hours left", hours) % {"count": hours}
    return _("less than an hour left")


def days_left(moment: datetime, since: datetime) -> int:
    """The days that `time_left` says: the nearest number, 0 in the last twelve hours and after the end."""
    left = moment - since
    return _whole_days(left + timedelta(minutes=1)) if left > timedelta() else 0


def _whole_days(left: timedelta) -> int:
    return (left + timedelta(hours=12)) // timedelta(days=1)


def duration(seconds: int) -> str:
    """A span of time, exactly: `30 days`, `29 days 03:10:22`, `03:10:22`; what was taken back with a minus."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    days, rest = divmod(seconds, 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02}:{rest // 60:02}:{rest % 60:02}"
    if not days:
        return clock
    text = ngettext("%(count)d day", "%(count)d days", days) % {"count": days}
    return f"{text} {clock}" if hours or rest else text


def moves_on() -> str:
    """What is to be known of every end that is shown of a paused rental."""
    return _("The rental is paused: this end moves later for as long as the pause lasts.")


def traffic(size_bytes: int) -> str:
    """Bytes with the unit that fits: `500 GB`, `1.5 TB`, `81.25 MB`, `0 B`."""
    return _scaled(size_bytes, ("B", "kB", "MB", "GB", "TB", "PB", "EB"))


def sold_traffic(sold: Any) -> str:
    """The traffic a month that was sold (an `Entitlement`), for operators: `500 GB`, `500 GB · up 100 GB`, `unlimited`."""
    parts = [] if sold.quota_bytes is None else [traffic(sold.quota_bytes)]
    if sold.upload_quota_bytes is not None:
        parts.append(_("up %(size)s") % {"size": traffic(sold.upload_quota_bytes)})
    if sold.download_quota_bytes is not None:
        parts.append(_("down %(size)s") % {"size": traffic(sold.download_quota_bytes)})
    return " · ".join(parts) or _("unlimited")


def traffic_given(sold: Any) -> list[str]:
    """The traffic a month that an `Entitlement` gives, in the words of who redeems it: a phrase for each limit; none where it is unlimited."""
    given = (
        (sold.quota_bytes, _("%(size)s of traffic a month")),
        (sold.upload_quota_bytes, _("devices may send %(size)s a month")),
        (sold.download_quota_bytes, _("devices may receive %(size)s a month")),
    )
    return [words % {"size": traffic(size)} for size, words in given if size is not None]


def rate(bytes_per_second: float) -> str:
    """Bytes a second as bits, with the unit that fits: `20 Mbit/s`, `640 kbit/s`."""
    return _scaled(bytes_per_second * 8, ("bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"))


def _scaled(number: float, units: Sequence[str]) -> str:
    """A number with the largest of the units, each a thousand times the one before, of which it is one or more once it is rounded."""
    power = 0
    while power < len(units) - 1 and float(f"{number / 1000**power:.4g}") >= 1000:
        power += 1
    # Half of a byte is nothing. The space is one at which no line breaks.
    return f"{round(number) if power == 0 else number / 1000**power:.4g}\u00a0{units[power]}"
