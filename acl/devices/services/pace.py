"""How many questions of relays are written down one by one, and which are counted together: strangers may knock with a new key each time.

The numbers are one process' for a minute. Those who are let in and those who are not have numbers of their own, so that strangers
take nothing from devices.
"""

from collections import Counter
from collections.abc import Collection, Hashable
from dataclasses import dataclass
from datetime import datetime

from acl.devices.networks import network_of

# Rows of their own: about one network at a rental, about a rental, and in all.
ROWS_PER_NETWORK = 20
ROWS_PER_RENTAL = 60
ROWS_IN_ALL = 3000
# Beyond that, rows that count: each about one network at a rental, while these are few; and in all.
COUNTS_PER_RENTAL = 8
COUNTS_IN_ALL = 2000


@dataclass(frozen=True)
class Asked:
    """A question of a relay and the answer it got, as often as the same came within a moment."""

    relay: int
    rental: int
    node_key: str
    ip: str | None
    is_allowed: bool
    reason: str
    at: datetime
    count: int = 1


@dataclass
class Counted:
    """Questions that one row counts: about a rental in a minute, with the same answer, from one network or (`ip` None) from many.

    `relay` is the one that asked last; `ip` is the first address of an IPv6 network.
    """

    rental: int
    at: datetime
    is_allowed: bool
    reason: str
    ip: str | None
    relay: int
    count: int


class Pace:
    """Sorts questions into those with a row of their own and those that are counted together, minute by minute."""

    def __init__(self) -> None:
        self._minute: datetime | None = None
        self._rows: Counter[Hashable] = Counter()
        self._counts: set[Hashable] = set()

    def sort(self, asked: Collection[Asked]) -> tuple[list[Asked], list[Counted], int]:
        """Rows of their own, rows that count, and how many questions are written down nowhere."""
        rows: list[Asked] = []
        counts: dict[Hashable, Counted] = {}
        lost = 0
        for one in asked:
            minute = one.at.replace(second=0, microsecond=0)
            if minute != self._minute:
                self._minute = minute
                self._rows.clear()
                self._counts.clear()
            network = network_of(one.ip)
            if self._takes_row(one, network):
                rows.append(one)
            elif (key := self._count_of(one, network)) is None:
                lost += one.count
            elif (known := counts.get((minute, key))) is None:
                ip = network.partition("/")[0] or None if key[-1] else None
                counts[minute, key] = Counted(
                    one.rental, minute, one.is_allowed, one.reason, ip, one.relay, one.count
                )
            else:
                known.relay, known.count = one.relay, known.count + one.count
        return rows, list(counts.values()), lost

    def _takes_row(self, one: Asked, network: str) -> bool:
        keys = {
            (one.is_allowed, one.rental, network): ROWS_PER_NETWORK,
            (one.is_allowed, one.rental): ROWS_PER_RENTAL,
            one.is_allowed: ROWS_IN_ALL,
        }
        if any(self._rows[key] >= most for key, most in keys.items()):
            return False
        self._rows.update(keys.keys())
        return True

    def _count_of(self, one: Asked, network: str) -> tuple[int, bool, str, str] | None:
        """Which row counts it, None for none; the last part is its network, "" for many."""
        for key in (
            (one.rental, one.is_allowed, one.reason, network),
            (one.rental, one.is_allowed, one.reason, ""),
        ):
            if key in self._counts:
                return key
            of_rental = (one.rental, "networks")
            is_of_many = not key[-1]
            if len(self._counts) < COUNTS_IN_ALL and (
                is_of_many or self._rows[of_rental] < COUNTS_PER_RENTAL
            ):
                self._counts.add(key)
                self._rows[of_rental] += not is_of_many
                return key
        return None
