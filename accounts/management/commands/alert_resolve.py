from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.alerts.models import Alert
from accounts.alerts.services import resolve_alert
from derpmgmt.lib.arguments import number
from derpmgmt.lib.commands import CONSOLE, CommandRefused, PanelCommand


class Command(PanelCommand):
    """Say that an alert is dealt with."""

    help: Any = gettext_lazy("Say that an alert is dealt with, and what was done about it.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "id", metavar="ID", type=number(1, 2**63 - 1), help=_("its number, as alert_list has it")
        )
        parser.add_argument("--note", required=True, metavar="TEXT", help=_("what was done about it"))

    def handle(self, *args: Any, **options: Any) -> None:
        alert = Alert.objects.visible_to(CONSOLE).filter(pk=options["id"]).first()
        if alert is None:
            raise CommandRefused(_("There is no alert %(id)d.") % {"id": options["id"]}, code="no_alert")
        if not resolve_alert(alert=alert, by=None, note=options["note"]):
            self.say(_("This alert is not active any more."))
        alert.refresh_from_db()
        row = {
            "id": alert.pk,
            "state": alert.state,
            "state_name": alert.get_state_display(),
            "title": alert.title,
            "note": alert.note_text,
        }
        self.emit([row], {"id": "ID", "state_name": _("State"), "title": _("Alert"), "note": _("Note")})
