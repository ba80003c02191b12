"""Which servers get a customer's relays, and which ports: pure choices over plain data."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class ServerView:
    """What placement needs to know of one usable server.

    `relays` counts the live relays that the server holds of all customers, `capacity` how many it may hold; `customers` and
    `customer_capacity` likewise (None: as many as there are relays for). The free ports are counts within the server's ranges; ports
    of DERP are TCP, those of STUN are UDP. `load`, `memory` and `traffic` are the shares of what it can bear that are in use (0 idle, 1
    full), as they were measured last; `more_memory` is the share that one more relay takes. What is not known is None, and speaks
    neither for the server nor against it.
    """

    pk: int
    region: str
    capacity: int
    relays: int
    free_derp_ports: int
    free_stun_ports: int
    load: float | None = None
    memory: float | None = None
    more_memory: float = 0.0
    traffic: float | None = None
    customers: int = 0
    customer_capacity: int | None = None

    @property
    def has_room(self) -> bool:
        """Whether one more relay of another customer fits: over nothing that is known."""
        return (
            self.relays < self.capacity
            and self.free_derp_ports > 0
            and self.free_stun_ports > 0
            and (self.customer_capacity is None or self.customers < self.customer_capacity)
            and (self.load is None or self.load < 1)
            and (self.memory is None or self.memory + self.more_memory <= 1)
            and (self.traffic is None or self.traffic < 1)
        )

    @property
    def fill(self) -> float:
        """How full it is: the share in use of that of which the least is left."""
        shares = [self.relays / self.capacity, self.load, self.memory, self.traffic]
        if self.customer_capacity:
            shares.append(self.customers / self.customer_capacity)
        return max(share for share in shares if share is not None)

    def with_one_more(self) -> "ServerView":
        """The same with one more relay."""
        return replace(
            self,
            relays=self.relays + 1,
            free_derp_ports=self.free_derp_ports - 1,
            free_stun_ports=self.free_stun_ports - 1,
            memory=None if self.memory is None else self.memory + self.more_memory,
            customers=self.customers + 1,
        )


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
    one entry a relay. Regions count first (one more region is worth more than an emptier server), then how full a server
    is (`ServerView.fill`), then the pk, so that equal input gives equal output.
    Returns fewer than wanted where there are not enough servers with room.
    """
    candidates = {
        server.pk: server
        for server in servers
        if server.has_room and server.pk not in taken and (bound is None or server.pk in bound)
    }
    regions = Counter(regions_used)
    chosen: list[int] = []

    def rank(server: ServerView) -> tuple[int, float, int]:
        return regions[server.region], server.fill, server.pk

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
