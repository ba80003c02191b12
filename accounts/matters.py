"""What of accounts and notices needs a person."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Count, Min
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.models import Notice
from derpmgmt.lib.address import is_proxy_noted
from derpmgmt.lib.matters import WARNING, Matter

NOTICES_SHOWN_FOR = timedelta(days=7)


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": notices of the last days that were not sent; a proxy that nobody counted."""
    failed = Notice.objects.filter(
        state=Notice.State.FAILED, created_at__gt=now - NOTICES_SHOWN_FOR
    ).aggregate(count=Count("pk"), first=Min("created_at"))
    if failed["count"]:
        title = ngettext("%(count)d notice was not sent", "%(count)d notices were not sent", failed["count"])
        text = _("Look at the reasons, then send them again.")
        url = reverse("admin:accounts_notice_changelist") + "?state__exact=failed"
        yield Matter(
            WARNING, title % {"count": failed["count"]}, text, url, "notices_failed", failed["first"]
        )
    if is_proxy_noted():
        yield unknown_proxy()


def unknown_proxy() -> Matter:
    """That a reverse proxy passes requests on which nobody counted."""
    text = _(
        "Requests come with X-Forwarded-For, but DERPMGMT_TRUSTED_PROXIES is 0: everybody behind the proxy shares one address in "
        "limits and logs. Set it to the number of proxies in front (docs/running.md)."
    )
    url = reverse("admin:accounts_operationlog_changelist")
    title = _("The reverse proxy in front of the panel is not believed")
    return Matter(WARNING, title, text, url, "proxy_unknown")
