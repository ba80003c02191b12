"""What two readings of a server's counters, made by two visits, say about the time between them. Pure: no rows, no clock.

A counter counts from the boot of the machine, and that of an interface from when it was made. So two readings compare only while
both are the same; whatever else has happened, what was between them is not known, and that is neither nothing nor negative.
"""

from dataclasses import dataclass
from typing import Self

from fleet.facts import ContainerFacts, HostFacts

# Over a longer time than this a rate would say nothing of the moment: the time of a few visits that failed.
LONGEST_SECONDS = 300.0
# More than any interface carries (400 Gbit/s): a reading that says so is wrong.
MOST_BYTES_A_SECOND = 50 * 10**9


@dataclass(frozen=True)
class Reading:
    """A server's counters at `at`, in seconds since its boot, which no clock that is set moves; what it did not tell is None."""

    at: float | None
    boot_id: str
    cpu_busy: int | None = None
    cpu_all: int | None = None
    interface: str = ""
    received_bytes: int | None = None
    sent_bytes: int | None = None

    @classmethod
    def of(cls, facts: HostFacts) -> Self:
        """The counters among a visit's facts."""
        busy, all_ = facts.cpu_ticks or (None, None)
        return cls(
            facts.uptime_seconds,
            facts.boot_id,
            busy,
            all_,
            facts.interface,
            facts.received_bytes,
            facts.sent_bytes,
        )


@dataclass(frozen=True)
class Rates:
    """`cpu_share`: how much of the processors' time was used, from 0 to 1. `receive_rate`, `send_rate`: bytes a second on the
    public interface. None is unknown."""

    cpu_share: float | None = None
    receive_rate: float | None = None
    send_rate: float | None = None


UNKNOWN = Rates()


def rates_between(before: Reading | None, after: Reading) -> Rates:
    """What happened between two readings. Unknown where they do not compare: there is no earlier one, the machine or the interface is
    another, a counter went back, or too much time passed, or none, since one of two visits at once was late."""
    if before is None or before.boot_id != after.boot_id or before.at is None or after.at is None:
        return UNKNOWN
    seconds = after.at - before.at
    if not 0 < seconds <= LONGEST_SECONDS:
        return UNKNOWN
    is_same = bool(after.interface) and before.interface == after.interface
    received = _grown(before.received_bytes, after.received_bytes) if is_same else None
    sent = _grown(before.sent_bytes, after.sent_bytes) if is_same else None
    if is_same and None in (received, sent):
        # One that came back under its name begins at 0, and the other direction may have passed the old number already.
        received = sent = None
    return Rates(_share(before, after), rate_of(received, seconds), rate_of(sent, seconds))


def container_rates(before: ContainerFacts | None, after: ContainerFacts, seconds: float) -> Rates:
    """The same of one container, over `seconds`; its `cpu_share` is of one processor, and may be more than 1. Unknown too where it was
    started again."""
    if before is None or (before.container_id, before.epoch) != (after.container_id, after.epoch):
        return UNKNOWN
    if not 0 < seconds <= LONGEST_SECONDS:
        return UNKNOWN
    used = None
    if (
        before.cpu_seconds is not None
        and after.cpu_seconds is not None
        and after.cpu_seconds >= before.cpu_seconds
    ):
        used = (after.cpu_seconds - before.cpu_seconds) / seconds
    old, new = ({(each.name, each.index): each for each in one.interfaces} for one in (before, after))
    if not new or old.keys() != new.keys():
        return Rates(used)
    received = [_grown(old[key].received_bytes, new[key].received_bytes) for key in new]
    sent = [_grown(old[key].sent_bytes, new[key].sent_bytes) for key in new]
    if None in (*received, *sent):
        return Rates(used)
    return Rates(
        used,
        rate_of(sum(each or 0 for each in received), seconds),
        rate_of(sum(each or 0 for each in sent), seconds),
    )


def rate_of(grown: int | None, seconds: float) -> float | None:
    """Bytes a second; None when that is not known or cannot be."""
    if grown is None or seconds <= 0 or grown / seconds > MOST_BYTES_A_SECOND:
        return None
    return grown / seconds


def _grown(before: int | None, after: int | None) -> int | None:
    return after - before if before is not None and after is not None and after >= before else None


def _share(before: Reading, after: Reading) -> float | None:
    busy, all_ = _grown(before.cpu_busy, after.cpu_busy), _grown(before.cpu_all, after.cpu_all)
    # The kernel's idle time may go back a little (proc(5)), so that more seems busy than there was.
    return min(busy / all_, 1.0) if busy is not None and all_ else None
