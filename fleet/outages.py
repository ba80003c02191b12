"""Servers that do not answer: since when, and whether it may be the panel itself that is cut off.

An outage begins with the first contact that fails and ends with the next one that goes well (`Server.silent_since`). Admins hear of
it by its alert (`fleet.matters`), customers by what their relays carry.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import Count, Max, Q

from derpmgmt.lib import queue
from fleet.models import CONTACT, UNHEALTHY_AFTER, Blindness, Server

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
# A server's silence is an outage: neither announced (maintenance), nor of one that is not in use yet, or given up.
UNANNOUNCED = (Server.Status.HEALTHY, Server.Status.UNHEALTHY, Server.Status.DRAINING)

# Servers that went silent within this time did so at once: a round of visits with its time limits.
AT_ONCE = timedelta(minutes=3)
# While others answer, so long it may be the panel's own network; with fewer servers nobody can tell.
CUT_OFF_LASTS = timedelta(minutes=5)
FEWEST = 2
# So long at most it is waited for word of the other servers: with that and the second try an alert comes within a minute.
GATHER = timedelta(seconds=30)


@dataclass(frozen=True)
class CutOff:
    """Most servers have stopped answering at once: `silent` of `servers`, `since` when.

    It is certain once one of them has not answered twice, or they have been silent for a while.
    """

    silent: int
    servers: int
    since: datetime
    is_certain: bool


def find_cut_off(servers: Iterable[Server], now: datetime) -> CutOff | None:
    """Whether the panel itself may be cut off, since most servers went silent at once and nothing is heard of them.

    For as long as all are silent; where others answer only for a while, since then those have gone by themselves.
    """
    asked = [server for server in servers if server.status in UNANNOUNCED]
    silent = {
        server: server.silent_since
        for server in asked
        if server.silent_since and not server.fault and server.status_code in NOTHING_HEARD
    }
    at_once = {server: since for server, since in silent.items() if since >= max(silent.values()) - AT_ONCE}
    if len(asked) < FEWEST or 2 * len(at_once) <= len(asked):
        return None
    since = min(at_once.values())
    is_certain = now - since >= GATHER or any(
        server.contact_failures >= UNHEALTHY_AFTER for server in at_once
    )
    found = CutOff(len(silent), len(asked), since, is_certain)
    return found if len(silent) == len(asked) or now - since < CUT_OFF_LASTS else None


def is_heard_of_others(server: Server, servers: Iterable[Server], now: datetime) -> bool:
    """Whether it is known of all other servers how they are since this one went silent, or nobody waits for that any longer."""
    since = server.silent_since
    if since is None or now - since >= GATHER:
        return True
    return all(
        other.silent_since or (other.last_contact_at and other.last_contact_at >= since)
        for other in servers
        if other.status in UNANNOUNCED
    )


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
    if found["servers"] < FEWEST or found["silent"] < found["servers"] or found["heard"]:
        return None
    since: datetime = found["since"]
    return since


def sees_again_since() -> datetime | None:
    """When the panel last reached a server after it had reached none."""
    last: datetime | None = Blindness.objects.aggregate(at=Max("ended_at"))["at"]
    return last


def end_outage(*, server_pk: int, now: datetime) -> None:
    """The server answered: its silence is over, and where no other answers the panel's own blindness too."""
    if not Server.objects.filter(pk=server_pk, silent_since__isnull=False).exists():
        return
    with transaction.atomic():
        server = Server.objects.select_for_update().filter(pk=server_pk, silent_since__isnull=False).first()
        if server is None:
            return
        was_cut_off = cut_off_since() is not None
        Server.objects.filter(pk=server_pk).update(silent_since=None)
        queue.announce("server_answers", server_pk)
        if was_cut_off:
            Blindness.objects.all().delete()
            Blindness.objects.create(ended_at=now)
            # The others are asked at once, and what was not heard of them until now says nothing of them.
            Server.objects.managed().filter(silent_since__isnull=False).update(**CONTACT.cleared)
