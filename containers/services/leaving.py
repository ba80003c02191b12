"""Servers from which relays are to go: what would become of each, and having it so. Make before break, as when a person moves one."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from django.utils import timezone
from django.utils.translation import ngettext

from accounts.models import User
from containers.decisions import Create, Obstacle, decide_leaving
from containers.models import Relay
from containers.services.ground import read_states
from containers.services.moving import MoveRefused, release_relay
from fleet.models import Server
from fleet.services import start_draining

# So many people are named of those whose relays have nowhere to go.
_NAMED = 10


@dataclass(frozen=True)
class Leaving:
    """What becomes of a relay when nothing may stand on its server: another is made on the server `to`, or it stays for an obstacle.

    With neither it just goes: another one stands in its place already, or it belongs to nobody for whom it has to stand.
    """

    relay: Relay
    to: Server | None = None
    obstacle: Obstacle | None = None

    @property
    def stays(self) -> bool:
        """Whether it has nowhere to go."""
        return self.obstacle == Obstacle.NO_ROOM

    @property
    def is_moving(self) -> bool:
        """Whether another relay comes in its place."""
        return self.to is not None


# These go without anybody's doing.
_GOES = {Obstacle.NO_RIGHTS, Obstacle.GONE}


def foresee_leaving(*, server: Server, now: datetime) -> list[Leaving]:
    """What would become of each relay that stands on the server, one after another; a fixed number of queries."""
    rows = Relay.objects.live().filter(server=server).select_related("server", "rental__user", "last_health")
    relays = list(rows.defer(*Relay.SECRETS).order_by("pk"))
    rentals = {relay.rental_id: relay.rental for relay in relays if relay.rental}
    states = read_states(list(rentals.values()), now)
    movable = [relay for relay in relays if relay.rental_id in states]
    decided = decide_leaving(
        server.pk, [(relay.pk, states[relay.rental_id]) for relay in movable if relay.rental_id]
    )
    decisions = dict(zip((relay.pk for relay in movable), decided, strict=True))
    successors = {
        view.replaces: view.server for state in states.values() for view in state.relays if view.replaces
    }
    servers = {other.pk: other for other in Server.objects.select_related("region")}

    def foresee(relay: Relay) -> Leaving:
        decision = decisions.get(relay.pk)
        if decision is None or decision in _GOES or relay.status == Relay.Status.REMOVING:
            return Leaving(relay)
        if decision == Obstacle.HAS_SUCCESSOR:
            return Leaving(relay, servers[successors[relay.pk]], Obstacle.HAS_SUCCESSOR)
        if isinstance(decision, Obstacle):
            return Leaving(relay, obstacle=decision)
        to = next((action.server for action in decision if isinstance(action, Create)), None)
        return Leaving(relay, servers[to] if to else None)

    return [foresee(relay) for relay in relays]


def drain_server(
    *, server: Server, by: User | None, ip: str | None = None, reason: str = ""
) -> list[Leaving] | None:
    """Drain the server: what is foreseen becomes of its relays, and what stays for want of room is tried again by the clock.

    Gives what was foreseen; None when it is being drained already. Raises `WrongState`. Announces `relay_to_apply`.
    """
    foreseen = foresee_leaving(server=server, now=timezone.now())
    if not start_draining(server=server, by=by, reason=reason):
        return None
    move_away(foreseen, by=by, ip=ip)
    return foreseen


def outcome_sentences(found: Iterable[Leaving]) -> Iterator[str]:
    """What becomes of the relays of a server that is drained, and whose have nowhere to go."""
    rows = list(found)
    moving = Counter(str(leaving.to) for leaving in rows if leaving.is_moving)
    for name, count in sorted(moving.items()):
        text = ngettext(
            "%(count)d relay moves to %(server)s.",
            "%(count)d relays move to %(server)s.",
            count,
        )
        yield text % {"count": count, "server": name}
    if staying := [str(leaving.relay.rental) for leaving in rows if leaving.stays]:
        names = ", ".join(staying[:_NAMED]) + (" …" if len(staying) > _NAMED else "")
        text = ngettext(
            "%(count)d relay has nowhere to go and stays until a server has room: %(names)s.",
            "%(count)d relays have nowhere to go and stay until servers have room: %(names)s.",
            len(staying),
        )
        yield text % {"count": len(staying), "names": names}


def move_away(foreseen: list[Leaving], *, by: User | None, ip: str | None = None) -> int:
    """Have other relays made for those that can go and are not replaced yet; returns how many. What changed since stays as it is."""
    moved = 0
    for leaving in foreseen:
        if leaving.obstacle is None and (leaving.is_moving or _is_successor(leaving.relay)):
            try:
                release_relay(relay=leaving.relay, by=by, ip=ip)
            except MoveRefused:
                continue
            moved += leaving.is_moving
    return moved


def _is_successor(relay: Relay) -> bool:
    """Whether it only comes up to take another's place, which then stays where it is."""
    is_coming = relay.slot is None and relay.replaces_id is not None and relay.retiring_since is None
    return is_coming and relay.status != Relay.Status.REMOVING


def draining_servers() -> list[Server]:
    """The servers that are being drained."""
    return list(Server.objects.filter(status=Server.Status.DRAINING).order_by("pk"))
