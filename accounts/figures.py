"""What is counted of accounts."""

from collections.abc import Iterator
from datetime import datetime

from django.db.models import Count
from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import Notice, User
from derpmgmt.lib.figures import Figure, midnight
from derpmgmt.lib.metrics import Metric


def figures(now: datetime) -> Iterator[Figure]:
    """Answer to "figures": the new accounts of today."""
    count = User.objects.filter(date_joined__gte=midnight(now)).count()
    yield Figure(_("new accounts today"), str(count), reverse("admin:accounts_user_changelist"))


def metrics(now: datetime) -> Iterator[Metric]:
    """Answer to "metrics": accounts that are open, and today's notices."""
    roles = User.objects.filter(closed_at=None).values_list("role").annotate(Count("pk")).order_by("role")
    yield Metric("accounts", "Accounts that are not closed.", ("role",), [((role,), n) for role, n in roles])
    notices = Notice.objects.filter(created_at__gte=midnight(now)).values_list("state")
    counted = notices.annotate(Count("pk")).order_by("state")
    yield Metric(
        "notices_today",
        "Notices of today, by what became of them.",
        ("state",),
        [((s,), n) for s, n in counted],
    )
