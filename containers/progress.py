"""How a customer's relays are shown: one card a relay, with live steps while it is being made."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from containers.derp.probe import CAUSES
from containers.models import Deployment, Relay, RelayHealth
from containers.services.relays import SLOTS
from containers.steps import format_seconds
from serials.models import Rental

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
    """What one card shows. `state` is running, preparing, retrying or waiting; `colour` is Tabler's name of one."""

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

    @property
    def is_live(self) -> bool:
        """Whether the card, or the map beside it, is about to change, so that the page looks again soon."""
        return self.is_testing or self.is_new or self.state in {"preparing", "retrying"}

    @property
    def cause(self) -> str | Promise:
        """The likely cause of a failed last test."""
        return CAUSES.get(self.health.cause, "") if self.health else ""


def relay_cards(rental: Rental, now: datetime) -> list[RelayCard]:
    """One card for each of the three places, in their order; three queries however many deployments there were."""
    relays = {
        relay.slot: relay
        for relay in Relay.objects.wanted()
        .filter(rental=rental)
        .select_related("server__region", "last_health")
    }
    under_way = {
        deployment.relay_id: deployment
        for deployment in Deployment.objects.open().filter(relay__rental=rental, relay__slot__isnull=False)
    }
    replaced = (
        Relay.objects.filter(rental=rental, status=Relay.Status.REMOVING).exclude(failure_code="").exists()
    )
    is_planned = rental.waiting_since is None or now - rental.waiting_since > _PLAN_PATIENCE
    return [
        _card(slot, relays.get(slot), under_way, now, is_replacing=replaced, is_planned=is_planned)
        for slot in SLOTS
    ]


def describe_relays(rental: Rental, now: datetime) -> dict[str, Any]:
    """What `containers/_relays.html` shows: the cards, how soon to look again, and what is to be said about all of them."""
    cards = relay_cards(rental, now)
    return {
        "cards": cards,
        "is_live": any(card.is_live for card in cards),
        "is_short": any(card.state == "waiting" for card in cards),
        "is_unproven": rental.waiting_since is not None
        and not any(card.state == "running" for card in cards),
    }


def _card(
    slot: int,
    relay: Relay | None,
    under_way: dict[int, Deployment],
    now: datetime,
    *,
    is_replacing: bool,
    is_planned: bool,
) -> RelayCard:
    if relay is None and not is_planned:
        return RelayCard(slot, None, "preparing", _("being prepared"), "blue", steps=_steps(None, now))
    if relay is None:
        return RelayCard(
            slot,
            None,
            "waiting",
            _("waiting for a server"),
            "secondary",
            _("No further server is free at the moment. This relay follows by itself as soon as one is."),
        )
    health = relay.last_health
    asked = relay.probe_asked_at
    is_testing = asked is not None and now - asked < _TEST_PATIENCE and (health is None or health.at < asked)
    if relay.status == Relay.Status.RUNNING:
        has_failed = health is not None and not health.is_ok
        return RelayCard(
            slot,
            relay,
            "running",
            _("test failed") if has_failed else _("running"),
            "orange" if has_failed else "green",
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
    sentence = (
        _("It is being rebuilt on another server; there is nothing for you to do.") if is_replacing else ""
    )
    return RelayCard(slot, relay, "preparing", _("being prepared"), "blue", sentence, steps)


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
