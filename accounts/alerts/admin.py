"""Alerts in the admin: what is wrong, what was, and who dealt with it."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin, StaffAdmin
from accounts.alerts import routes, services
from accounts.alerts.admin_acts import ALERT_ACTS, ROUTE_ACTS, RULE_ACTS
from accounts.alerts.admin_parts import delivery_badge, severity_badge, state_badge
from accounts.alerts.forms import RouteForm, RuleForm, describe, in_unit, server_choices
from accounts.alerts.models import Alert, AlertRule
from accounts.alerts.route_models import AlertDelivery, AlertRoute, told_of
from accounts.alerts.rules import rule_of
from accounts.alerts.telling import MOST_NAMED
from accounts.requests import staff_of
from accounts.tabs import link_to


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """Every alert that was raised."""

    list_display = ["raised_at", "level", "what", "state_text", "name", "since", "seen_at", "gone_at"]
    list_filter = ["state", "severity", "kind", "raised_at"]
    list_select_related = ["customer", "resolved_by"]
    search_fields = ["name", "thing", "note"]
    acts = ALERT_ACTS
    fields = readonly_fields = (
        "what", "words", "level", "kind", "state_text", "place", "customer", "since", "raised_at", "seen_at", "gone_at",
        "resolved_at", "resolved_by", "why", "told",
    )  # fmt: skip
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        return super().get_queryset(request).filter(raised_at__isnull=False)

    @admin.display(description=gettext_lazy("severity"), ordering="severity")
    def level(self, alert: Alert) -> SafeString:
        return severity_badge(alert)

    @admin.display(description=gettext_lazy("alert"))
    def what(self, alert: Alert) -> str:
        return alert.title

    @admin.display(description=gettext_lazy("details"))
    def words(self, alert: Alert) -> str:
        return alert.text or "–"

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_text(self, alert: Alert) -> SafeString:
        return state_badge(alert)

    @admin.display(description=gettext_lazy("about"))
    def place(self, alert: Alert) -> Any:
        if not alert.url:
            return alert.name or "–"
        return format_html('<a href="{}">{}</a>', alert.url, alert.name or alert.title)

    @admin.display(description=gettext_lazy("note"))
    def why(self, alert: Alert) -> str:
        return alert.note_text or "–"

    @admin.display(description=gettext_lazy("told"))
    def told(self, alert: Alert) -> SafeString | str:
        """By which routes, and what became of it; also what went by another one."""
        lines = (
            (
                link_to(told.delivery, str(told.route)),
                told.get_what_display(),
                told.delivery.get_state_display(),
                _(told.delivery.error) if told.delivery.error else "",
            )
            for told in told_of(alert)
        )
        return format_html_join(mark_safe("<br>"), "{} · {} · {} {}", lines) or "–"


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    """What was told of alerts by which route, and why not."""

    list_display = ["created_at", "route", "what", "state_text", "sent_at", "tries", "reason", "instead_of"]
    list_filter = ["state", "route", "what", "created_at"]
    list_select_related = ["route", "instead_of__route"]
    fields = readonly_fields = (
        "route", "what", "state_text", "reason", "tries", "created_at", "sent_at", "instead_of", "about"
    )  # fmt: skip

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_text(self, delivery: AlertDelivery) -> SafeString:
        return delivery_badge(delivery)

    @admin.display(description=gettext_lazy("reason"))
    def reason(self, delivery: AlertDelivery) -> str:
        return _(delivery.error) if delivery.error else "–"

    @admin.display(description=gettext_lazy("alerts"))
    def about(self, delivery: AlertDelivery) -> SafeString | str:
        rows = delivery.tellings.select_related("alert")[:MOST_NAMED]
        lines = ((link_to(told.alert), told.get_what_display()) for told in rows)
        return format_html_join(mark_safe("<br>"), "{} · {}", lines) or "–"


@admin.register(AlertRule)
class AlertRuleAdmin(StaffAdmin):
    """What operators changed of the rules, for all servers or for one."""

    form = RuleForm
    list_display = [
        "title",
        "where",
        "is_on",
        "severity",
        "warning_from",
        "critical_from",
        "raise_seconds",
        "clear_seconds",
        "usual",
    ]
    acts = RULE_ACTS

    def get_readonly_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        return ("title", "where", "usual") if obj else ()

    def get_fields(self, request: HttpRequest, obj: AlertRule | None = None) -> Any:
        changed = ("is_on", "severity", "warning", "critical", "raise_seconds", "clear_seconds")
        return ("title", "where", "usual", *changed) if obj else ("rule", "server", *changed)

    @admin.display(description=gettext_lazy("rule"), ordering="rule")
    def title(self, row: AlertRule) -> str:
        return str(row)

    @admin.display(description=gettext_lazy("server"), ordering="server")
    def where(self, row: AlertRule) -> str:
        names = getattr(row, "server_names", None) or dict(server_choices())
        return names.get(row.server, f"#{row.server}")

    def get_changelist_instance(self, request: HttpRequest) -> Any:
        """With the servers' names, which are asked for once for all rows."""
        changelist = super().get_changelist_instance(request)
        names = dict(server_choices())
        for row in changelist.result_list:
            row.server_names = names
        return changelist

    @admin.display(description=gettext_lazy("warning from"), ordering="warning")
    def warning_from(self, row: AlertRule) -> str:
        return in_unit(row.rule, row.warning)

    @admin.display(description=gettext_lazy("critical from"), ordering="critical")
    def critical_from(self, row: AlertRule) -> str:
        return in_unit(row.rule, row.critical)

    @admin.display(description=gettext_lazy("usually"))
    def usual(self, row: AlertRule) -> str:
        return describe(rule_of(row.rule))

    def save_model(self, request: HttpRequest, obj: AlertRule, form: Any, change: bool) -> None:
        services.change_rule(row=obj, by=staff_of(request))

    def log_addition(self, *args: Any) -> Any:
        """Written by the service."""

    def log_change(self, *args: Any) -> Any:
        """Written by the service."""


@admin.register(AlertRoute)
class AlertRouteAdmin(StaffAdmin):
    """By which ways alerts are told."""

    form = RouteForm
    list_display = [
        "name",
        "by",
        "label",
        "severity",
        "digest_at",
        "quiet_from",
        "quiet_until",
        "position",
        "is_on",
    ]
    list_filter = ["is_on", "by"]
    acts = ROUTE_ACTS

    fields = (
        "name", "by", "target", "severity", "kinds", "quiet_from", "quiet_until", "digest_at", "position", "is_on",
    )  # fmt: skip

    def get_queryset(self, request: HttpRequest) -> QuerySet[AlertRoute]:
        return super().get_queryset(request).defer("address")

    def save_model(self, request: HttpRequest, obj: AlertRoute, form: Any, change: bool) -> None:
        data = {name: form.cleaned_data[name] for name in form.changed_data if name != "target"}
        stored = AlertRoute.objects.get(pk=obj.pk) if change else AlertRoute()
        fields = (
            data if change else {name: value for name, value in form.cleaned_data.items() if name != "target"}
        )
        way, address = fields.pop("by", ""), form.cleaned_data["target"]
        made = routes.save_route(by=staff_of(request), route=stored, address=address, way=way, **fields)
        obj.pk = made.pk

    def log_addition(self, *args: Any) -> Any:
        """Written by the service."""

    def log_change(self, *args: Any) -> Any:
        """Written by the service."""
