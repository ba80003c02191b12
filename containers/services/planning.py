"""Planning: what relays a customer should have, written down as rows; `containers.jobs` makes it so."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import IntegrityError, transaction
from django.db.models import Q
from django.utils import timezone

from containers import placement
from containers.models import Relay
from containers.services.relays import SLOTS, create_relay, give_up
from derpmgmt.lib import queue
from fleet.models import Server
from serials.rentals.models import Rental
from serials.rentals.services import bound_servers, record_plan

# A server on which a customer's relay failed is not tried again for him within this time while others are left.
AVOID_FOR = timedelta(minutes=10)
# These failures are of a port, not of a server: another port of the same server may do.
PORT_FAILURES = ("port_taken",)
# These are the panel's own: no other server would help.
PANEL_FAILURES = ("no_image", "no_gate_image", "internal")
# A port found taken by a stranger is not tried again for a day.
PORT_AVOID_FOR = timedelta(days=1)
# A certificate is renewed, and a relay does not come back with it, when its end is as near as this.
CERTIFICATE_RESERVE = timedelta(days=30)
# A banned person's rental is looked at so often, in case the bell of the end of it was lost.
BARRED_AGAIN = timedelta(minutes=1)
PLAN_TRIES = 5


@dataclass(frozen=True)
class _Ground:
    """Where a customer's relays may be made now.

    `free` holds the ports of `look_at`, `bound` the servers (pks) that what he bought allows (None = all), `avoided` those on which
    a relay of his failed lately.
    """

    servers: dict[int, Server]
    views: list[placement.ServerView]
    free: dict[int, tuple[int, int]]
    bound: set[int] | None
    avoided: set[int]

    def allows(self, relay: Relay) -> bool:
        """Whether the relay stands where it may."""
        return self.bound is None or relay.server_id in self.bound

    def choose(self, wanted: int, taken: Iterable[Relay], kept: Iterable[Relay]) -> list[int]:
        """Up to `wanted` servers on which none of `taken` stands, in other regions than `kept` where there are some."""
        return placement.choose_servers(
            self.views,
            wanted,
            taken={relay.server_id for relay in taken} | self.avoided,
            bound=self.bound,
            regions_used=[str(relay.server.region_id) for relay in kept],
        )


def plan_relays(*, rental_pk: int, now: datetime | None = None) -> None:
    """Make the rows say what the rental's customer should have, and ring for the changes.

    An entitled rental wants three relays on three different usable servers; any other, and that of somebody banned, none. Relays that were released because
    the rights had ended come back as they were, where that is possible. A relay that never came up and whose server or
    port is at fault is replaced elsewhere where there is an elsewhere. Relays on servers that the time which runs is not bound to
    get successors on those that it is, and retire; all stay while fewer than three of these are usable. May run at any time and
    twice.
    """
    for attempt in range(PLAN_TRIES):
        try:
            with transaction.atomic():
                _plan(rental_pk, now or timezone.now())
            return
        except IntegrityError:
            # Another plan took the same port between our look and our insert.
            if attempt == PLAN_TRIES - 1:
                raise


def _plan(rental_pk: int, now: datetime) -> None:
    rental = Rental.objects.select_for_update().get(pk=rental_pk)
    live = list(rental.relays.live().select_related("server"))
    is_barred = rental.user.banned_at is not None
    if is_barred or not rental.is_entitled(now):
        for relay in live:
            give_up(relay, returns=True)
        # Whoever is banned may be let in again, which no time of his rental tells.
        record_plan(
            rental=rental, is_settled=True, again_at=now + BARRED_AGAIN if is_barred else None, now=now
        )
        return
    kept = [relay for relay in live if relay.slot is not None]
    bound = bound_servers(rental, now)
    making = _keep_successors(live, kept, bound, now)
    # Locked, so that two plans never both take a server's last place.
    # (MariaDB knows no FOR UPDATE OF, so nothing is joined here.)
    servers = list(Server.objects.select_for_update().usable().due_for_contact(now).order_by("pk"))
    if len(kept) < len(SLOTS):
        allowed = [server for server in servers if bound is None or server.pk in bound]
        standing = {relay.server_id for relay in kept + making}
        kept += _bring_back(rental, {relay.slot for relay in kept}, allowed, standing, now)
    failed_lately = set(
        rental.relays.filter(failed_at__gt=now - AVOID_FOR)
        .exclude(failure_code__in=["", *PORT_FAILURES, *PANEL_FAILURES])
        .values_list("server_id", flat=True)
    )
    views, free = look_at(servers, now)
    ground = _Ground({server.pk: server for server in servers}, views, free, bound, failed_lately)
    # One that has carried nothing yet needs no successor to go elsewhere.
    broken = [
        relay
        for relay in kept
        if is_hopeless(relay, now) or (relay.proven_at is None and not ground.allows(relay))
    ]
    healthy = [relay for relay in kept if relay not in broken]
    chosen = ground.choose(len(SLOTS) - len(healthy), healthy + making, healthy)
    empty = len(SLOTS) - len(kept)
    # New places first; a broken relay goes only where another can take its place.
    for relay in broken[: max(0, len(chosen) - empty)]:
        give_up(relay)
        kept.remove(relay)
    slots = [slot for slot in SLOTS if slot not in {relay.slot for relay in kept}]
    # A server that only holds a broken relay which stays is no place for another of the same customer.
    occupied = {relay.server_id for relay in kept}
    for slot, server_pk in zip(slots, [pk for pk in chosen if pk not in occupied], strict=False):
        # Whoever had the place does not come back to it.
        rental.relays.filter(return_slot=slot).update(return_slot=None)
        kept.append(create_relay(rental, ground.servers[server_pk], free[server_pk], now, slot=slot))
    is_moved = _move(rental, kept, making, ground, now)
    record_plan(rental=rental, is_settled=len(kept) == len(SLOTS) and is_moved, now=now)


def _move(rental: Rental, kept: list[Relay], making: list[Relay], ground: _Ground, now: datetime) -> bool:
    """Plan successors where they may stand for the relays that stand elsewhere; False when some have to wait for a server.

    Once a successor is proven it takes the place over (`relays.record_running`).
    """
    replaced = {relay.replaces_id for relay in making}
    astray = [relay for relay in kept if not ground.allows(relay) and relay.pk not in replaced]
    if not astray:
        return True
    settled = [relay for relay in kept + making if ground.allows(relay)]
    chosen = ground.choose(len(astray), kept + making, settled)
    standing = {relay.server_id for relay in settled} & ground.servers.keys()
    if len(chosen) < len(astray) or len(standing) + len(chosen) < len(SLOTS):
        return False
    for relay, server_pk in zip(astray, chosen, strict=True):
        create_relay(rental, ground.servers[server_pk], ground.free[server_pk], now, replaces=relay)
    return True


def is_hopeless(relay: Relay, now: datetime) -> bool:
    """Whether a relay that never carried a packet had better be made elsewhere."""
    if relay.proven_at is not None:
        return False
    if relay.status == Relay.Status.FAILED:
        return relay.failure_code not in PANEL_FAILURES
    resting = relay.server.next_contact_at
    return relay.status == Relay.Status.PLANNED and resting is not None and resting > now


def _keep_successors(
    live: list[Relay], kept: list[Relay], bound: set[int] | None, now: datetime
) -> list[Relay]:
    """The successors in the making that are still wanted; one that does not come up, comes too late or to where it may not
    stand is given up."""
    replaceable = {relay.pk for relay in kept}
    wanted = []
    for relay in live:
        if relay.slot is not None or relay.retiring_since or relay.status == Relay.Status.REMOVING:
            continue
        is_allowed = bound is None or relay.server_id in bound
        if relay.replaces_id in replaceable and is_allowed and not is_hopeless(relay, now):
            wanted.append(relay)
        else:
            give_up(relay)
    return wanted


def _bring_back(
    rental: Rental, slots_taken: set[int | None], servers: list[Server], standing: set[int], now: datetime
) -> list[Relay]:
    """Let relays that went because the rights had ended come back to their places: same ports, keys and certificate.

    Each needs its server usable and with room, its ports still free, and a certificate for the server's present address that
    lasts. They have to prove themselves again.
    """
    by_pk = {server.pk: server for server in servers}
    back: list[Relay] = []
    leaving = [Relay.Status.RELEASED, Relay.Status.REMOVING]
    candidates = rental.relays.filter(return_slot__isnull=False, status__in=leaving)
    for relay in candidates.filter(server__in=by_pk).order_by("-pk"):
        relay.server = server = by_pk[relay.server_id]
        is_placed = relay.return_slot in slots_taken or relay.server_id in standing
        is_outdated = (
            relay.certificate_address != server.address
            or relay.certificate_ends_at <= now + CERTIFICATE_RESERVE
        )
        if is_placed or is_outdated or not _has_place(relay, server, now):
            continue
        moved = Relay.objects.filter(pk=relay.pk, status=relay.status).update(
            status=Relay.Status.PLANNED,
            slot=relay.return_slot,
            return_slot=None,
            image="",
            failures=0,
            failure_code="",
            try_after=None,
            proven_at=None,
        )
        if not moved:
            continue
        relay.refresh_from_db(fields=["status", "slot", "return_slot", "proven_at"])
        slots_taken.add(relay.slot)
        standing.add(relay.server_id)
        back.append(relay)
        queue.announce("relay_changed", relay.pk)
    return back


def _has_place(relay: Relay, server: Server, now: datetime) -> bool:
    """Whether the relay's ports are still free on its server, in its ranges, and one more relay fits there."""
    if not (
        server.tcp_port_first <= relay.derp_port <= server.tcp_port_last
        and server.udp_port_first <= relay.stun_port <= server.udp_port_last
    ):
        return False
    if relay.failure_code in PORT_FAILURES and relay.failed_at and relay.failed_at > now - PORT_AVOID_FOR:
        return False
    others = Relay.objects.live().filter(server=server).exclude(pk=relay.pk)
    if others.filter(Q(derp_port=relay.derp_port) | Q(stun_port=relay.stun_port)).exists():
        return False
    return others.count() < server.capacity


def look_at(
    servers: list[Server], now: datetime
) -> tuple[list[placement.ServerView], dict[int, tuple[int, int]]]:
    """What placement needs, and for each server with room its lowest free DERP and STUN ports."""
    tcp: dict[int, set[int]] = defaultdict(set)
    udp: dict[int, set[int]] = defaultdict(set)
    counts: dict[int, int] = defaultdict(int)
    in_use = Relay.objects.filter(server__in=servers).filter(
        ~Q(status=Relay.Status.RELEASED)
        | Q(failure_code__in=PORT_FAILURES, failed_at__gt=now - PORT_AVOID_FOR)
    )
    for server_pk, derp, stun, status in in_use.values_list("server_id", "derp_port", "stun_port", "status"):
        tcp[server_pk].add(derp)
        udp[server_pk].add(stun)
        counts[server_pk] += status != Relay.Status.RELEASED
    views, free = [], {}
    for server in servers:
        tcp_range = range(server.tcp_port_first, server.tcp_port_last + 1)
        udp_range = range(server.udp_port_first, server.udp_port_last + 1)
        derp_port = placement.choose_port(tcp_range, tcp[server.pk])
        stun_port = placement.choose_port(udp_range, udp[server.pk])
        if derp_port is not None and stun_port is not None:
            free[server.pk] = (derp_port, stun_port)
        views.append(
            placement.ServerView(
                pk=server.pk,
                region=str(server.region_id),
                capacity=server.capacity,
                relays=counts[server.pk],
                free_derp_ports=int(derp_port is not None),
                free_stun_ports=int(stun_port is not None),
                load=server.load_ratio,
            )
        )
    return views, free


def due_rentals(now: datetime, limit: int = 500) -> list[int]:
    """Rentals whose relays have to be looked at: their rights changed, or a plan could not give them all."""
    barred = (
        Relay.objects.wanted().filter(rental__user__banned_at__isnull=False).values_list("rental", flat=True)
    )
    due = list(Rental.objects.plan_due(now).values_list("pk", flat=True)[:limit])
    return [*due, *set(barred.distinct()[:limit]).difference(due)]


def rentals_of(user_pk: int) -> list[int]:
    """The rentals of a person who was banned, or is no longer."""
    return list(Rental.objects.filter(user=user_pk).values_list("pk", flat=True))
