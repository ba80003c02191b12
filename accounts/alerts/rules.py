"""What each kind of alert means, and from when on: defaults in code, changed by operators for all servers or for one.

A room that reads something new declares a rule for it here or in its own `words.py`, and gives what it read to
`accounts.alerts.services.record`; nothing else is needed for its alerts to be shown, told and cleared.
"""

from dataclasses import dataclass, replace
from datetime import timedelta

from django.db.models import TextChoices
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

from accounts.alerts.decide import CRITICAL, SEVERITIES, WARNING, Pace


class Kind(TextChoices):
    """What alerts are about: by these they are filtered and routed. A value keeps its meaning for good."""

    SERVER_ERROR = "server_error", pgettext_lazy("alert", "server")
    DOCKER_ERROR = "docker_error", pgettext_lazy("alert", "Docker")
    TRAFFIC_ERROR = "traffic_error", pgettext_lazy("alert", "traffic")
    RELAY = "relay", pgettext_lazy("alert", "relay")
    LATENCY = "latency", pgettext_lazy("alert", "latency")
    SPEED = "speed", pgettext_lazy("alert", "speed")
    DISK = "disk", pgettext_lazy("alert", "disk")
    CLOCK = "clock", pgettext_lazy("alert", "clock")
    CERTIFICATE = "certificate", pgettext_lazy("alert", "certificate")
    ANOMALY = "anomaly", pgettext_lazy("alert", "unusual")
    PANEL = "panel", pgettext_lazy("alert", "the panel itself")
    TASK = "task", pgettext_lazy("alert", "something to do")
    MESSAGE = "message", pgettext_lazy("alert", "told by a program")


_USUAL = Pace(clear_after=timedelta(seconds=30))


@dataclass(frozen=True, kw_only=True)
class Rule:
    """When something of a kind becomes an alert.

    `code` (24 characters) is stored with the alerts and keeps its meaning for good. What is read as a number is bad from `warning` and
    `critical` on, in `unit`; with `is_low_bad` from there downwards. None: of that severity there is none, or the room says itself how
    bad it is. `sentence` has places for the values that come with a reading (`%(name)s` of the thing, `%(value)s` with its unit).
    """

    code: str
    kind: Kind
    title: str | Promise
    sentence: str | Promise = ""
    pace: Pace = _USUAL
    warning: float | None = None
    critical: float | None = None
    unit: str | Promise = ""
    is_low_bad: bool = False
    is_on: bool = True

    def judge(self, value: float | None) -> str | None:
        """How bad a value is: a severity, "" for well, None for one that nobody could read."""
        if value is None:
            return None
        sign = -1 if self.is_low_bad else 1
        for severity, limit in ((CRITICAL, self.critical), (WARNING, self.warning)):
            if limit is not None and sign * value >= sign * limit:
                return severity
        return ""


RULES: dict[str, Rule] = {}


def declare(*rules: Rule) -> None:
    """Add rules; raises ValueError for a code that is taken."""
    for rule in rules:
        if RULES.setdefault(rule.code, rule) is not rule:
            raise ValueError(f"declared twice: {rule.code}")


def rule_of(code: str) -> Rule:
    """The rule of a code; of one that the panel has no more the plainest."""
    return RULES.get(code) or Rule(code=code, kind=Kind.TASK, title=code)


@dataclass(frozen=True)
class Changes:
    """What operators changed of a rule; None leaves the default."""

    warning: float | None = None
    critical: float | None = None
    raise_seconds: int | None = None
    clear_seconds: int | None = None
    severity: str = ""
    is_on: bool = True

    def apply(self, rule: Rule) -> Rule:
        """The rule with these changes."""
        pace = Pace(
            rule.pace.raise_after if self.raise_seconds is None else timedelta(seconds=self.raise_seconds),
            rule.pace.clear_after if self.clear_seconds is None else timedelta(seconds=self.clear_seconds),
            rule.pace.gap,
        )
        return replace(
            rule,
            pace=pace,
            warning=rule.warning if self.warning is None else self.warning,
            critical=rule.critical if self.critical is None else self.critical,
            is_on=self.is_on,
        )


def is_at_least(severity: str, least: str) -> bool:
    """Whether a severity is as bad as another or worse."""
    return SEVERITIES.index(severity) >= SEVERITIES.index(least)


_MINUTE = timedelta(minutes=1)
_HALF = timedelta(seconds=30)
_SLOW = Pace(raise_after=5 * _MINUTE, clear_after=5 * _MINUTE)
# What is compared with weeks is looked at every five minutes.
HABIT_SECONDS = 300
_HABIT_GAP = timedelta(seconds=3 * HABIT_SECONDS)
# What is far above the habit of a night need not be above that of the day: only after a whole day it is over.
_DAY_LONG = Pace(raise_after=10 * _MINUTE, clear_after=timedelta(days=1), gap=_HABIT_GAP)

declare(
    # Said by rooms, who know themselves how bad it is (`derpmgmt.lib.matters`).
    Rule(code="server_error", kind=Kind.SERVER_ERROR, title=_("A server does not answer or does not work")),
    Rule(code="docker_error", kind=Kind.DOCKER_ERROR, title=_("Docker on a server does not do its work")),
    Rule(
        code="relay",
        kind=Kind.RELAY,
        title=_("A relay or gate fails"),
        # What is repaired by itself within a minute wakes nobody.
        pace=Pace(raise_after=_MINUTE, clear_after=_MINUTE),
    ),
    Rule(code="certificate", kind=Kind.CERTIFICATE, title=_("A certificate ends"), pace=Pace(clear_after=_MINUTE)),
    Rule(
        code="traffic_error", kind=Kind.TRAFFIC_ERROR, title=_("A counter of traffic cannot be right"), pace=Pace(clear_after=_MINUTE)
    ),
    Rule(
        code="server_traffic",
        kind=Kind.TRAFFIC_ERROR,
        title=_("A server's traffic of the month does not last"),
        pace=Pace(raise_after=_MINUTE, clear_after=_MINUTE),
    ),
    Rule(code="task", kind=Kind.TASK, title=_("Something waits for a person"), pace=Pace(raise_after=_MINUTE)),
    Rule(
        code="panel",
        kind=Kind.PANEL,
        title=_("The panel itself does not do its work"),
        # What a panel that has just been started makes by itself wakes nobody.
        pace=Pace(raise_after=_MINUTE, clear_after=_MINUTE),
    ),
    Rule(code="message", kind=Kind.MESSAGE, title=_("A program told something")),
    # Read as numbers.
    Rule(
        code="latency",
        kind=Kind.LATENCY,
        title=_("A relay or server answers slowly"),
        sentence=_("%(name)s answers after %(value)s."),
        pace=_SLOW,
        warning=300,
        critical=1000,
        unit="ms",
    ),
    Rule(
        code="speed",
        kind=Kind.SPEED,
        title=_("A line is almost full"),
        sentence=_("The line of %(name)s carries %(value)s."),
        pace=_SLOW,
        # Of the gigabit that most rented machines have; virtual interfaces do not tell what their line carries. For the others operators
        # say from when on it is too much.
        warning=800,
        critical=950,
        unit="Mbit/s",
    ),
    Rule(
        code="disk",
        kind=Kind.DISK,
        title=_("A server's disk is almost full"),
        sentence=_("%(name)s: %(value)s of the disk is used."),
        pace=Pace(raise_after=_MINUTE, clear_after=5 * _MINUTE),
        warning=85,
        critical=95,
        unit="%",
    ),
    Rule(
        code="clock",
        kind=Kind.CLOCK,
        title=_("A server's clock is wrong"),
        sentence=_("The clock of %(name)s is off by %(value)s."),
        pace=_SLOW,
        warning=5,
        critical=60,
        unit="s",
    ),
    # By what is usual (`derpmgmt.lib.habits`).
    Rule(
        code="customer_habit",
        kind=Kind.ANOMALY,
        title=_("A customer's rate is far above their habit"),
        sentence=_("%(name)s: %(rate)s in the last hour, %(value)s what is usual for them at this time (%(usual)s)."),
        pace=_DAY_LONG,
        warning=5,
        unit="×",
    ),
    Rule(
        code="customer_jump",
        kind=Kind.ANOMALY,
        title=_("A customer's rate jumped"),
        sentence=_("%(name)s: %(rate)s in the last 15 minutes, %(value)s what they have had at most (%(usual)s)."),
        pace=replace(_DAY_LONG, raise_after=5 * _MINUTE),
        # A short burst that comes every day, half before and half after the full hour, is eight times what the hours say.
        warning=10,
        unit="×",
    ),
    Rule(
        code="server_jump",
        kind=Kind.ANOMALY,
        title=_("A server's rate jumped"),
        sentence=_("%(name)s: %(rate)s in the last 15 minutes, %(value)s what it has had at most (%(usual)s)."),
        pace=Pace(raise_after=5 * _MINUTE, clear_after=60 * _MINUTE, gap=_HABIT_GAP),
        warning=10,
        unit="×",
    ),
    Rule(
        code="strangers",
        kind=Kind.ANOMALY,
        title=_("Many strangers knock at a customer's relays"),
        sentence=_("%(name)s: %(value)s strange devices were refused within an hour."),
        pace=Pace(clear_after=60 * _MINUTE, gap=_HABIT_GAP),
        warning=100,
    ),
    # The panel itself.
    Rule(
        code="panel_sweeps",
        kind=Kind.PANEL,
        title=_("The panel's sweeps are late"),
        sentence=_("What the clock asks of the queue %(name)s is late by %(value)s."),
        pace=Pace(raise_after=_HALF, clear_after=_MINUTE),
        warning=60,
        critical=300,
        unit="s",
    ),
    Rule(
        code="panel_queue",
        kind=Kind.PANEL,
        title=_("A queue of the panel is long"),
        sentence=_("The oldest job of the queue %(name)s waits for %(value)s."),
        pace=Pace(raise_after=_HALF, clear_after=_MINUTE),
        warning=60,
        critical=300,
        unit="s",
    ),
    Rule(
        code="panel_jobs",
        kind=Kind.PANEL,
        title=_("Jobs of the panel fail again and again"),
        sentence=_("Jobs of the queue %(name)s that ended with an internal error within a minute: %(value)s. The panel's log says more."),
        # One that failed is made again by its sweep; it is counted for a minute, so these are more than that one.
        pace=Pace(raise_after=2 * _MINUTE, clear_after=5 * _MINUTE),
        warning=1,
        critical=20,
    ),
    Rule(
        code="panel_workers",
        kind=Kind.PANEL,
        title=_("A queue of the panel has no worker"),
        sentence=_("Nobody serves the queue %(name)s."),
        pace=Pace(raise_after=_HALF, clear_after=_HALF),
    ),
    Rule(
        code="panel_mail",
        kind=Kind.PANEL,
        title=_("Mail of the panel does not leave"),
        sentence=_("The oldest notice waits for %(value)s."),
        pace=Pace(raise_after=_MINUTE, clear_after=_MINUTE),
        warning=600,
        critical=3600,
        unit="s",
    ),
    Rule(
        code="panel_disk",
        kind=Kind.PANEL,
        title=_("The panel's own disk is almost full"),
        sentence=_("%(value)s of the disk of %(name)s is used."),
        pace=Pace(raise_after=_MINUTE, clear_after=5 * _MINUTE),
        warning=85,
        critical=95,
        unit="%",
    ),
    Rule(code="panel_cut_off", kind=Kind.PANEL, title=_("The panel itself may be cut off")),
)  # fmt: skip
