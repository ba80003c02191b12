"""Alerts by the JSON API: what is wrong now and was, programs' own, and resolving."""

from typing import Annotated, Any

from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import ask_staff
from accounts.alerts import services
from accounts.alerts.models import Alert, Severity
from accounts.alerts.rules import Kind, rule_of
from accounts.models import User
from derpmgmt.lib.api import Answer, Input, Line, Listed, Moment, NotFound, Output, PageQuery, Pk, cut_page

monitoring = Room("monitoring")


class AlertFields(Output):
    """Something that is wrong, or was. Customers read what concerns them: no server, words or notes of operators'."""

    alert_id: Pk = Field(examples=[31])
    kind: Kind = Field(description="What it is about.")
    kind_name: str = Field(description="The kind in words.")
    severity: Severity
    state: Alert.State = Field(
        description="`cleared`: it went by itself; `resolved`: a person dealt with it."
    )
    title: str = Field(examples=["A server's disk is almost full"])
    text: str = Field(description="More of it; empty where there is no more to say.")
    name: str = Field(description="What it is about.", examples=["web-1"])
    server_id: int | None = Field(description="About which server; null for none.")
    since: Moment = Field(description="Since when it is so.")
    raised_at: Moment | None = Field(description="When it was told.")
    last_seen_at: Moment = Field(description="When it was last seen to be so.")
    ended_at: Moment | None = Field(description="When it was well again; null while it is not.")
    resolved_at: Moment | None = Field(description="When a person dealt with it; null for not.")
    note: str = Field(description="What was done about it.")


class Alerts(Listed):
    """Alerts."""

    alerts: list[AlertFields] = Field(description="The newest first.")


class AlertsQuery(PageQuery):
    """Which alerts."""

    state: Alert.State | None = Field(default=None, description="Only those in this state.")
    severity: Severity | None = Field(default=None, description="Only those of this severity.")
    kind: Kind | None = Field(default=None, description="Only those of this kind.")
    server_id: Pk | None = Field(default=None, description="Only those of this server; for operators.")


def _fields(row: Alert, reader: User) -> dict[str, Any]:
    is_staff = reader.is_staff
    return {
        "alert_id": row.pk,
        "kind": row.kind,
        "kind_name": row.get_kind_display(),
        "severity": row.severity,
        "state": row.state,
        "title": row.title if is_staff else str(rule_of(row.rule).title),
        "text": row.text if is_staff else row.own_text,
        "name": row.name if is_staff else "",
        "server_id": row.server if is_staff else None,
        "since": row.since,
        "raised_at": row.raised_at,
        "last_seen_at": row.seen_at,
        "ended_at": row.gone_at,
        "resolved_at": row.resolved_at,
        "note": row.note_text if is_staff else "",
    }


@monitoring.reads("/alerts", Alerts)
def alert_list(request: ApiRequest, query: Annotated[AlertsQuery, Query()]) -> Alerts:
    """Alerts: for operators all, for customers those that concern them."""
    rows = Alert.objects.visible_to(request.user)
    wanted = {"state": query.state, "severity": query.severity, "kind": query.kind}
    rows = rows.filter(**{name: value for name, value in wanted.items() if value is not None})
    if query.server_id is not None:
        rows = rows.filter(server=query.server_id) if request.user.is_staff else rows.none()
    found, cursor = cut_page(rows, query, lambda row: _fields(row, request.user))
    return Alerts(alerts=found, next_cursor=cursor)


class NewAlert(Input):
    """An alert of a program's own."""

    title: Line = Field(min_length=1, max_length=150, examples=["The nightly backup failed"])
    text: Line = Field(default="", max_length=1000, description="More of it.")
    severity: Severity = Field(
        default=Severity.WARNING, description="How bad it is; routes go by it.", examples=["warning"]
    )
    thing: Line = Field(
        default="",
        max_length=100,
        description="What it is about, in the program's own words: while one is open for it, no other is raised.",
    )


class AlertSent(Answer):
    """The alert that is open now."""

    alert_id: Pk = Field(examples=[31])


@monitoring.does("/alerts/send", AlertSent, scope=Scope.OPERATE, creates=True)
def alert_send(request: ApiRequest, payload: NewAlert) -> AlertSent:
    """Raise an alert of one's own, for operators; it is told by the routes and stays until somebody resolves it."""
    ask_staff(request)
    made = services.send_alert(
        by=request.user,
        severity=payload.severity,
        title=payload.title,
        text=payload.text,
        thing=payload.thing,
    )
    return AlertSent(alert_id=made.pk, message=_("The alert is open."))


class Resolving(Input):
    """What was done about an alert."""

    note: Line = Field(min_length=1, max_length=300, examples=["the disk was replaced"])


class Resolved(Answer):
    """An alert that is dealt with."""

    alert_id: Pk = Field(examples=[31])
    state: Alert.State


@monitoring.does("/alerts/{int:alert_id}/resolve", Resolved, scope=Scope.OPERATE)
def alert_resolve(request: ApiRequest, alert_id: Pk, payload: Resolving) -> Resolved:
    """Say that an alert is dealt with, for operators. While its cause lasts it comes back only when it is worse."""
    ask_staff(request)
    alert = Alert.objects.visible_to(request.user).filter(pk=alert_id).first()
    if alert is None:
        raise NotFound(field="alert_id")
    is_new = services.resolve_alert(alert=alert, by=request.user, note=payload.note)
    alert.refresh_from_db()
    text = _("The alert is resolved.") if is_new else _("This alert is not active any more.")
    return Resolved(alert_id=alert.pk, state=Alert.State(alert.state), message=text)
