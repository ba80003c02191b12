"""Moments as people read them, the same in both languages and on every page."""

from datetime import datetime

from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import ngettext


def ago(value: datetime | None) -> str:
    """How long since `value`, in its largest unit: `12 seconds ago`, `3 hours ago`, `5 days ago`; "" for None."""
    if value is None:
        return ""
    seconds = int((timezone.now() - value).total_seconds())
    if seconds < 1:
        return _("just now")
    if seconds < 60:
        return ngettext("%(count)d second ago", "%(count)d seconds ago", seconds) % {"count": seconds}
    if (minutes := seconds // 60) < 60:
        return ngettext("%(count)d minute ago", "%(count)d minutes ago", minutes) % {"count": minutes}
    if (hours := minutes // 60) < 48:
        return ngettext("%(count)d hour ago", "%(count)d hours ago", hours) % {"count": hours}
    days = hours // 24
    return ngettext("%(count)d day ago", "%(count)d days ago", days) % {"count": days}


def moment(value: datetime | None) -> str:
    """Day and time in the panel's zone, the same in both languages: `2026-12-15 21:30`; "" for None."""
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M}" if value else ""


def exact(value: datetime | None) -> str:
    """As `moment`, to the second: `2026-12-15 21:30:07`."""
    return f"{timezone.localtime(value):%Y-%m-%d %H:%M:%S}" if value else ""


def age(value: datetime | None) -> SafeString | str:
    """For lists: how long ago, with the moment itself where a mouse rests on it; what is still to come as its moment. "" for None."""
    if value is None:
        return ""
    text = ago(value) if value <= timezone.now() else moment(value)
    return format_html('<time datetime="{}" title="{}">{}</time>', value.isoformat(), exact(value), text)
