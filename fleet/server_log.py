"""What was done with a server, out of the activity log."""

from datetime import timedelta
from typing import Any

from django.db.models import QuerySet

from accounts import wordlist
from accounts.models import OperationLog
from fleet.models import Server, retired_name

# A server's row and the line that says so have times of their own.
CLOCKS = timedelta(seconds=5)


def log_of(server: Server, user: Any) -> QuerySet[OperationLog]:
    """The lines about a server that `user` may read, under the name that it has or, removed, had; not those of one that had it before."""
    actions = [action for action in wordlist.ACTIONS if action.startswith("server.")]
    names = [server.name, server.name.removesuffix(retired_name("", server.pk))]
    rows = OperationLog.objects.visible_to(user)
    return rows.filter(action__in=actions, target__in=names, at__gte=server.created_at - CLOCKS)
