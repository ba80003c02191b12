"""What of accounts and notices is read as numbers."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Min
from django.urls import reverse

from accounts.alerts.services import Reading
from accounts.models import Notice


def read_notices(now: datetime) -> Iterator[Reading]:
    """For how long the oldest notice that was refused once, or whose turn is over, waits."""
    state = Notice.State
    waiting = Notice.objects.filter(state__in=(state.WAITING, state.SENDING))
    refused = waiting.filter(tries__gt=0).aggregate(at=Min("created_at"))["at"]
    late = waiting.filter(send_after__lt=now).aggregate(at=Min("send_after"))["at"]
    since = min(filter(None, (refused, late)), default=now)
    url = reverse("admin:accounts_notice_changelist") + f"?state__exact={state.WAITING}"
    yield Reading(rule="panel_mail", thing="mail", value=(now - since).total_seconds(), url=url, since=since)
