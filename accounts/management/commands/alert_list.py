from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.alerts.models import Alert, Severity
from accounts.alerts.rules import Kind
from derpmgmt.lib.commands import CONSOLE, ListCommand


def _describe(alert: Alert) -> dict[str, Any]:
    return {
        "id": alert.pk,
        "kind": alert.kind,
        "severity": alert.severity,
        "severity_name": alert.get_severity_display(),
        "state": alert.state,
        "state_name": alert.get_state_display(),
        "title": alert.title,
        "text": alert.text,
        "name": alert.name,
        "server_id": alert.server,
        "customer_id": alert.customer_id,
        "since": alert.since,
        "raised_at": alert.raised_at,
        "last_seen_at": alert.seen_at,
        "ended_at": alert.gone_at,
        "resolved_at": alert.resolved_at,
        "resolved_by": str(alert.resolved_by) if alert.resolved_by else None,
        "note": alert.note_text,
    }


class Command(ListCommand):
    """What is wrong, and was."""

    help: Any = gettext_lazy("List alerts, the newest first.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--open", action="store_true", help=_("only those that are active"))
        parser.add_argument("--severity", choices=Severity.values, help=_("only those of this severity"))
        parser.add_argument("--kind", choices=Kind.values, help=_("only those of this kind"))
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        alerts = Alert.objects.visible_to(CONSOLE).select_related("resolved_by")
        if options["open"]:
            alerts = alerts.active()
        for name in ("severity", "kind"):
            if options[name]:
                alerts = alerts.filter(**{name: options[name]})
        self.emit_page(
            alerts,
            _describe,
            {"id": "ID", "since": _("Since"), "severity_name": _("Level"), "state_name": _("State"), "title": _("Alert"),
             "text": _("Details"), "note": _("Note")},
            options,
        )  # fmt: skip
