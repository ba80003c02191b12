"""From the counters of containers' interfaces to bytes that flowed: pure, so that it can be played at random.

A counter belongs to an **epoch**: one container between a start and its end, on one boot of its host, and one interface of it. Within
an epoch it only grows, and with each epoch it begins at 0 (Docker, all versions tried: after every restart, and for a network that was
taken away and given back, as another interface). So what flowed between two readings of an epoch is their difference, and of a new epoch
all that its first reading says; an epoch that ended between two readings keeps what it had at the last one. What arrives twice, or
late after a newer one, is no larger than what is known, and changes nothing.

Readings are put in order by the host's own time since its boot, which nobody sets back.
"""

from calendar import monthrange
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from hashlib import sha256

from fleet.facts import ContainerFacts, InterfaceFacts

# What Linux's veth, the kind of interface that containers have, gives as its speed (`ethtool`, drivers/net/veth.c: 10 Gbit/s), which is
# also more than servers of relays are rented with; and as much again, since memory between two processes is no cable.
MOST_BYTES_PER_SECOND = 2 * 10_000_000_000 // 8
# A reading may be as much older, or newer, than its host's time says: that is read first, and the whole takes 15 s at most.
SLACK_SECONDS = 60.0
# Ticks of /proc/PID/stat: USER_HZ, 100 on every architecture that Docker's Engine runs on (proc_pid_stat(5)).
_TICKS_A_SECOND = 100
# An 8-byte signed integer: what the tables hold. Kernels count to twice as much, which takes 200 years at full speed.
_MOST = 2**63 - 1


@dataclass(frozen=True)
class Reading:
    """One interface of a container: what came in and went out since its epoch began, in bytes.

    `uptime` is for how many seconds the host had run, `age` for how many of these the epoch had gone on at most. `is_told_apart` says
    that an interface that came back under its name would have another epoch.
    """

    epoch: str
    received: int
    sent: int
    uptime: float
    age: float
    is_told_apart: bool = True


@dataclass(frozen=True)
class Known:
    """The last reading of an epoch that was counted."""

    received: int
    sent: int
    uptime: float


class Doubt(StrEnum):
    """Why a reading is not believed."""

    NO_NUMBER = "no_number"
    TOO_FAST = "too_fast"
    BACKWARDS = "backwards"


@dataclass(frozen=True)
class Delta:
    """What a reading adds, in bytes, over how many seconds.

    `after` is what is known of its epoch from then on; None where it told nothing new. `doubt` is set where it is not believed: then it
    adds nothing, and what was known stays, so that the next one that is right counts all that flowed.
    """

    reading: Reading
    received: int = 0
    sent: int = 0
    seconds: float = 0.0
    after: Known | None = None
    doubt: Doubt | None = None


def read_container(facts: ContainerFacts, uptime: float) -> list[Reading]:
    """A container's readings, one for each interface; `uptime` is its host's at the time of reading, in seconds."""
    age = _age(facts.epoch, uptime)
    return [
        Reading(
            epoch=_name(facts, interface),
            received=interface.received_bytes,
            sent=interface.sent_bytes,
            uptime=uptime,
            age=age,
            is_told_apart=interface.index is not None,
        )
        for interface in facts.interfaces
    ]


def _name(facts: ContainerFacts, interface: InterfaceFacts) -> str:
    """What tells the epoch from all others, in 64 characters whatever the host says."""
    index = "" if interface.index is None else interface.index
    return sha256(f"{facts.container_id} {facts.epoch} {interface.name} {index}".encode()).hexdigest()


def _age(epoch: str, uptime: float) -> float:
    """For how long a container has run at most: its epoch ends with the ticks from the boot to its start."""
    digits = ""
    for sign in reversed(epoch):
        if not sign.isdecimal():
            break
        digits = sign + digits
    began = int(digits) / _TICKS_A_SECOND if digits else 0.0
    return uptime - began if began <= uptime else uptime


def measure(known: Known | None, reading: Reading) -> Delta:
    """What a reading adds to what is known of its epoch; `known` is None for the first one."""
    if not (0 <= reading.received <= _MOST and 0 <= reading.sent <= _MOST):
        return Delta(reading, doubt=Doubt.NO_NUMBER)
    if known is None:
        return _believe(reading, Known(0, 0, reading.uptime - reading.age))
    if reading.received >= known.received and reading.sent >= known.sent:
        return _believe(reading, known)
    if reading.uptime - known.uptime <= SLACK_SECONDS:
        return Delta(reading)  # Read before what is known.
    if reading.is_told_apart:
        return Delta(reading, doubt=Doubt.BACKWARDS)  # A counter that began anew would have another epoch.
    return _believe(reading, Known(0, 0, known.uptime))


def _believe(reading: Reading, known: Known) -> Delta:
    # What was asked for earlier and says more was read later all the same: the uptime is that of its beginning.
    seconds = max(reading.uptime - known.uptime, 0.0)
    received, sent = reading.received - known.received, reading.sent - known.sent
    if max(received, sent) > MOST_BYTES_PER_SECOND * (seconds + SLACK_SECONDS):
        return Delta(reading, doubt=Doubt.TOO_FAST)
    after = Known(reading.received, reading.sent, max(reading.uptime, known.uptime))
    return Delta(reading, received, sent, seconds, after)


def measure_all(known: Mapping[str, Known], readings: Iterable[Reading]) -> list[Delta]:
    """What readings add, one after another, to what is known of their epochs."""
    seen = dict(known)
    deltas = []
    for reading in readings:
        delta = measure(seen.get(reading.epoch), reading)
        if delta.after:
            seen[reading.epoch] = delta.after
        deltas.append(delta)
    return deltas


def month_begin(day: int, of: date) -> date:
    """The day on which the month began that holds `of`, where months begin on the `day`th.

    In a month that has no such day its last one counts: months from the 31st begin on 31 January, 28 February, 31 March, 30 April.
    """
    begin = _clamped(of.year, of.month, day)
    if begin <= of:
        return begin
    return _clamped(of.year - (of.month == 1), (of.month - 2) % 12 + 1, day)


def next_month(day: int, of: date) -> date:
    """The day on which the month after the one that holds `of` begins; as `month_begin`."""
    begin = month_begin(day, of)
    return _clamped(begin.year + (begin.month == 12), begin.month % 12 + 1, day)


def _clamped(year: int, month: int, day: int) -> date:
    return date(year, month, min(day, monthrange(year, month)[1]))
