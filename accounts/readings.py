"""What of accounts and notices is read as numbers."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.db.models import Min, Q, QuerySet
from django.urls import reverse

from accounts.alerts.services import Reading
from accounts.models import Notice
from derpmgmt.lib.prepared import Prepared, in_all


def _waiting(now: datetime) -> QuerySet[Any, Any]:
    state = Notice.State
    return in_all(
        Notice.objects.filter(state__in=(state.WAITING, state.SENDING)),
        refused=Min("created_at", filter=Q(tries__gt=0)),
        late=Min("send_after", filter=Q(send_after__lt=now)),
    )


_WAITING = Prepared(_waiting)


def read_notices(now: datetime) -> Iterator[Reading]:
    """For how long the oldest notice that was refused once, or whose turn is over, waits."""
    (found,) = _WAITING.read(now=now)
    since = min(filter(None, (found["refused"], found["late"])), default=now)
    url = reverse("admin:accounts_notice_changelist") + f"?state__exact={Notice.State.WAITING}"
    yield Reading(rule="panel_mail", thing="mail", value=(now - since).total_seconds(), url=url, since=since)
