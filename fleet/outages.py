"""Servers that do not answer: since when, and who is told of it.

An outage begins with the first contact that fails and ends with the next one that goes well (`Server.silent_since`). Admins are
told of each once, when it is more than a blip, and of its end: of those that come together in one notice that names them. A
notice waits until it is known of every other server whether it answers, and another one follows some minutes later at the
soonest. All of it stands in transactions on the rows, so a death in between and a second run change nothing.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count, Max, Q, QuerySet
from django.urls import reverse
from django.utils import translation

from accounts.models import User
from accounts.services import log_operation, notify, people_told, take_back_notices
from derpmgmt.lib import queue
from fleet.models import UNHEALTHY_AFTER, Outage, Server

AT_ONCE = 500
# A notice names so many servers and counts the others.
MOST_NAMED = 20
# So long at most it is waited for word of the other servers: a round of visits with their time limits, and the second try.
GATHER = timedelta(minutes=3)
# While an outage lasts, what joins it or leaves it is told at most so often.
FOLD = timedelta(minutes=5)
KEEP = timedelta(days=30)
# Nobody is told of what is announced (maintenance), not in use yet, or given up.
_UNTOLD = (Server.Status.NEW, Server.Status.MAINTENANCE, Server.Status.RETIRED)
# Codes of contacts in which nothing was heard of the server itself; any other shows that the panel's network reaches it.
NOTHING_HEARD = (
    "",
    "silent",
    "lost",
    "unresolved",
    "no_route",
    "refused",
    "closed",
    "timed_out",
    "unreachable",
)


def outage_key(server_pk: int, since: datetime) -> str:
    """What notices about one outage have in common; of several servers, the first one's."""
    return f"server-{server_pk}-{since:%Y%m%d%H%M%S%f}"


def cut_off_since() -> datetime | None:
    """Since when no server at all has answered, so that the panel's own network may be cut; None where one does.

    With fewer than two servers nobody can tell, and one that answers with a refusal shows that the network works.
    """
    was_heard = Q(fault="") & ~Q(status_code__in=NOTHING_HEARD)
    found = Server.objects.managed().aggregate(
        servers=Count("pk"),
        silent=Count("silent_since"),
        heard=Count("pk", filter=was_heard),
        since=Max("silent_since"),
    )
    if found["servers"] < 2 or found["silent"] < found["servers"] or found["heard"]:
        return None
    since: datetime = found["since"]
    return since


def sees_again_since() -> datetime | None:
    """When the panel last reached a server after it had reached none."""
    last: datetime | None = Outage.objects.filter(was_cut_off=True).aggregate(at=Max("ended_at"))["at"]
    return last


def sweep_outages(now: datetime) -> None:
    """Tell admins of the ends and the outages that they have not heard of."""
    _tell_ends(now)
    _tell_begun(now)
    Outage.objects.filter(ended_at__lt=now - KEEP).delete()


def end_outage(*, server_pk: int, now: datetime) -> None:
    """The server answered: whoever was told that it does not will hear so, or nothing at all where that has not left yet."""
    if not Server.objects.filter(pk=server_pk, silent_since__isnull=False).exists():
        return
    with transaction.atomic():
        server = Server.objects.select_for_update().filter(pk=server_pk, silent_since__isnull=False).first()
        if server is None:
            return
        assert server.silent_since is not None
        since, was_cut_off = server.silent_since, cut_off_since() is not None
        key = (server.told_key or outage_key(server.pk, since)) if server.outage_told_at else ""
        Server.objects.filter(pk=server_pk).update(silent_since=None, outage_told_at=None, told_key="")
        queue.announce("server_answers", server_pk)
        if key or was_cut_off:
            Outage.objects.create(
                server=server, began_at=since, ended_at=now, told_key=key, was_cut_off=was_cut_off
            )
        if key:
            _heard(key)
            log_operation(by=None, action="server.answers", target=server, silent_since=since.isoformat())


def _heard(key: str) -> set[int]:
    """Who heard of an outage; once all of its servers answer, what has not left is taken back."""
    if Server.objects.filter(told_key=key, silent_since__isnull=False).exists():
        return people_told(key=key)
    return take_back_notices(key=key)


def _tell_begun(now: datetime) -> None:
    untold = list(_untold().order_by("silent_since", "pk")[:AT_ONCE])
    if not untold or not _is_time(untold, now):
        return
    with transaction.atomic():
        before = _told().count()
        key = outage_key(untold[0].pk, untold[0].silent_since)  # type: ignore[arg-type]
        taken = [
            server
            for server in untold
            # The state too: maintenance may have begun meanwhile, or the outage ended and another begun.
            if _untold()
            .filter(pk=server.pk, silent_since=server.silent_since)
            .update(outage_told_at=now, told_key=key)
        ]
        if not taken:
            return
        since = min(server.silent_since for server in taken if server.silent_since)
        _tell(
            "silent",
            taken,
            key,
            silent_at=since,
            is_all=cut_off_since() is not None,
            before=before,
        )
        for server in taken:
            log_operation(by=None, action="server.silent", target=server, is_success=False)


def _is_time(untold: Sequence[Server], now: datetime) -> bool:
    """Whether it is known how far the outage goes, and the last notice about one that lasts is some minutes old."""
    last = _told().aggregate(at=Max("outage_told_at"))["at"]
    if last is not None and now - last < FOLD:
        return False
    since = untold[0].silent_since
    assert since is not None
    if now - since >= GATHER:
        return True
    answers = Q(silent_since=None, last_contact_at__gte=since)
    is_down = Q(silent_since__isnull=False, contact_failures__gte=UNHEALTHY_AFTER)
    return not Server.objects.managed().exclude(status__in=_UNTOLD).exclude(answers | is_down).exists()


def _tell_ends(now: datetime) -> None:
    ended = list(
        Outage.objects.filter(end_told_at=None)
        .exclude(told_key="")
        .select_related("server")
        .order_by("ended_at", "pk")[:AT_ONCE]
    )
    if not ended:
        return
    still = _told().count()
    if still and now - ended[0].ended_at < FOLD:
        return
    with transaction.atomic():
        taken = [
            outage
            for outage in ended
            if Outage.objects.filter(pk=outage.pk, end_told_at=None).update(end_told_at=now)
        ]
        if not taken:
            return
        heard = {key: _heard(key) for key in {outage.told_key for outage in taken}}
        first = taken[0]
        for admin in _admins():
            known = [outage for outage in taken if admin.pk in heard[outage.told_key]]
            if known:
                _tell(
                    "back",
                    [outage.server for outage in known],
                    f"{outage_key(first.server_id, first.began_at)}-back",
                    [admin],
                    silent_at=min(outage.began_at for outage in known),
                    back_at=max(outage.ended_at for outage in known),
                    still=still,
                )


def _untold() -> QuerySet[Server]:
    return Server.objects.filter(
        silent_since__isnull=False, outage_told_at=None, contact_failures__gte=UNHEALTHY_AFTER
    ).exclude(status__in=_UNTOLD)


def _told() -> QuerySet[Server]:
    """Servers whose outage lasts and was told."""
    return Server.objects.filter(silent_since__isnull=False, outage_told_at__isnull=False).exclude(
        status__in=_UNTOLD
    )


def _admins() -> QuerySet[User]:
    return User.objects.filter(role__in=[User.Role.ADMIN, User.Role.SUPERADMIN], is_active=True)


def _tell(
    what: str, servers: Sequence[Server], key: str, to: Iterable[User] | None = None, **context: Any
) -> None:
    """Tell admins of one server or of several; `what` is "silent" or "back"."""
    first, is_one = servers[0], len(servers) == 1
    page = (
        reverse("admin:fleet_server_change", args=[first.pk])
        if is_one
        else reverse("admin:fleet_server_changelist")
    )
    for admin in _admins() if to is None else to:
        with translation.override(admin.language):
            named = [
                {"server": server.name, "address": server.address, "reason": server.reason}
                for server in servers[:MOST_NAMED]
            ]
        notify(
            user=admin,
            kind=f"server_{what}" if is_one else f"servers_{what}",
            key=key,
            context={
                **(named[0] if is_one else {}),
                "servers": named,
                "count": len(servers),
                "more": len(servers) - len(named),
                "url": settings.PUBLIC_URL + page,
                **context,
            },
        )
