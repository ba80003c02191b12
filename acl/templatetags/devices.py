"""Times and keys of devices as people read them."""

from datetime import datetime

from django import template
from django.http import QueryDict
from django.utils import timezone
from django.utils.translation import gettext as _

register = template.Library()


@register.filter
def countdown(moment: datetime | None) -> str:
    """How long until `moment`, to the second within an hour: `9 min 12 s`, `23 h 59 min`; "" for None."""
    if moment is None:
        return ""
    seconds = max(int((moment - timezone.now()).total_seconds()), 0)
    if seconds < 60:
        return _("%(seconds)d s") % {"seconds": seconds}
    if seconds < 3600:
        return _("%(minutes)d min %(seconds)d s") % {"minutes": seconds // 60, "seconds": seconds % 60}
    return _("%(hours)d h %(minutes)d min") % {"hours": seconds // 3600, "minutes": seconds % 3600 // 60}


@register.filter
def short_key(node_key: str) -> str:
    """A node key by its first digits: `nodekey:1234abcd…`."""
    return f"nodekey:{node_key[:8]}…"


@register.simple_tag
def other_page(where: QueryDict, name: str, number: int) -> str:
    """The query of an address that shows page `number` of the list whose parameter is `name`, and else what `where` says."""
    query = where.copy()
    query[name] = str(number)
    return f"?{query.urlencode()}"
