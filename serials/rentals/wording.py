"""Times and sizes of a rental as people read them."""

from datetime import datetime, timedelta

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
    """Bytes as GB, or TB from a thousand of them: `500 GB`, `1.5 TB`."""
    gigabytes = size_bytes / BYTES_PER_GB
    return f"{gigabytes / 1000:.4g} TB" if gigabytes >= 1000 else f"{gigabytes:.4g} GB"


def rate(bytes_per_second: int) -> str:
    """Bytes a second as `20 Mbit/s`."""
    return f"{bytes_per_second / BYTES_PER_MBIT:.4g} Mbit/s"
