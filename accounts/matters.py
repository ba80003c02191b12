"""What of accounts and notices needs a person."""

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from urllib.parse import urlencode

from django.db.models import Count, Min, Q, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from accounts.alerts.route_models import AlertDelivery
from accounts.models import Notice, PutOff
from accounts.sweeps import name_rows
from derpmgmt.lib.address import is_proxy_noted
from derpmgmt.lib.matters import WARNING, Cause, Matter
from derpmgmt.lib.prepared import Prepared, in_all
from derpmgmt.lib.problems import explain

NOTICES_SHOWN_FOR = timedelta(days=7)


def _undelivered(since: datetime) -> QuerySet[AlertDelivery]:
    state = AlertDelivery.State
    # What did not leave at the first try is tried on, but another route had to tell it instead.
    undelivered = Q(state=state.FAILED) | Q(state=state.WAITING, replaced_at__isnull=False)
    return AlertDelivery.objects.filter(undelivered, created_at__gt=since)


_PUT_OFF = Prepared(lambda: PutOff.objects.order_by("since", "pk"))
_FAILED = Prepared(
    lambda since: in_all(
        Notice.objects.filter(state=Notice.State.FAILED, created_at__gt=since),
        count=Count("pk"),
        first=Min("created_at"),
    )
)
_UNTOLD = Prepared(lambda since: in_all(_undelivered(since), count=Count("pk"), first=Min("created_at")))


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": what sweeps put off, notices of the last days that were not sent, a proxy that nobody counted."""
    yield from _put_off()
    (failed,) = _FAILED.read(since=now - NOTICES_SHOWN_FOR)
    if failed["count"]:
        title = ngettext("%(count)d notice was not sent", "%(count)d notices were not sent", failed["count"])
        text = _("Look at the reasons, then send them again.")
        url = reverse("admin:accounts_notice_changelist") + "?state__exact=failed"
        yield Matter(
            WARNING,
            title % {"count": failed["count"]},
            text,
            url,
            "notices_failed",
            failed["first"],
            rule="panel",
        )
    yield from _untold(now)
    if is_proxy_noted():
        yield unknown_proxy()


def _untold(now: datetime) -> Iterator[Matter]:
    (failed,) = _UNTOLD.read(since=now - NOTICES_SHOWN_FOR)
    if not failed["count"]:
        return
    title = ngettext(
        "%(count)d message about alerts was not delivered",
        "%(count)d messages about alerts were not delivered",
        failed["count"],
    ) % {"count": failed["count"]}
    text = _("Look at the reasons, and try the route with its button.")
    url = reverse("admin:accounts_alertdelivery_changelist") + "?state__in=failed,waiting"
    yield Matter(WARNING, title, text, url, "alerts_untold", failed["first"], rule="panel")


def _heading(title: str) -> Callable[[int], str]:
    def say(count: int) -> str:
        text = ngettext("%(work)s: put off %(count)d time", "%(work)s: put off %(count)d times", count)
        return text % {"work": title, "count": count}

    return say


def _put_off() -> Iterator[Matter]:
    """One query, and one for each work of which something is put off."""
    rows = _PUT_OFF.read()
    name_rows(rows)
    page = reverse("admin:accounts_putoff_changelist")
    for row in rows:
        wanted = {"work": row.work, "code": row.failure_code}
        code = f"put_off.{row.work}.{row.failure_code}"
        text = _("%(reason)s (%(error)s) Next try: %(when)s") % {
            "reason": explain(row.failure_code),
            "when": f"{timezone.localtime(row.try_after):%Y-%m-%d %H:%M:%S}" if row.try_after else "–",
            "error": row.exception,
        }
        yield Matter(
            WARNING,
            str(row),
            text,
            reverse("admin:accounts_putoff_change", args=[row.pk]),
            f"put_off:{row.pk}",
            row.since,
            row.name,
            Cause(code, _heading(row.title), f"{page}?{urlencode(wanted)}", is_each_told=True),
            rule="panel",
        )


def unknown_proxy() -> Matter:
    """That a reverse proxy passes requests on which nobody counted."""
    text = _(
        "Requests come with X-Forwarded-For, but DERPMGMT_TRUSTED_PROXIES is 0: everybody behind the proxy shares one address in "
        "limits and logs. Set it to the number of proxies in front (docs/running.md)."
    )
    url = reverse("admin:accounts_operationlog_changelist")
    title = _("The reverse proxy in front of the panel is not believed")
    return Matter(WARNING, title, text, url, "proxy_unknown", rule="panel")
