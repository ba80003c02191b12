"""Where a customer's relays stand and where they may be made: the rows, read for `containers.decisions`."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db.models import Q

from containers import placement
from containers.decisions import PANEL_FAILURES, PORT_FAILURES, GoneView, RelayView, State
from containers.models import Relay, RelayQuerySet
from containers.services.server_allowances import traffic_shares
from fleet.models import CONTACT, Server
from serials.rentals.models import Rental
from serials.rentals.services import bound_servers, bound_servers_of

# A server on which a customer's relay failed is not tried again for them within this time while others are left.
AVOID_FOR = timedelta(minutes=10)
# What an idle relay takes of its host's memory, with Docker's own processes for it, and some connections, in bytes.
RELAY_MEMORY = 64 * 1024 * 1024
# A port found taken by a stranger is not tried again for a day.
PORT_AVOID_FOR = timedelta(days=1)
# A certificate is renewed, and a relay does not come back with it, when its end is as near as this.
CERTIFICATE_RESERVE = timedelta(days=30)


@dataclass(frozen=True)
class Ground:
    """The rows behind a `State`: the relays and usable servers by pk, and of each server the lowest free DERP and STUN port and the
    DERP ports that are taken, or avoided."""

    relays: dict[int, Relay]
    servers: dict[int, Server]
    ports: dict[int, tuple[int | None, int | None]]
    taken: dict[int, frozenset[int]]


def read_state(rental: Rental, now: datetime) -> tuple[State, Ground]:
    """What `containers.decisions` needs, and the rows behind it; call in a transaction with the rental's row locked.

    Without rights only the relays are read.
    """
    has_rights = rental.has_rights(now)
    live = list(_relays(rental).exclude(status=Relay.Status.RELEASED))
    relays = tuple(_view(relay, now) for relay in live)
    if not has_rights:
        return State(False, relays), Ground({relay.pk: relay for relay in live}, {}, {}, {})
    # Locked, so that two plans never both take a server's last place.
    # (MariaDB knows no FOR UPDATE OF, so nothing is joined here.)
    servers = list(Server.objects.select_for_update().usable().due_for_contact(now).order_by("pk"))
    gone = list(
        _relays(rental)
        .filter(
            return_slot__isnull=False,
            status__in=[Relay.Status.RELEASED, Relay.Status.REMOVING],
            server__in=servers,
        )
        .order_by("-pk")
    )
    standing = _read_standing(servers, now)
    ports = {server.pk: _free_ports(server, standing[server.pk]) for server in servers}
    failed_lately = _failed_lately(rental.relays, now).values_list("server_id", flat=True)
    bound = bound_servers(rental, now)
    traffic = traffic_shares(servers, now)
    rows_of = {server.pk: server for server in servers}
    state = State(
        has_rights=True,
        relays=relays,
        gone=tuple(
            _gone_view(relay, rows_of[pk], standing[pk], traffic.get(pk), now)
            for relay in gone
            for pk in [relay.server_id]
        ),
        servers=tuple(
            _server_view(
                server, standing[server.pk], _count_ports(server, standing[server.pk]), traffic.get(server.pk)
            )
            for server in servers
        ),
        bound=None if bound is None else frozenset(bound),
        avoided=frozenset(failed_lately),
        held=frozenset(_held(rental)),
    )
    rows = {relay.pk: relay for relay in [*gone, *live]}
    taken = {server.pk: frozenset(row.derp_port for row in standing[server.pk]) for server in servers}
    return state, Ground(rows, rows_of, ports, taken)


def read_states(rentals: Collection[Rental], now: datetime) -> dict[int, State]:
    """The states of many rentals (by pk) as they are read now, by a fixed number of queries; to foresee what would be decided.

    Nothing is locked, and relays that are gone are left out.
    """
    pks = [rental.pk for rental in rentals]
    relays, avoided = defaultdict(list), defaultdict(set)
    for relay in _with_plan_fields(Relay.objects.live().filter(rental__in=pks)):
        relays[relay.rental_id].append(_view(relay, now))
    failed = _failed_lately(Relay.objects.filter(rental__in=pks), now)
    for rental_pk, server_pk in failed.values_list("rental_id", "server_id"):
        avoided[rental_pk].add(server_pk)
    servers = list(Server.objects.usable().due_for_contact(now).order_by("pk"))
    standing = _read_standing(servers, now)
    traffic = traffic_shares(servers, now)
    views = tuple(
        _server_view(
            server, standing[server.pk], _count_ports(server, standing[server.pk]), traffic.get(server.pk)
        )
        for server in servers
    )
    bound = bound_servers_of(rentals, now)
    return {
        rental.pk: State(
            has_rights=rental.has_rights(now),
            relays=tuple(relays[rental.pk]),
            servers=views,
            bound=bound[rental.pk],
            avoided=frozenset(avoided[rental.pk]),
        )
        for rental in rentals
    }


def _held(rental: Rental) -> list[int]:
    """The places of the relays that went because their own traffic is used up."""
    stopped = rental.relays.filter(stopped_at__isnull=False, return_slot__isnull=False)
    return [slot for slot in stopped.values_list("return_slot", flat=True) if slot is not None]


def _count_ports(server: Server, standing: list["_Standing"]) -> tuple[int, int]:
    """How many DERP and STUN ports of a server are free."""
    tcp = range(server.tcp_port_first, server.tcp_port_last + 1)
    udp = range(server.udp_port_first, server.udp_port_last + 1)
    return (
        len(tcp) - len({row.derp_port for row in standing if row.derp_port in tcp}),
        len(udp) - len({row.stun_port for row in standing if row.stun_port in udp}),
    )


def _failed_lately(relays: Any, now: datetime) -> Any:
    """Those of a server's fault, on which their customer's next relay is not made while others are left."""
    return relays.filter(failed_at__gt=now - AVOID_FOR).exclude(
        failure_code__in=["", *PORT_FAILURES, *PANEL_FAILURES]
    )


def _relays(rental: Rental) -> RelayQuerySet:
    return _with_plan_fields(rental.relays)


def _with_plan_fields(relays: Any) -> RelayQuerySet:
    """Relays with what a plan looks at: not their keys, each of which would be decrypted."""
    # fmt: off
    return relays.select_related("server").only(
        "rental_id", "slot", "status", "derp_port", "stun_port", "certificate_address", "certificate_ends_at", "failure_code", "failed_at",
        "proven_at", "return_slot", "replaces_id", "retiring_since", "stopped_at", "server__region_id", "server__address", "server__capacity",
        "server__next_contact_at", "server__tcp_port_first", "server__tcp_port_last", "server__udp_port_first", "server__udp_port_last",
    )
    # fmt: on


def _view(relay: Relay, now: datetime) -> RelayView:
    return RelayView(
        pk=relay.pk,
        server=relay.server_id,
        region=str(relay.server.region_id),
        slot=relay.slot,
        status=relay.status,
        is_proven=relay.proven_at is not None,
        replaces=relay.replaces_id,
        is_retiring=relay.retiring_since is not None,
        is_resting=CONTACT.rests(relay.server, now),
        failure_code=relay.failure_code,
        is_held=relay.stopped_at is not None,
    )


@dataclass(frozen=True, slots=True)
class _Standing:
    """What has ports on a server: pks, ports, whose it is, since when, and whether it stands there or its port is only avoided."""

    pk: int
    rental: int | None
    created_at: datetime
    derp_port: int
    stun_port: int
    is_live: bool


def _read_standing(servers: list[Server], now: datetime) -> dict[int, list[_Standing]]:
    """What has ports on each of the servers, by one query."""
    standing = defaultdict(list)
    in_use = Relay.objects.filter(server__in=servers).filter(
        ~Q(status=Relay.Status.RELEASED)
        | Q(failure_code__in=PORT_FAILURES, failed_at__gt=now - PORT_AVOID_FOR)
    )
    rows = in_use.values_list(
        "server_id", "pk", "rental_id", "created_at", "derp_port", "stun_port", "status"
    )
    for server_pk, pk, rental_pk, created_at, derp_port, stun_port, status in rows:
        standing[server_pk].append(
            _Standing(pk, rental_pk, created_at, derp_port, stun_port, status != Relay.Status.RELEASED)
        )
    return standing


def _gone_view(
    relay: Relay, server: Server, standing: list[_Standing], traffic: float | None, now: datetime
) -> GoneView:
    """A relay that went with the rights; it may come back where its ports are free and in the server's ranges, one more relay fits
    as any other would, and its certificate names the server's present address and lasts."""
    others = [row for row in standing if row.is_live and row.pk != relay.pk]
    # Of ports only its own count.
    room = _server_view(server, others, (1, 1), traffic)
    is_possible = (
        server.tcp_port_first <= relay.derp_port <= server.tcp_port_last
        and server.udp_port_first <= relay.stun_port <= server.udp_port_last
        and not any(row.derp_port == relay.derp_port or row.stun_port == relay.stun_port for row in others)
        and room.has_room
        and not (
            relay.failure_code in PORT_FAILURES and relay.failed_at and relay.failed_at > now - PORT_AVOID_FOR
        )
        and relay.certificate_address == server.address
        and relay.certificate_ends_at > now + CERTIFICATE_RESERVE
    )
    assert relay.return_slot is not None
    return GoneView(relay.pk, server.pk, str(server.region_id), relay.return_slot, is_possible)


def _free_ports(server: Server, standing: list[_Standing]) -> tuple[int | None, int | None]:
    """A server's lowest free DERP and STUN port; None where there is none."""
    tcp = range(server.tcp_port_first, server.tcp_port_last + 1)
    udp = range(server.udp_port_first, server.udp_port_last + 1)
    return (
        placement.choose_port(tcp, {row.derp_port for row in standing}),
        placement.choose_port(udp, {row.stun_port for row in standing}),
    )


def _server_view(
    server: Server, standing: list[_Standing], ports: tuple[int, int], traffic: float | None
) -> placement.ServerView:
    live = [row for row in standing if row.is_live]
    seen_at, memory, more_memory = server.last_visit_at, server.memory_share, 0.0
    if memory is not None and server.memory_bytes:
        more_memory = RELAY_MEMORY / server.memory_bytes
        # Those that were placed since are not in what was measured.
        memory += more_memory * sum(seen_at is None or row.created_at > seen_at for row in live)
    return placement.ServerView(
        pk=server.pk,
        region=str(server.region_id),
        capacity=server.capacity,
        relays=len(live),
        free_derp_ports=ports[0],
        free_stun_ports=ports[1],
        load=None if server.load_ratio is None else server.load_ratio / settings.FULL_LOAD,
        memory=memory,
        more_memory=more_memory,
        traffic=traffic,
        customers=len({row.rental for row in live if row.rental is not None}),
        customer_capacity=server.customer_limit,
    )
