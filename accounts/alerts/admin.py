"""Alerts in the admin: what is wrong, what was, and who dealt with it."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin
from accounts.alerts.models import Alert
from accounts.alerts.route_models import AlertDelivery
from accounts.alerts.telling import MOST_NAMED
from accounts.tabs import link_to

_COLOURS = {Alert.State.ACTIVE: "red", Alert.State.CLEARED: "green", Alert.State.RESOLVED: "green"}


@admin.register(Alert)
class AlertAdmin(ReadOnlyAdmin):
    """Every alert that was raised."""

    list_display = ["raised_at", "level", "what", "state_text", "name", "since", "seen_at", "gone_at"]
    list_filter = ["state", "severity", "kind", "raised_at"]
    list_select_related = ["customer", "resolved_by"]
    search_fields = ["name", "thing", "note"]
    fields = readonly_fields = (
        "what", "words", "level", "kind", "state_text", "place", "customer", "since", "raised_at", "seen_at", "gone_at",
        "resolved_at", "resolved_by", "why",
    )  # fmt: skip
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Alert]:
        return super().get_queryset(request).filter(raised_at__isnull=False)

    @admin.display(description=gettext_lazy("severity"), ordering="severity")
    def level(self, alert: Alert) -> SafeString:
        text = '<span class="panel-state is-{}">{}</span>'
        return format_html(text, alert.severity, alert.get_severity_display())

    @admin.display(description=gettext_lazy("alert"))
    def what(self, alert: Alert) -> str:
        return alert.title

    @admin.display(description=gettext_lazy("details"))
    def words(self, alert: Alert) -> str:
        return alert.text or "–"

    @admin.display(description=gettext_lazy("state"), ordering="state")
    def state_text(self, alert: Alert) -> SafeString:
        colour = _COLOURS.get(Alert.State(alert.state), "grey")
        text = '<span class="panel-state is-{}">{}</span>'
        return format_html(text, colour, alert.get_state_display())

    @admin.display(description=gettext_lazy("about"))
    def place(self, alert: Alert) -> Any:
        if not alert.url:
            return alert.name or "–"
        return format_html('<a href="{}">{}</a>', alert.url, alert.name or alert.title)

    @admin.display(description=gettext_lazy("note"))
    def why(self, alert: Alert) -> str:
        return alert.note_text or "–"


@admin.register(AlertDelivery)
class AlertDeliveryAdmin(ReadOnlyAdmin):
    """What was told of alerts by which route, and why not."""

    list_display = ["created_at", "route", "what", "state", "sent_at", "tries", "reason", "instead_of"]
    list_filter = ["state", "route", "what", "created_at"]
    list_select_related = ["route", "instead_of__route"]
    fields = readonly_fields = (
        "route", "what", "state", "reason", "tries", "created_at", "sent_at", "instead_of", "about"
    )  # fmt: skip

    @admin.display(description=gettext_lazy("reason"))
    def reason(self, delivery: AlertDelivery) -> str:
        return _(delivery.error) if delivery.error else "–"

    @admin.display(description=gettext_lazy("alerts"))
    def about(self, delivery: AlertDelivery) -> SafeString | str:
        rows = delivery.tellings.select_related("alert")[:MOST_NAMED]
        lines = ((link_to(told.alert), told.get_what_display()) for told in rows)
        return format_html_join(mark_safe("<br>"), "{} · {}", lines) or "–"
