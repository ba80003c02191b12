"""Which containers of a server a visit looks at whole. Pure: no host, no rows.

The Engine's one list tells of every container whether it is there and runs, its name, networks and labels, and with them which spec
it was made by. What somebody changes later in a running one (`docker update`: limits, restart policy) only its own description
tells, which is a question more for each. So one relay a visit has its turn, and one that became another container, started again
or changed its state since the last visit is looked at then.
"""

import random
from collections.abc import Hashable, Mapping
from dataclasses import dataclass

# So many that have changed are looked at in one visit, as after a restart of the whole server; the next visits go on.
MOST_CHANGED = 8
# What the list does not tell of a server, its volumes and its gate's list, is looked at once in so many visits.
REST_EVERY = 4


@dataclass(frozen=True)
class Seen:
    """A container as list and facts show it; `epoch` as in `fleet.facts.ContainerFacts`, empty where nobody may know."""

    container_id: str
    state: str
    epoch: str = ""

    def is_same(self, other: "Seen") -> bool:
        """Whether nothing happened between the two, as far as anybody knows."""
        is_known_epoch = bool(self.epoch and other.epoch)
        mine, others = (self.container_id, self.state), (other.container_id, other.state)
        return mine == others and (not is_known_epoch or self.epoch == other.epoch)


class Looks:
    """What visits have seen on one server since they know it."""

    def __init__(self) -> None:
        self._known: dict[int, Seen] | None = None
        self._last = 0
        self._standing: Hashable = None
        # Not the same visit for all servers.
        self._visits = random.randrange(REST_EVERY)  # noqa: S311

    def is_rest_due(self, standing: Hashable) -> bool:
        """Whether to look at the rest now: at the first visit, where what stands there (`standing`) is other than at the one before,
        and every `REST_EVERY` visits."""
        self._visits += 1
        is_other, self._standing = standing != self._standing, standing
        return is_other or self._visits % REST_EVERY == 0

    def choose(self, seen: Mapping[int, Seen]) -> list[int]:
        """Which of these relays to look at whole now: those that have changed, and the one whose turn it is.

        At the first visit all are as they should be by their labels, and any has the first turn, so that also with a panel that is
        often started anew each has its turn some time.
        """
        if not seen:
            self._known = {}
            return []
        order = sorted(seen)
        if self._known is None:
            self._known = dict(seen)
            self._last = random.choice(order)  # noqa: S311
        known = self._known
        changed = [pk for pk in order if pk not in known or not known[pk].is_same(seen[pk])][:MOST_CHANGED]
        turn = next((pk for pk in order if pk > self._last), order[0])
        self._last = turn
        chosen = sorted({*changed, turn})
        # What could not be looked at now stays as it was known, so that it has changed at the next visit too.
        waiting = {
            pk for pk in known.keys() & seen.keys() if pk not in chosen and not known[pk].is_same(seen[pk])
        }
        unknown = seen.keys() - known.keys() - set(chosen)
        self._known = {
            pk: known[pk] if pk in waiting else now for pk, now in seen.items() if pk not in unknown
        }
        return chosen
