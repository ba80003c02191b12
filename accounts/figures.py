"""What is counted of accounts."""

from collections.abc import Iterator
from datetime import datetime

from django.urls import reverse
from django.utils.translation import gettext as _

from accounts.models import User
from derpmgmt.lib.figures import Figure, midnight


def figures(now: datetime) -> Iterator[Figure]:
    """Answer to "figures": the new accounts of today."""
    count = User.objects.filter(date_joined__gte=midnight(now)).count()
    yield Figure(_("new accounts today"), str(count), reverse("admin:accounts_user_changelist"))
