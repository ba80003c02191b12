"""What the rooms say becomes alerts: their matters, and what they read as numbers (the questions "matters", "readings" and "habits").

A sweep takes all of it in, over and over; what it was told before it was killed, or beside another, it is told again.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from functools import partial
from typing import Any

from django.conf import settings
from django.urls import reverse
from django.utils import translation

from accounts.alerts import services
from accounts.alerts.models import Alert
from accounts.alerts.rules import rule_of
from accounts.alerts.services import Reading
from derpmgmt.lib import queue
from derpmgmt.lib.matters import Matter, read_matters
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.sweeps import attempt


def feed(now: datetime) -> None:
    """Have everything that is wrong by now, and nothing else, be an open alert."""
    mentioned: set[int] = set()
    standing, rules = services.Open(), services.Rules()
    attempt("what needs a person, as alerts", partial(_feed_matters, now, mentioned, standing, rules))
    # Each room by itself: what one cannot read is unknown, and says nothing of what others read.
    for read in queue.ask("readings", now):
        attempt("what was read, as alerts", partial(_feed_readings, read, now, mentioned, standing, rules))
    services.end_unread(now, mentioned, standing)


def feed_habits(now: datetime) -> None:
    """The same for what rooms compare with what is usual (the question "habits"): too much to be read every few seconds."""
    for read in queue.ask("habits", now):
        attempt("what is unusual, as alerts", partial(_feed_readings, read, now, set(), None, None))


def _feed_matters(now: datetime, mentioned: set[int], standing: services.Open, rules: services.Rules) -> None:
    matters, said = _read(now)
    services.record(
        [_reading(matter, said) for matter in matters],
        now=now,
        source=Alert.Source.MATTERS,
        mentioned=mentioned,
        standing=standing,
        rules=rules,
    )
    services.end_absent(
        source=Alert.Source.MATTERS, present=map(_key, matters), now=now, standing=standing, rules=rules
    )


def _feed_readings(
    read: Callable[[], Iterable[Reading]],
    now: datetime,
    mentioned: set[int],
    standing: services.Open | None,
    rules: services.Rules | None,
) -> None:
    services.record(read(), now=now, mentioned=mentioned, standing=standing, rules=rules)


_Words = dict[str, tuple[str, str, str]]

# What the matters of the last sweep said in each language. What says the same in the first of them says the same in all, so the rooms
# are only asked in the others where something is new.
_said: dict[str, _Words] = {}


def _read(now: datetime) -> tuple[list[Matter], dict[str, _Words]]:
    """The matters that become alerts, and by language and key title and text of each, and what its customer reads."""
    first, *others = (language for language, _name in settings.LANGUAGES)
    matters, words = _read_in(first, now)
    if words.items() <= _said.get(first, {}).items():
        return matters, _said
    said = {first: words} | {language: _read_in(language, now)[1] for language in others}
    _said.clear()
    _said.update(said)
    return matters, said


def _read_in(language: str, now: datetime) -> tuple[list[Matter], _Words]:
    with translation.override(language):
        matters = [matter for matter in read_matters(now) if matter.rule]
    return matters, {matter.key: (matter.title, matter.text, matter.own) for matter in matters}


def _key(matter: Matter) -> tuple[str, str]:
    return str(rule_of(matter.rule).kind), matter.key


def _reading(matter: Matter, said: dict[str, _Words]) -> Reading:
    words = {language: found[matter.key] for language, found in said.items() if matter.key in found}
    return Reading(
        rule=matter.rule,
        thing=matter.key,
        severity=matter.level if matter.is_certain else None,
        name=matter.name,
        url=matter.url,
        server=matter.server,
        region=matter.region.pk if matter.region else None,
        customer=matter.customer,
        since=matter.since,
        said={language: (title, text) for language, (title, text, _own) in words.items()},
        own={language: own for language, (_title, _text, own) in words.items() if own},
    )


_OTHERS = Prepared(
    lambda: Alert.objects.active().exclude(source=Alert.Source.MATTERS).order_by("raised_at", "pk")
)


def alert_matters(now: datetime) -> Iterable[Matter]:
    """Answer to "matters": open alerts of what no room says by itself, read as numbers or told by programs."""
    for alert in _OTHERS.read():
        yield Matter(
            alert.severity, alert.title, alert.text, alert.page, _matter_key(alert), alert.since, alert.name,
            rule="", server=alert.server, customer=alert.customer_id,
        )  # fmt: skip


def _matter_key(alert: Alert) -> str:
    return alert.thing if alert.source == Alert.Source.MATTERS else f"alert:{alert.pk}"


def alert_pages(reader: Any) -> dict[str, str]:
    """The pages of the active alerts, by the keys of the matters that tell of them."""
    rows = Alert.objects.visible_to(reader).active().only("pk", "thing", "source")
    return {_matter_key(alert): reverse("admin:accounts_alert_change", args=[alert.pk]) for alert in rows}
