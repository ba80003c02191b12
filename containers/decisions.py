"""What a rental's relays should become: which go, which come back, which are made where. Pure functions on plain data.

`containers.services.planning` and `rotation` read the state, have it decided here, and write the rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from containers import placement
from containers.placement import ServerView

SLOTS = (1, 2, 3)
"""The places of a customer: they have three relays, on three different servers."""
# These failures are of a port, not of a server: another port of the same server may do.
PORT_FAILURES = ("port_taken",)
# These are the panel's own: no other server would help.
PANEL_FAILURES = ("no_image", "no_gate_image", "internal")

# The `pk` of a relay whose row does not exist yet.
NEW = 0


@dataclass(frozen=True, slots=True)
class RelayView:
    """What has to be known of a relay that stands, or is to stand, on a server.

    `slot` is its place (None: none), `replaces` the pk of the relay whose place it takes over once it is proven. `is_resting` says
    that its server did not answer and is left alone for now, `is_held` that it is to stand nowhere because its own traffic is used up.
    """

    pk: int
    server: int
    region: str
    slot: int | None = None
    status: str = "running"
    is_proven: bool = True
    replaces: int | None = None
    is_retiring: bool = False
    is_resting: bool = False
    failure_code: str = ""
    is_held: bool = False

    @property
    def is_hopeless(self) -> bool:
        """Whether it never carried a packet and had better be made elsewhere."""
        if self.is_proven:
            return False
        if self.status == "failed":
            return self.failure_code not in PANEL_FAILURES
        return self.status == "planned" and self.is_resting


@dataclass(frozen=True, slots=True)
class GoneView:
    """A relay that went with its customer's rights and comes back with them to the place `slot`.

    `is_possible` says that it can as it was: its ports are free, its server has room, its certificate is good for long enough.
    """

    pk: int
    server: int
    region: str
    slot: int
    is_possible: bool = True


@dataclass(frozen=True, slots=True)
class State:
    """One rental, its relays and the servers at one moment.

    `servers` are those that are usable now, `bound` (pks) the only ones that what runs allows (None: all), `avoided` those on which
    a relay of the rental failed lately. Of `gone`, earlier ones come first to a place that several had. `held` are the places of
    relays that are gone because their own traffic is used up: nothing else comes there meanwhile.
    """

    has_rights: bool
    relays: tuple[RelayView, ...] = ()
    gone: tuple[GoneView, ...] = ()
    servers: tuple[ServerView, ...] = ()
    bound: frozenset[int] | None = None
    avoided: frozenset[int] = frozenset()
    held: frozenset[int] = frozenset()

    def allows(self, server: int) -> bool:
        """Whether what the customer bought allows this server."""
        return self.bound is None or server in self.bound

    def choose(
        self, wanted: int, taken: Iterable[RelayView], kept: Iterable[RelayView]
    ) -> list[tuple[int, str]]:
        """Up to `wanted` servers, as pk and region, on which none of `taken` stands; in other regions than `kept` where there are some."""
        chosen = placement.choose_servers(
            self.servers,
            wanted,
            taken={relay.server for relay in taken} | self.avoided,
            bound=self.bound,
            regions_used=[relay.region for relay in kept],
        )
        regions = {view.pk: view.region for view in self.servers}
        return [(pk, regions[pk]) for pk in chosen]


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Have a relay removed; `returns`: it comes back to its place with its customer's rights."""

    relay: int
    returns: bool = False


@dataclass(frozen=True, slots=True)
class BringBack:
    """Have a relay that is gone, or going, stand again as it was, in its place `slot`."""

    relay: int
    slot: int


@dataclass(frozen=True, slots=True)
class Create:
    """Make a relay on a server: for the place `slot`, or as the successor of the relay `replaces`."""

    server: int
    slot: int | None = None
    replaces: int | None = None


Action = GiveUp | BringBack | Create


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done, in this order; `is_settled` says that nothing is missing afterwards, so that it need not be tried again."""

    actions: tuple[Action, ...]
    is_settled: bool


def decide(state: State) -> Plan:
    """What makes the relays those that the rental's customer should have.

    With rights they have three on three different usable servers, without none. Those that went with their rights come back where
    they can. One that never came up and whose server or port is at fault is made elsewhere, where there is an elsewhere; so is one that
    carried nothing yet and stands where it may not. One that works and stands where it may not gets a successor; all
    of these stay while fewer than three servers would do. One whose own traffic is used up goes, and its place stays empty until it
    comes back.
    """
    if not state.has_rights:
        standing = [relay for relay in state.relays if relay.status != "removing"]
        return Plan(tuple(GiveUp(relay.pk, returns=True) for relay in standing), is_settled=True)
    holding = [relay for relay in state.relays if relay.slot is not None and relay.is_held]
    kept = [relay for relay in state.relays if relay.slot is not None and not relay.is_held]
    making, surplus = _successors(state, kept)
    actions: list[Action] = [GiveUp(relay.pk) for relay in surplus]
    # Its successor has the place to which the traffic counts: nothing is left for it either.
    actions += [
        GiveUp(relay.pk)
        for relay in state.relays
        if relay.is_retiring and relay.is_held and relay.status != "removing"
    ]
    actions += [GiveUp(relay.pk, returns=True) for relay in holding]
    held = state.held | {relay.slot for relay in holding}
    places = [slot for slot in SLOTS if slot not in held]
    for gone in _returning(state, kept, making):
        actions.append(BringBack(gone.pk, gone.slot))
        kept.append(RelayView(gone.pk, gone.server, gone.region, gone.slot, "planned", is_proven=False))

    broken = [
        relay for relay in kept if relay.is_hopeless or not (relay.is_proven or state.allows(relay.server))
    ]
    sound = [relay for relay in kept if relay not in broken]
    chosen = state.choose(max(len(places) - len(sound), 0), sound + making, sound)
    # A broken relay goes only where another takes its place: on its own server, else where no empty place needs it more.
    here = {server for server, _region in chosen}
    leaving = [relay for relay in broken if relay.server in here]
    spare = len(chosen) - len(leaving) - (len(places) - len(kept))
    leaving += [relay for relay in broken if relay not in leaving][: max(0, spare)]
    actions += [GiveUp(relay.pk) for relay in leaving]
    kept = [relay for relay in kept if relay not in leaving]
    empty = [slot for slot in _empty_slots(kept) if slot in places]
    for slot, (server, region) in zip(empty, chosen, strict=False):
        actions.append(Create(server, slot=slot))
        kept.append(RelayView(NEW, server, region, slot, "planned", is_proven=False))

    moves = _moves(state, kept, making)
    actions += moves or ()
    return Plan(tuple(actions), is_settled=len(kept) >= len(places) and moves is not None)


def decide_successor(state: State, relay_pk: int) -> Create | None:
    """The successor of a running relay: on its own server, else on another; None where it is to have none, or no server has room."""
    relay = next((relay for relay in state.relays if relay.pk == relay_pk), None)
    is_running = relay is not None and relay.slot is not None and relay.status == "running"
    has_successor = any(other.replaces == relay_pk for other in state.relays)
    if not relay or not is_running or has_successor or not state.has_rights:
        return None
    # It has a certificate to renew: a relay that failed somewhere lately is no reason to wait.
    own = tuple(view for view in state.servers if view.pk == relay.server)
    here = replace(state, servers=own, avoided=frozenset())
    elsewhere = replace(state, avoided=frozenset())
    chosen = here.choose(1, (), ()) or elsewhere.choose(1, state.relays, ())
    return Create(chosen[0][0], replaces=relay_pk) if chosen else None


class Obstacle(StrEnum):
    """Why a relay is not put elsewhere."""

    NO_RIGHTS = "no_rights"
    GONE = "relay_gone"
    HAS_SUCCESSOR = "has_successor"
    NOT_USABLE = "server_not_usable"
    NOT_BOUGHT = "server_not_bought"
    STANDS_THERE = "stands_there"
    FULL = "server_full"
    NO_ROOM = "no_room"


def decide_move(state: State, server: int, relay_pk: int | None = None) -> tuple[Action, ...] | Obstacle:
    """What brings one of the customer's three relays onto `server`, as an operator wants: an empty place is filled first, else a
    successor is made there for the relay `relay_pk` or, without it, for the one that can best be spared.

    That a relay failed there lately is no obstacle: a person asked for it.
    """
    if not state.has_rights:
        return Obstacle.NO_RIGHTS
    kept = [relay for relay in state.relays if relay.slot is not None]
    making, _surplus = _successors(state, kept)
    replaced = {relay.replaces for relay in making}
    view = next((view for view in state.servers if view.pk == server), None)
    if any(relay.server == server for relay in (*kept, *making)):
        return Obstacle.STANDS_THERE
    if not state.allows(server):
        return Obstacle.NOT_BOUGHT
    if view is None:
        return Obstacle.NOT_USABLE
    if not view.has_room:
        return Obstacle.FULL
    empty = [slot for slot in _empty_slots(kept) if slot not in state.held]
    if relay_pk is None and empty:
        return (Create(server, slot=empty[0]),)
    chosen = [relay for relay in kept if relay_pk in {None, relay.pk}]
    if not chosen:
        return Obstacle.GONE
    movable = [relay for relay in chosen if relay.pk not in replaced]
    if not movable:
        return Obstacle.HAS_SUCCESSOR
    usable = {view.pk for view in state.servers}

    def rank(relay: RelayView) -> tuple[bool, bool, bool, bool, int, int]:
        regions = {other.region for other in kept if other != relay} | {view.region}
        assert relay.slot is not None
        return (
            relay.is_proven,
            relay.status != "failed",
            state.allows(relay.server),
            relay.server in usable,
            -len(regions),
            -relay.slot,
        )

    return _replacement(min(movable, key=rank), server)


def decide_release(state: State, relay_pk: int) -> tuple[Action, ...] | Obstacle:
    """What gives a relay up without leaving the customer with fewer: another is made on another server, else on the same one.

    One that comes up to take another's place just goes: that other one stays.
    """
    if not state.has_rights:
        return Obstacle.NO_RIGHTS
    kept = [relay for relay in state.relays if relay.slot is not None]
    making, surplus = _successors(state, kept)
    if any(relay.pk == relay_pk for relay in (*making, *surplus)):
        return (GiveUp(relay_pk),)
    relay = next((relay for relay in kept if relay.pk == relay_pk), None)
    if relay is None:
        return Obstacle.GONE
    if any(other.replaces == relay_pk for other in making):
        return Obstacle.HAS_SUCCESSOR
    others = [other for other in kept if other != relay]
    own = replace(state, servers=tuple(view for view in state.servers if view.pk == relay.server))
    anywhere = replace(state, avoided=frozenset())
    chosen = (
        state.choose(1, kept + making, others)
        or anywhere.choose(1, kept + making, others)
        or replace(own, avoided=frozenset()).choose(1, (), ())
    )
    return _replacement(relay, chosen[0][0]) if chosen else Obstacle.NO_ROOM


def decide_leaving(server: int, standing: Iterable[tuple[int, State]]) -> list[tuple[Action, ...] | Obstacle]:
    """What becomes of relays (pks), each with its rental's state, when nothing may stand on `server` any more: one after another,
    each has the room that those before it leave (`decide_release`)."""
    filled: dict[int, ServerView] = {}
    found = []
    for relay_pk, state in standing:
        views = tuple(filled.get(view.pk, view) for view in state.servers if view.pk != server)
        decision = decide_release(replace(state, servers=views), relay_pk)
        found.append(decision)
        made = (
            {action.server for action in decision if isinstance(action, Create)}
            if isinstance(decision, tuple)
            else set()
        )
        filled |= {view.pk: view.with_one_more() for view in views if view.pk in made}
    return found


def _replacement(relay: RelayView, server: int) -> tuple[Action, ...]:
    """Another relay in the place of one: beside it until it is proven, where the old one ever carried a packet."""
    if relay.is_proven:
        return (Create(server, replaces=relay.pk),)
    return (GiveUp(relay.pk), Create(server, slot=relay.slot))


def _empty_slots(kept: Iterable[RelayView]) -> list[int]:
    taken = {relay.slot for relay in kept}
    return [slot for slot in SLOTS if slot not in taken]


def _successors(state: State, kept: Iterable[RelayView]) -> tuple[list[RelayView], list[RelayView]]:
    """The successors in the making that are still wanted, and those that are not: they do not come up, come too late or to where
    they may not stand."""
    replaceable = {relay.pk for relay in kept}
    making: list[RelayView] = []
    surplus: list[RelayView] = []
    for relay in state.relays:
        if relay.slot is not None or relay.is_retiring or relay.status == "removing":
            continue
        is_wanted = relay.replaces in replaceable and state.allows(relay.server) and not relay.is_hopeless
        (making if is_wanted else surplus).append(relay)
    return making, surplus


def _returning(state: State, kept: Iterable[RelayView], making: Iterable[RelayView]) -> list[GoneView]:
    """Those that come back to places which are empty."""
    usable = {view.pk for view in state.servers if state.allows(view.pk)}
    slots = {relay.slot for relay in kept}
    standing = {relay.server for relay in (*kept, *making)}
    back = []
    for gone in state.gone:
        if gone.is_possible and gone.server in usable - standing and gone.slot not in slots | state.held:
            slots.add(gone.slot)
            standing.add(gone.server)
            back.append(gone)
    return back


def _moves(state: State, kept: list[RelayView], making: list[RelayView]) -> list[Create] | None:
    """Successors where they may stand for the relays that stand elsewhere; None when these have to wait for servers."""
    replaced = {relay.replaces for relay in making}
    astray = [relay for relay in kept if not state.allows(relay.server) and relay.pk not in replaced]
    settled = [relay for relay in kept + making if state.allows(relay.server)]
    chosen = state.choose(len(astray), kept + making, settled)
    standing = {relay.server for relay in settled} & {view.pk for view in state.servers}
    if astray and (len(chosen) < len(astray) or len(standing) + len(chosen) < len(SLOTS)):
        return None
    return [
        Create(server, replaces=relay.pk) for relay, (server, _region) in zip(astray, chosen, strict=True)
    ]
