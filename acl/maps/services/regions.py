"""Which relay stands under which region ID of a customer's map: the rules by which a map follows its relays.

A region ID is a **place** of the customer: relays change under it, and it stays. What the rules keep clients from was measured
with Tailscale 1.102.5, two clients each, pings every second:

- A place's relay replaced under the same ID while the old one runs on costs 0 to 1 of 80 pings. A region that leaves the map while
  its relay answers costs 20 to 35 s, because clients go on to send through it, and some that are silent have no home until they
  are restarted. So no version lets a region go whose relay may still answer.
- A region that leaves the map right after its ports closed costs up to 31 s, and leaves some clients deaf; one that leaves 12 s
  later costs 7 to 10 s, and none was stuck: they look for another home by themselves first (`LETS_GO_AFTER`).
"""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

from acl.maps.models import MapRegion
from containers.models import Relay

# A region leaves the map so long after its relay's ports have closed, at the earliest.
LETS_GO_AFTER = timedelta(seconds=12)
# Devices find each other by two or three relays: so long after one was replaced by another, the next may be.
CHANGES_APART = timedelta(minutes=1)


def may_answer(relay: Relay, now: datetime) -> bool:
    """Whether clients may still have it as their home: its ports are open, or were a moment ago."""
    return not relay.is_closed_since(now - LETS_GO_AFTER)


def choose_relays(
    rows: Iterable[MapRegion], holders: Mapping[int, Relay], now: datetime
) -> dict[MapRegion, Relay]:
    """The relay that each region of the next version leads to; regions that have none are left out. Nothing is changed.

    `rows` are a rental's, with the relay that the version before led to; `holders` the proven relays by the place they hold. One
    that still works is followed by its successor once that runs, and not within `CHANGES_APART` of another's change; one that
    does not work at once. A region without a place, from before a successor took its predecessor's region ID over, stays with
    its relay.
    """
    rows = sorted(rows, key=lambda row: row.region_id)
    changes = [row.changed_at for row in rows if row.changed_at and row.changed_at <= now]
    may_change = not changes or max(changes) <= now - CHANGES_APART
    chosen: dict[MapRegion, Relay] = {}
    for row in rows:
        old = row.relay
        new = holders.get(row.slot) if row.slot is not None else None
        if new is None or (old is not None and old.pk == new.pk):
            if new or (old and may_answer(old, now)):
                chosen[row] = new or old  # type: ignore[assignment]
        elif old is None or not _works(old):
            chosen[row] = new
        elif may_change and new.status == Relay.Status.RUNNING:
            chosen[row] = new
            may_change = False
        else:
            chosen[row] = old
    return chosen


def _works(relay: Relay) -> bool:
    """Whether devices can use it, as far as the panel knows; one that is being looked at most likely works."""
    return relay.status in {Relay.Status.RUNNING, Relay.Status.PLANNED} and relay.proven_at is not None
