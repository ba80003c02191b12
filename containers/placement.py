"""Which servers get a customer's relays, and which ports: pure choices over plain data."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ServerView:
    """What placement needs to know of one usable server.

    `relays` counts the live relays that the server holds of all customers, `capacity` how many it may hold. `load`
    is its last measured load as a share of what it can bear (0 idle, 1 full; None when never measured). The free
    ports are counts within the server's ranges; ports of DERP are TCP, those of STUN are UDP.
    """

    pk: int
    region: str
    capacity: int
    relays: int
    free_derp_ports: int
    free_stun_ports: int
    load: float | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more relay fits."""
        return self.relays < self.capacity and self.free_derp_ports > 0 and self.free_stun_ports > 0

    def with_one_more(self) -> "ServerView":
        """The same with one more relay."""
        derp_ports, stun_ports = self.free_derp_ports - 1, self.free_stun_ports - 1
        return replace(self, relays=self.relays + 1, free_derp_ports=derp_ports, free_stun_ports=stun_ports)


def choose_servers(
    servers: Iterable[ServerView],
    wanted: int,
    *,
    taken: Collection[int] = (),
    bound: Collection[int] | None = None,
    regions_used: Iterable[str] = (),
) -> list[int]:
    """Choose up to `wanted` servers for one customer's further relays; returns their pks, best first.

    `taken` are servers that already hold a relay of the customer: never a second one there. `bound`, when not None,
    are the only servers that what they bought allows. `regions_used` names the regions of the relays that they keep,
    one entry a relay. Regions count first (one more region is worth more than an emptier server), then the share of
    the capacity in use, then the load (unknown after known), then the pk, so that equal input gives equal output.
    Returns fewer than wanted where there are not enough servers with room.
    """
    candidates = {
        server.pk: server
        for server in servers
        if server.has_room and server.pk not in taken and (bound is None or server.pk in bound)
    }
    regions = Counter(regions_used)
    chosen: list[int] = []

    def rank(server: ServerView) -> tuple[int, float, bool, float, int]:
        fill = server.relays / server.capacity
        return regions[server.region], fill, server.load is None, server.load or 0.0, server.pk

    while candidates and len(chosen) < wanted:
        best = min(candidates.values(), key=rank)
        del candidates[best.pk]
        regions[best.region] += 1
        chosen.append(best.pk)
    return chosen


def choose_port(ports: range, taken: Collection[int]) -> int | None:
    """The lowest port of a server's range that is not taken; None when the range is used up."""
    in_use = frozenset(taken)
    return next((port for port in ports if port not in in_use), None)
