"""How much is allowed, by whom that was said, and what follows from what was used: pure functions on plain data.

A figure is inherited: what was said for one relay counts there, else what was said for its customer, else what was sold. The customer's
figures of traffic are for all their relays together, a relay's own are for it alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

# A figure of 0 says that there is no limit, where something was sold that has one.
UNLIMITED = 0
# From this share of the allowance on, in percent, its end is near, and the customer is told.
NEAR_PERCENT = 80


class Source(StrEnum):
    """Where a figure comes from."""

    RELAY = "relay"
    CUSTOMER = "customer"
    SOLD = "sold"


class AtEnd(StrEnum):
    """What happens at the end of an allowance; the values are those of what is sold (`Entitlement.AtQuota`)."""

    NOTHING = "nothing"
    THROTTLE = "throttle"
    STOP = "stop"


class State(StrEnum):
    """How much of an allowance is used, in the order of their weight."""

    FINE = "fine"
    NEAR = "near"
    OVER = "over"


@dataclass(frozen=True)
class Caps:
    """What was said in one place: bytes a month sent by devices (up), to them (down) and both together, bytes a second for each
    device, devices, and what happens at the end. None: nothing was said there; `UNLIMITED`: no limit.
    """

    up: int | None = None
    down: int | None = None
    both: int | None = None
    rate: int | None = None
    devices: int | None = None
    at_end: AtEnd | None = None


NOTHING_SAID = Caps()


@dataclass(frozen=True)
class Figure:
    """A figure that counts, and where it comes from; `value` None: no limit."""

    value: int | None
    source: Source


@dataclass(frozen=True)
class Allowance:
    """What counts for a customer, or for one relay of theirs; as `Caps`."""

    up: Figure
    down: Figure
    both: Figure
    rate: Figure
    devices: Figure
    at_end: AtEnd
    at_end_source: Source

    @property
    def is_limited(self) -> bool:
        """Whether there is an end to the traffic."""
        return any(figure.value is not None for figure in (self.up, self.down, self.both))


@dataclass(frozen=True)
class Use:
    """What flowed this month, in bytes."""

    up: int = 0
    down: int = 0

    @property
    def both(self) -> int:
        return self.up + self.down

    def __add__(self, other: "Use") -> "Use":
        return Use(self.up + other.up, self.down + other.down)


@dataclass(frozen=True)
class Verdict:
    """How much of an allowance is used: of the figure of which the most is, that figure's name, bytes used and allowed.

    Without a limit `name` is empty, and `allowed` None.
    """

    state: State
    name: str = ""
    used: int = 0
    allowed: int | None = None

    @property
    def percent(self) -> int | None:
        """Whole percent used, rounded down; None without a limit."""
        return None if self.allowed is None else self.used * 100 // self.allowed


FINE = Verdict(State.FINE)


def inherit(sold: Caps, customer: Caps, relay: Caps | None = None) -> Allowance:
    """What counts for a customer, or for the relay of theirs for which `relay` was said."""
    places = [(relay or Caps(), Source.RELAY), (customer, Source.CUSTOMER), (sold, Source.SOLD)]

    def figure(name: str) -> Figure:
        for caps, source in places:
            value: int | None = getattr(caps, name)
            if value is not None:
                return Figure(value or None, source)
        return Figure(None, Source.SOLD)

    at_end, source = next(
        ((caps.at_end, source) for caps, source in places if caps.at_end is not None),
        (AtEnd.NOTHING, Source.SOLD),
    )
    return Allowance(
        figure("up"), figure("down"), figure("both"), figure("rate"), figure("devices"), at_end, source
    )


def judge(allowance: Allowance, of_customer: Use, of_relay: Use | None = None) -> Verdict:
    """How much is used of an allowance: of the customer's by all their relays, of a relay's own figures by that relay.

    Where several figures have an end, that one counts of which the most is used.
    """
    found = []
    for name in ("up", "down", "both"):
        figure: Figure = getattr(allowance, name)
        use = (of_relay or Use()) if figure.source is Source.RELAY else of_customer
        if figure.value is not None:
            found.append(_judge(name, getattr(use, name), figure.value))
    return worst(found)


def _judge(name: str, used: int, allowed: int) -> Verdict:
    if used >= allowed:
        return Verdict(State.OVER, name, used, allowed)
    is_near = used * 100 >= allowed * NEAR_PERCENT
    return Verdict(State.NEAR if is_near else State.FINE, name, used, allowed)


def worst(verdicts: Iterable[Verdict]) -> Verdict:
    """The one of which the most is used; `FINE` without any."""
    return max(verdicts, key=_share, default=FINE)


def _share(verdict: Verdict) -> tuple[int, float]:
    share = verdict.used / verdict.allowed if verdict.allowed else 0.0
    return list(State).index(verdict.state), share


def follows(verdict: Verdict, at_end: AtEnd) -> AtEnd:
    """What happens now: nothing before the end."""
    return at_end if verdict.state is State.OVER else AtEnd.NOTHING


def rate_now(allowance: Allowance, happens: AtEnd, lifeline: int) -> int | None:
    """How many bytes a second each device may send now; None: as many as it can. `lifeline` is what is left after a slow-down."""
    limits = [] if allowance.rate.value is None else [allowance.rate.value]
    if happens is AtEnd.THROTTLE:
        limits.append(lifeline)
    return min(limits, default=None)


@dataclass(frozen=True)
class RelayCase:
    """A relay of a customer's: what was said for it, and what flowed through it this month."""

    caps: Caps
    used: Use


@dataclass(frozen=True)
class Outcome:
    """What is so for a customer, or for one relay of theirs: how much is used, what happens, how fast each device may send."""

    verdict: Verdict
    happens: AtEnd
    rate: int | None


@dataclass(frozen=True)
class Decision:
    """What is so for a customer, and for each of their relays (by primary key)."""

    allowance: Allowance
    customer: Outcome
    relays: Mapping[int, Outcome]


def decide(
    *,
    sold: Caps,
    customer: Caps,
    added: int,
    used: Use,
    relays: Mapping[int, RelayCase],
    lifeline: int,
) -> Decision:
    """What follows for a customer from what all their relays, gone ones too, `used` this month; `added` was put on top of the allowance.

    What stops the customer stops all relays.
    """

    def outcome(allowance: Allowance, of_relay: Use | None = None) -> Outcome:
        verdict = judge(allowance, used, of_relay)
        happens = follows(verdict, allowance.at_end)
        return Outcome(verdict, happens, rate_now(allowance, happens, lifeline))

    whole = widen(inherit(sold, customer), added)
    of_customer = outcome(whole)
    return Decision(
        whole,
        of_customer,
        {
            # Most relays have nothing of their own.
            pk: of_customer
            if case.caps == NOTHING_SAID
            else outcome(widen(inherit(sold, customer, case.caps), added), case.used)
            for pk, case in relays.items()
        },
    )


def widen(allowance: Allowance, added: int) -> Allowance:
    """The same with so many bytes on top of what is the customer's."""

    def wider(figure: Figure) -> Figure:
        if figure.value is None or figure.source is Source.RELAY:
            return figure
        return replace(figure, value=figure.value + added)

    return replace(allowance, up=wider(allowance.up), down=wider(allowance.down), both=wider(allowance.both))
