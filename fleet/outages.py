"""Servers that do not answer: since when, and who is told of it.

An outage begins with the first contact that fails and ends with the next one that goes well (`Server.silent_since`). Admins are
told of each once, when it is more than a blip, and of its end. Both stand in the transaction that writes the row down, so a
death in between and a second run change nothing.
"""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import translation

from accounts.models import User
from accounts.services import log_operation, notify, take_back_notices
from derpmgmt.lib import queue
from fleet.models import UNHEALTHY_AFTER, Server

AT_ONCE = 100
# Nobody is told of what is announced (maintenance), not in use yet, or given up.
_UNTOLD = (Server.Status.NEW, Server.Status.MAINTENANCE, Server.Status.RETIRED)


def outage_key(server_pk: int, since: datetime) -> str:
    """What notices about one outage of a server have in common."""
    return f"server-{server_pk}-{since:%Y%m%d%H%M%S%f}"


def sweep_outages(now: datetime) -> None:
    """Tell admins of the outages that they have not heard of."""
    for server in _untold().order_by("silent_since")[:AT_ONCE]:
        with transaction.atomic():
            # The state too: maintenance may have begun meanwhile, or the outage ended and another begun.
            is_ours = (
                _untold().filter(pk=server.pk, silent_since=server.silent_since).update(outage_told_at=now)
            )
            if not is_ours:
                continue
            assert server.silent_since is not None
            _tell(server, "server_silent", since=server.silent_since)
            log_operation(by=None, action="server.silent", target=server, is_success=False)


def end_outage(*, server_pk: int, now: datetime) -> None:
    """The server answered: whoever was told that it does not hears so, or nothing at all where that has not left yet."""
    if not Server.objects.filter(pk=server_pk, silent_since__isnull=False).exists():
        return
    with transaction.atomic():
        server = Server.objects.select_for_update().filter(pk=server_pk, silent_since__isnull=False).first()
        if server is None:
            return
        since, was_told = server.silent_since, server.outage_told_at is not None
        Server.objects.filter(pk=server_pk).update(silent_since=None, outage_told_at=None)
        queue.announce("server_answers", server_pk)
        if not was_told:
            return
        heard = take_back_notices(key=outage_key(server.pk, since))
        _tell(server, "server_back", since=since, only=heard, back_at=now)
        log_operation(by=None, action="server.answers", target=server, silent_since=since.isoformat())


def _untold() -> QuerySet[Server]:
    return Server.objects.filter(
        silent_since__isnull=False, outage_told_at=None, contact_failures__gte=UNHEALTHY_AFTER
    ).exclude(status__in=_UNTOLD)


def _tell(
    server: Server, kind: str, *, since: datetime, only: set[int] | None = None, **context: Any
) -> None:
    ending = "-back" if kind == "server_back" else ""
    for admin in User.objects.filter(role__in=[User.Role.ADMIN, User.Role.SUPERADMIN], is_active=True):
        if only is not None and admin.pk not in only:
            continue
        with translation.override(admin.language):
            reason = server.reason
        notify(
            user=admin,
            kind=kind,
            key=f"{outage_key(server.pk, since)}{ending}",
            context={
                "server": server.name,
                "address": server.address,
                "silent_at": since,
                "reason": reason,
                "url": settings.PUBLIC_URL + reverse("admin:fleet_server_change", args=[server.pk]),
                **context,
            },
        )
