"""Alerts as rows: readings become them, sweeps end them, people resolve them, programs send their own.

Every change is a conditional UPDATE or an INSERT that a unique key keeps from coming twice, so a sweep may die at any line and run beside
another: what one has done the other leaves.
"""

import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.alerts.decide import Pace, Standing, Step, decide
from accounts.alerts.models import NOT_READ, Alert, AlertRule, Severity
from accounts.alerts.route_models import AlertDelivery
from accounts.alerts.rules import RULES, Changes, Kind, Rule, rule_of
from accounts.models import User
from accounts.services.activity import log_operation
from accounts.services.people import NotAllowed
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.prepared import Prepared
from derpmgmt.lib.refusals import Refusal

KEEP = timedelta(days=400)
PRUNE_AT_ONCE = 5_000
# What was not read for so long is no more.
UNREAD = timedelta(hours=1)


class AlertRefused(Refusal):
    """The alert cannot be resolved or sent."""

    code = "alert_refused"


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How one thing is now, as a room or the panel read it.

    `thing` (120 characters) is the same as long as it is the same thing; of one rule it is open once. `severity` says how bad it is, ""
    for well and None where nobody could tell; where the rule judges numbers `value` is given instead. `values` are what the rule's
    sentence needs; `said` is, instead of it, title and text in each language, `own` what its customer reads of it. `server`, `region` and `customer` are primary keys.
    """

    rule: str
    thing: str
    severity: str | None = None
    value: float | None = None
    name: str = ""
    url: str = ""
    server: int | None = None
    region: int | None = None
    customer: int | None = None
    since: datetime | None = None
    values: dict[str, Any] = field(default_factory=dict)
    said: dict[str, tuple[str, str]] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """By what its alert is found."""
        return str(rule_of(self.rule).kind), self.thing


_CHANGED = Prepared(lambda: AlertRule.objects.all())
_OPEN = Prepared(lambda: Alert.objects.filter(open=1))


class Open:
    """The open alerts, as they were when a sweep began: whatever it writes asks for what they were. One query."""

    def __init__(self) -> None:
        self.rows: list[Alert] = _OPEN.read()


class Rules:
    """The rules as they count now: the code's, changed by operators for all servers, then for one. One query."""

    def __init__(self) -> None:
        self._changes: dict[tuple[str, int], Changes] = {
            (row.rule, row.server): row.changes for row in _CHANGED.read()
        }

    def find(self, code: str, server: int | None) -> Rule:
        """The rule for a thing of this server (None: of none)."""
        rule = rule_of(code)
        for changes in self._of(code, server):
            rule = changes.apply(rule)
        return rule

    def severity(self, reading: Reading) -> str | None:
        """How bad a reading is; "" also for what operators do not want to hear of."""
        rule = self.find(reading.rule, reading.server)
        judges = reading.value is not None or (reading.severity is None and (rule.warning or rule.critical))
        severity = rule.judge(reading.value) if judges else reading.severity
        if not severity:
            return severity
        wanted = [changes.severity for changes in self._of(reading.rule, reading.server) if changes.severity]
        return (wanted[-1] if wanted else severity) if rule.is_on else ""

    def _of(self, code: str, server: int | None) -> list[Changes]:
        found = [self._changes.get((code, 0)), self._changes.get((code, server)) if server else None]
        return [changes for changes in found if changes]


def record(
    readings: Iterable[Reading],
    *,
    now: datetime | None = None,
    source: Alert.Source = Alert.Source.READING,
    rules: Rules | None = None,
    standing: Open | None = None,
    mentioned: set[int] | None = None,
) -> list[int]:
    """Take readings in: alerts begin, are raised, worsen and are cleared as `decide` says. Returns those raised or worsened (pks).

    Alerts of which nobody could tell how they are now are added to `mentioned` (pks).

    Of things that are well and have no alert nothing is written, so a fleet that is well costs two queries, and none where `rules` and
    `standing` are given.
    """
    now = now or timezone.now()
    by_key = {reading.key: reading for reading in readings}
    if not by_key:
        return []
    rules, standing = rules or Rules(), standing or Open()
    alerts = {(alert.kind, alert.thing): alert for alert in standing.rows}
    told: list[int] = []
    bad: list[int] = []
    well: list[int] = []
    for key, reading in by_key.items():
        alert, severity = alerts.get(key), rules.severity(reading)
        if severity is None:
            if alert is not None and mentioned is not None:
                mentioned.add(alert.pk)
            continue
        if alert is None and not severity:
            continue
        pace = rules.find(reading.rule, reading.server).pace
        after, step = decide(_standing(alert), severity, now, pace)
        if alert is None:
            assert after is not None
            if step is Step.RAISE and (pk := _create(reading, after, source, now)):
                told.append(pk)
            elif step is Step.BEGIN:
                _create(reading, after, source, now)
        elif _move(alert, reading, after, step, now):
            told += [alert.pk] if step in {Step.RAISE, Step.WORSEN} else []
        else:
            (bad if severity else well).append(alert.pk)
    _looked(bad, now, seen_at=now)
    _looked(well, now)
    return told


def open_of(*rules: str) -> Iterator[Alert]:
    """Alerts of these rules whose things were not well when they were read last: whoever reads only what is bad has to say of these that
    they are well again."""
    kinds = {str(rule_of(code).kind) for code in rules}
    rows = Alert.objects.filter(open=1, kind__in=kinds, rule__in=rules)
    return iter(rows.only("thing", "customer", "server", "name", "url"))


def _looked(pks: list[int], now: datetime, **fields: Any) -> None:
    if pks:
        Alert.objects.filter(pk__in=pks, open=1).update(looked_at=now, **fields)


def end_absent(
    *,
    source: Alert.Source,
    present: Iterable[tuple[str, str]],
    now: datetime,
    unsure: Iterable[str] = (),
    standing: Open | None = None,
    rules: Rules | None = None,
) -> None:
    """What its source no longer mentions is well: a step towards being cleared. `unsure` are things that nobody could look at."""
    keys, left = set(present), set(unsure)
    rows = [
        alert
        for alert in (standing or Open()).rows
        if alert.source == source and (alert.kind, alert.thing) not in keys and alert.thing not in left
    ]
    if not rows:
        return
    rules = rules or Rules()
    still = []
    for alert in rows:
        pace = rules.find(alert.rule, alert.server).pace
        after, step = decide(_standing(alert), "", now, pace)
        if not _move(alert, None, after, step, now):
            still.append(alert.pk)
    _looked(still, now)


def end_unread(now: datetime, mentioned: Iterable[int] = (), standing: Open | None = None) -> None:
    """What nobody has read for long is no more: its server is gone, or its room reads it no longer. `mentioned` are still asked about."""
    if not any(alert.looked_at < now - UNREAD for alert in (standing or Open()).rows):
        return
    rows = Alert.objects.filter(open=1, looked_at__lt=now - UNREAD).exclude(source=Alert.Source.PERSON)
    rows = rows.exclude(pk__in=list(mentioned))
    rows.filter(state=Alert.State.PENDING).delete()
    rows.filter(state=Alert.State.RESOLVED).update(gone_at=now)
    rows.filter(state=Alert.State.ACTIVE).update(state=Alert.State.CLEARED, gone_at=now, note=NOT_READ)


def _standing(alert: Alert | None) -> Standing | None:
    if alert is None:
        return None
    is_raised = alert.state != Alert.State.PENDING
    return Standing(is_raised, alert.severity, alert.bad_since, alert.looked_at, alert.well_since)


def _told_fields(reading: Reading, now: datetime) -> dict[str, Any]:
    """What a reading says of its thing; a moment that is still to come is none."""
    values = dict(reading.values)
    if reading.said:
        values["said"] = {language: list(words) for language, words in reading.said.items()}
    if reading.own:
        values["own"] = reading.own
    if reading.value is not None:
        values["value"] = f"{reading.value:.4g} {rule_of(reading.rule).unit}".strip()
    return {
        "rule": reading.rule,
        "values": values,
        "url": reading.url[:300],
        "name": one_line(reading.name)[:120],
        "server": reading.server,
        "region": reading.region,
        "customer_id": reading.customer,
    }


def _create(reading: Reading, after: Standing, source: Alert.Source, now: datetime) -> int | None:
    """None where another sweep was first."""
    is_raised = after.is_raised
    try:
        with transaction.atomic():
            alert = Alert.objects.create(
                kind=rule_of(reading.rule).kind,
                thing=reading.thing,
                source=source,
                severity=after.severity,
                state=Alert.State.ACTIVE if is_raised else Alert.State.PENDING,
                since=min(reading.since or now, now),
                bad_since=after.bad_since,
                seen_at=now,
                looked_at=now,
                raised_at=now if is_raised else None,
                **_told_fields(reading, now),
            )
    except IntegrityError:
        return None
    return alert.pk


def _move(alert: Alert, reading: Reading | None, after: Standing | None, step: Step, now: datetime) -> bool:
    """Write down what became of an alert; False where nothing but the moment differs, or another sweep was first."""
    as_read = Alert.objects.filter(
        pk=alert.pk, open=1, state=alert.state, bad_since=alert.bad_since, well_since=alert.well_since
    )
    if step is Step.FORGET:
        return bool(as_read.delete()[0])
    if step is Step.CLEAR:
        # Resolved stays resolved: who said so, and why, is worth more than that it went by itself.
        state = Alert.State.RESOLVED if alert.state == Alert.State.RESOLVED else Alert.State.CLEARED
        return bool(as_read.update(state=state, gone_at=now))
    assert after is not None
    fields: dict[str, Any] = {
        "severity": after.severity,
        "bad_since": after.bad_since,
        "well_since": after.well_since,
    }
    if reading is not None and after.well_since is None:
        fields |= _told_fields(reading, now)
    changed = {name: value for name, value in fields.items() if getattr(alert, name) != value}
    if step is Step.BEGIN:
        changed["since"] = now
    if step in {Step.RAISE, Step.WORSEN}:
        # Also one that a person had resolved: it is worse now than it was then.
        changed |= {"state": Alert.State.ACTIVE, "raised_at": now}
    if not changed:
        return False
    if after.well_since is None:
        changed["seen_at"] = now
    return bool(as_read.update(**changed, looked_at=now))


@transaction.atomic
def resolve_alert(*, alert: Alert, by: User | None, note: str) -> bool:
    """Say that an alert is dealt with, and why; False where it is over or resolved already.

    While its cause lasts it is not raised again, unless it becomes worse. Raises `AlertRefused` without a note, `NotAllowed`.
    """
    if by is not None and not (by.is_staff and by.is_active):
        raise NotAllowed
    note = one_line(note).strip()
    if not note:
        raise AlertRefused(_("Say what was done about it."), code="invalid", field="note")
    now = timezone.now()
    active = Alert.objects.filter(pk=alert.pk, state=Alert.State.ACTIVE)
    fields: dict[str, Any] = {
        "state": Alert.State.RESOLVED,
        "resolved_at": now,
        "resolved_by": by,
        "note": note[:300],
    }
    # What a program told is over with that: nobody looks whether its cause lasts.
    moved = active.filter(source=Alert.Source.PERSON).update(gone_at=now, **fields)
    moved = moved or active.update(**fields)
    if moved:
        log_operation(by=by, action="alert.resolved", target=alert, alert=alert.pk, reason=note[:300])
    return bool(moved)


@transaction.atomic
def send_alert(
    *, by: User, severity: str, title: str, text: str = "", thing: str = "", server: int | None = None
) -> Alert:
    """Raise an alert of a program's own; with a `thing` of which one is open already, that one. Raises `NotAllowed`, `AlertRefused`."""
    if not (by.is_staff and by.is_active):
        raise NotAllowed
    title, text = one_line(title).strip(), one_line(text).strip()
    if not title:
        raise AlertRefused(_("This is empty."), code="invalid", field="title")
    if severity not in Severity.values:
        raise AlertRefused(_("There is no such severity."), code="invalid", field="severity")
    thing = one_line(thing).strip()[:100] or str(uuid.uuid4())
    now = timezone.now()
    reading = Reading(
        rule="message",
        thing=f"message:{thing}",
        severity=severity,
        server=server,
        said={"": (title[:150], text[:1000])},
    )
    after, _step = decide(None, severity, now, Pace())
    assert after is not None
    if _create(reading, after, Alert.Source.PERSON, now):
        log_operation(by=by, action="alert.sent", target=title[:120], severity=severity)
    return Alert.objects.get(kind=Kind.MESSAGE, thing=reading.thing, open=1)


def prune(now: datetime) -> None:
    """Forget alerts that were over long ago."""
    old = Alert.objects.filter(gone_at__lt=now - KEEP)
    AlertDelivery.objects.filter(created_at__lt=now - KEEP).delete()
    while pks := list(old.order_by("gone_at").values_list("pk", flat=True)[:PRUNE_AT_ONCE]):
        Alert.objects.filter(pk__in=pks).delete()


@transaction.atomic
def change_rule(*, row: AlertRule, by: User) -> None:
    """Keep what an operator changed of a rule. Raises `NotAllowed`, `AlertRefused`."""
    if not by.is_staff:
        raise NotAllowed
    if row.rule not in RULES:
        raise AlertRefused(_("There is no such rule."), code="invalid", field="rule")
    row.changed_at = timezone.now()
    row.save()
    log_operation(by=by, action="alert_rule.changed", target=row, rule=row.rule, server=row.server or None)


@transaction.atomic
def reset_rule(*, row: AlertRule, by: User) -> bool:
    """Let a rule be as it was before operators changed it. Raises `NotAllowed`."""
    if not by.is_staff:
        raise NotAllowed
    gone = AlertRule.objects.filter(pk=row.pk).delete()[0]
    if gone:
        log_operation(by=by, action="alert_rule.reset", target=row, rule=row.rule, server=row.server or None)
    return bool(gone)
