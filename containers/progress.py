"""How a customer's relays are shown: one card a relay, with live steps while it is being made."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.alerts.models import Alert
from containers.decisions import SLOTS
from containers.derp.probe import CAUSES
from containers.models import Deployment, Relay, RelayHealth
from containers.services.proving import reaches_nothing
from containers.services.usage import Flow
from containers.steps import format_seconds
from containers.ticks import Day, relay_days
from derpmgmt.lib.moments import ago
from derpmgmt.lib.prepared import Prepared
from fleet.models import Server
from serials.rentals.models import Rental

# A deployment's own steps, in the four that a customer is shown.
_STEPS: tuple[tuple[Promise | str, tuple[str, ...]], ...] = (
    (_("Connect to the server"), ("connect",)),
    (_("Load the image"), ("gate", "network", "image")),
    (_("Start"), ("clean", "volume", "create", "files", "start", "check")),
    (_("Test"), ("probe", "done")),
)
# A test that was asked for and has not come back within this time is no longer waited for.
_TEST_PATIENCE = timedelta(seconds=30)
# Within this time after a redemption a place without a relay is still being planned; later it waits for a server.
_PLAN_PATIENCE = timedelta(seconds=15)
# How long the page pauses between two looks at what is about to change, by how many it has taken: (looks, seconds).
_PAUSES = ((40, 0.5), (60, 1.0), (80, 2.0), (120, 5.0))
_LAST_PAUSE = 20.0
# The map follows a relay's first test within moments; so long is it looked for often.
_MAP_PATIENCE = timedelta(seconds=10)


@dataclass(frozen=True)
class Step:
    """One step of making a relay; `state` is done, now or todo, `duration` how long it took or has taken so far."""

    label: str | Promise
    state: str
    duration: str = ""


@dataclass(frozen=True)
class RelayCard:
    """What one card shows. `state` is running, silent, preparing, retrying or waiting or stopped; `colour` is one of those of a state's badge (`{% state %}`).

    Green is only what carries packets as far as anybody knows: the server answered at the last contact, the last test passed.
    """

    slot: int
    relay: Relay | None
    state: str
    label: str | Promise
    colour: str
    sentence: str | Promise = ""
    steps: list[Step] = field(default_factory=list)
    health: RelayHealth | None = None
    is_testing: bool = False
    is_new: bool = False
    day: Day | None = None
    # What flows through it now, as its last reading says.
    flow: Flow | None = None

    @property
    def name(self) -> str:
        """What the customer knows the relay as: its region and place."""
        if self.relay is None:
            return gettext("Relay %(number)s") % {"number": self.slot}
        return f"{self.relay.server.region.name} {self.slot}"

    @property
    def is_proven(self) -> bool:
        """Whether there is a relay whose tests can be shown, as opposed to one in the making."""
        return self.state in {"running", "silent"}

    @property
    def carries(self) -> bool:
        """Whether the last test says that it carries packets now: not one from before its server fell silent."""
        if self.health is None or not self.health.is_ok or self.relay is None:
            return False
        since = self.relay.server.silent_since
        return since is None or self.health.at > since

    @property
    def tested(self) -> str:
        """When the last test was, and whether it carried a packet; "" before the first."""
        if self.health is None:
            return ""
        text = (
            gettext("Carried a packet %(when)s · %(clock)s")
            if self.carries
            else gettext("Tested %(when)s · %(clock)s")
        )
        return text % {"when": ago(self.health.at), "clock": f"{timezone.localtime(self.health.at):%H:%M:%S}"}

    @property
    def is_live(self) -> bool:
        """Whether the card, or the map beside it, is about to change, so that the page looks again soon."""
        return self.is_testing or self.is_new or self.state in {"preparing", "retrying"}

    @property
    def cause(self) -> str | Promise:
        """The likely cause of a failed last test."""
        return CAUSES.get(self.health.cause, "") if self.health else ""


# What cards show of a relay and its server.
_SHOWN = (
    "rental", "slot", "status", "derp_port", "proven_at", "probe_asked_at", "client_ms", "client_measured_at",
    "server__address", "server__status", "server__silent_since",
)  # fmt: skip
_RELAYS = Prepared(
    lambda rental: (
        Relay.objects.wanted()
        .filter(rental=rental)
        .select_related("server__region", "last_health")
        .only(*_SHOWN, "server__region", "last_health")
    )
)


def relay_cards(rental: Rental, now: datetime, flows: Mapping[int, Flow] | None = None) -> list[RelayCard]:
    """One card for each of the three places, in their order; a fixed number of queries however many deployments there were.

    `flows` are what flows through relays, by primary key (`containers.services.usage.read_usage`).
    """
    flows = flows or {}
    relays = {relay.slot: relay for relay in _RELAYS.read(rental=rental.pk)}
    under_way: dict[int, Deployment] = {}
    replaced = False
    if any(relay.status != Relay.Status.RUNNING for relay in relays.values()):
        making = Deployment.objects.open().filter(relay__rental=rental, relay__slot__isnull=False)
        under_way = {deployment.relay_id: deployment for deployment in making}
        gone = Relay.objects.filter(rental=rental, status=Relay.Status.REMOVING).exclude(failure_code="")
        replaced = gone.exists()
    days = relay_days({relay.pk: relay.last_health_id for relay in relays.values()}, now)
    missing = [slot for slot in SLOTS if slot not in relays]
    stopped = set(missing) if rental.stopped_at else _stopped_places(rental) if missing else set()
    is_planned = rental.waiting_since is None or now - rental.waiting_since > _PLAN_PATIENCE
    is_cut_off = any(relay.server.silent_since for relay in relays.values()) and reaches_nothing()
    return [
        replace(card, day=days.get(card.relay.pk), flow=flows.get(card.relay.pk)) if card.relay else card
        for card in (
            _card(
                slot,
                relays.get(slot),
                under_way,
                now,
                is_replacing=replaced,
                is_planned=is_planned,
                is_cut_off=is_cut_off,
                is_stopped=slot in stopped,
            )
            for slot in SLOTS
        )
    ]


def _stopped_places(rental: Rental) -> set[int | None]:
    """The places of relays that are stopped alone, because their own traffic, or that of their server, is used up."""
    used_up = Q(stopped_at__isnull=False) | Q(server__traffic_over_at__isnull=False)
    gone = Relay.objects.filter(used_up, rental=rental, return_slot__isnull=False)
    return set(gone.values_list("return_slot", flat=True))


def pause_after(looks: int) -> float:
    """Seconds until a page that has looked so many times at what is about to change looks again: slower and slower."""
    return next((seconds for most, seconds in _PAUSES if looks < most), _LAST_PAUSE)


# What is wrong for the customer, or was so lately, as their page tells it.
CONCERNS_FOR = timedelta(days=1)
MOST_CONCERNS = 5
_CONCERNS = Prepared(
    lambda customer, since: Alert.objects.concerning(customer, since).only("values", "since", "gone_at")[
        :MOST_CONCERNS
    ]
)


def describe_relays(
    rental: Rental,
    now: datetime,
    *,
    flows: Mapping[int, Flow] | None = None,
    seen: str = "",
    looks: str = "",
) -> dict[str, Any]:
    """What `containers/_relays.html` shows: the cards, how soon to look again, and what is to be said about all of them.

    `seen` and `looks` are what the page had when it looked last: the cards' states, and how many times in a row it saw the same.
    """
    cards = relay_cards(rental, now, flows)
    states = "-".join(f"{card.slot}{card.state}{'t' if card.is_testing else ''}" for card in cards)
    is_unproven = rental.waiting_since is not None and not any(
        card.relay and card.relay.status == Relay.Status.RUNNING for card in cards
    )
    number = int(looks) + 1 if looks.isdecimal() and len(looks) < 7 and seen == states else 0
    return {
        "seen": states,
        "looks": number,
        "pause_ms": round(1000 * pause_after(number)),
        "cards": cards,
        "overall": describe_overall(cards, is_unproven=is_unproven),
        "is_live": any(card.is_live for card in cards),
        "is_short": any(card.state == "waiting" for card in cards),
        "concerns": [
            alert
            for alert in _CONCERNS.read(customer=rental.user_id, since=now - CONCERNS_FOR)
            if alert.own_text
        ],
    }


@dataclass(frozen=True)
class Overall:
    """All relays of a customer in one word, with a sentence; `colour` is one of those of a state's badge."""

    colour: str
    word: str
    sentence: str


def describe_overall(cards: list[RelayCard], *, is_unproven: bool = False) -> Overall:
    """The worst first: what is wrong by name, then what is being made, then what waits for a server; else that all is well. Where nothing runs yet, servers that
    lack are said before what is being made.

    `is_unproven` says that the customer's time has not begun to count, since none of the relays has carried a packet yet.
    """
    wrong = [card for card in cards if card.colour in {"orange", "red"}]
    good = [card for card in cards if card.colour == "green"]
    if wrong:
        named = gettext("; ").join(
            gettext("%(relay)s: %(state)s") % {"relay": card.name, "state": card.label} for card in wrong
        )
        if all(card.carries for card in wrong):
            text = gettext("%(named)s. Packets pass all the same, and there is nothing for you to do.")
            return Overall("orange", gettext("Partly down"), text % {"named": named})
        if good:
            text = gettext(
                "%(named)s. Your devices use the others meanwhile; there is nothing for you to do."
            )
            return Overall("orange", gettext("Partly down"), text % {"named": named})
        if all(card.state == "silent" and card.colour == "orange" for card in cards):
            text = gettext(
                "%(named)s. Whether they work, the panel cannot tell; it is tried again by itself."
            )
            return Overall("orange", gettext("Not known"), text % {"named": named})
        text = gettext("%(named)s. It is tried again by itself; there is nothing for you to do.")
        return Overall("red", gettext("Down"), text % {"named": named})
    stopped = [card for card in cards if card.state == "stopped"]
    if len(stopped) == len(cards):
        text = gettext("This month's traffic is used up. Your devices use Tailscale's own relays meanwhile.")
        return Overall("orange", gettext("Stopped"), text)
    if stopped:
        text = gettext(
            "%(named)s: this month's traffic is used up. Your devices use the other relays meanwhile."
        )
        names = gettext("; ").join(card.name for card in stopped)
        return Overall("orange", gettext("Partly stopped"), text % {"named": names})
    is_held_up = is_unproven and any(card.state == "waiting" for card in cards)
    if is_unproven and not is_held_up:
        text = gettext(
            "Your relays are being made. The time until the first one is proven is given back to you."
        )
        return Overall("blue", gettext("being prepared"), text)
    if any(card.state == "preparing" for card in cards) and not is_held_up:
        text = gettext("%(good)d of %(all)d relays are ready; the others are being made.")
        return Overall("blue", gettext("being prepared"), text % {"good": len(good), "all": len(cards)})
    if len(good) < len(cards):
        text = gettext(
            "At the moment there are fewer than three servers for you. What is possible runs already; the rest follows by itself, "
            "and you need do nothing."
        )
        return Overall("orange", gettext("Incomplete"), text)
    return Overall("green", gettext("All well"), gettext("All three relays carry packets."))


def _card(
    slot: int,
    relay: Relay | None,
    under_way: dict[int, Deployment],
    now: datetime,
    *,
    is_replacing: bool,
    is_planned: bool,
    is_cut_off: bool,
    is_stopped: bool,
) -> RelayCard:
    if relay is None and is_stopped:
        sentence = _(
            "This month's traffic is used up. The relay comes back as it was once there is some again."
        )
        return RelayCard(slot, None, "stopped", _("stopped"), "grey", sentence)
    if relay is None and not is_planned:
        return RelayCard(slot, None, "preparing", _("being prepared"), "blue", steps=_steps(None, now))
    if relay is None:
        return RelayCard(
            slot,
            None,
            "waiting",
            _("waiting for a server"),
            "grey",
            _("No further server is free at the moment. This relay follows by itself as soon as one is."),
        )
    health = relay.last_health
    asked = relay.probe_asked_at
    is_testing = asked is not None and now - asked < _TEST_PATIENCE and (health is None or health.at < asked)
    if relay.server.silent_since and (relay.proven_at or relay.status == Relay.Status.RUNNING):
        return _silent_card(slot, relay, is_testing=is_testing, is_cut_off=is_cut_off)
    if relay.status == Relay.Status.RUNNING:
        has_failed = health is not None and not health.is_ok
        return RelayCard(
            slot,
            relay,
            "running",
            _("test failed") if has_failed else _("running"),
            "orange" if has_failed else "green",
            _("It is tested again by itself.") if has_failed else "",
            health=health,
            is_testing=is_testing,
            is_new=relay.proven_at is not None and now - relay.proven_at < _MAP_PATIENCE,
        )
    deployment = under_way.get(relay.pk)
    steps = _steps(deployment, now)
    if relay.status == Relay.Status.FAILED:
        return RelayCard(
            slot,
            relay,
            "retrying",
            _("being repaired"),
            "orange",
            _("The server did not bring it up. It is tried again by itself; there is nothing for you to do."),
            steps,
        )
    rebuilt = (
        _("It is being rebuilt on another server; there is nothing for you to do.")
        if is_replacing and relay.proven_at is None
        else ""
    )
    return RelayCard(slot, relay, "preparing", _("being prepared"), "blue", rebuilt, steps)


def _silent_card(slot: int, relay: Relay, *, is_testing: bool, is_cut_off: bool) -> RelayCard:
    """A relay whose server did not answer at the last contact: whether it works all the same, only a later test knows."""
    is_announced = relay.server.status == Server.Status.MAINTENANCE
    label = _("in maintenance") if is_announced else _("no answer")
    since = f"{timezone.localtime(relay.server.silent_since):%m-%d %H:%M}"
    card = RelayCard(slot, relay, "silent", label, "orange", health=relay.last_health, is_testing=is_testing)
    if card.carries:
        text = _(
            "The server does not answer the panel (since %(since)s), but the relay has carried a packet since then."
        )
        return replace(card, sentence=text % {"since": since})
    if is_announced:
        text = _(
            "The server is in maintenance and does not answer (since %(since)s). It is tried again by itself."
        )
        return replace(card, sentence=text % {"since": since})
    if is_cut_off:
        text = _(
            "The panel reaches none of its servers (since %(since)s): its own network may be cut, and the relay may well "
            "work. It is tried again by itself; there is nothing for you to do."
        )
        return replace(card, sentence=text % {"since": since})
    text = _(
        "The server does not answer (since %(since)s). It is tried again by itself; there is nothing for you to do."
    )
    return replace(card, colour="red", sentence=text % {"since": since})


def _steps(deployment: Deployment | None, now: datetime) -> list[Step]:
    current = deployment.step if deployment else ""
    took = deployment.step_times(now) if deployment else []
    position = next((index for index, (_label, names) in enumerate(_STEPS) if current in names), -1)
    shown = []
    for index, (label, names) in enumerate(_STEPS):
        seconds = sum(step.seconds for step in took if step.name in names)
        state = "done" if index < position else "now" if index == position else "todo"
        shown.append(Step(label, state, format_seconds(seconds) if state != "todo" else ""))
    return shown
