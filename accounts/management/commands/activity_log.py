from typing import Any

from django.core.management.base import CommandParser
from django.db.models import Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.console import find_person
from accounts.models import OperationLog
from accounts.wordlist import ACTIONS
from derpmgmt.lib.arguments import moment
from derpmgmt.lib.commands import CONSOLE, CommandRefused, ListCommand


def _describe(line: OperationLog) -> dict[str, Any]:
    return {
        "id": line.pk,
        "at": line.at,
        "action": line.action,
        "action_name": line.action_text,
        "actor_id": line.actor_id,
        "actor": str(line.actor) if line.actor else None,
        "subject_id": line.subject_id,
        "subject": str(line.subject) if line.subject else None,
        "target": line.target,
        "is_success": line.is_success,
        "ip": line.ip,
        "token": line.detail.get("token"),
        "detail": line.detail,
    }


def _of_kind(name: str) -> Q:
    """The lines of an action, or of all that begin so (`serial` for `serial.created`, …); raises `CommandRefused`."""
    known = [action for action in ACTIONS if action == name or action.startswith(f"{name}.")]
    if not known:
        kinds = sorted({action.partition(".")[0] for action in ACTIONS})
        raise CommandRefused(
            _("There is no action %(name)s. Actions begin with: %(kinds)s.")
            % {"name": name, "kinds": ", ".join(kinds)},
            code="no_action",
            details={"known": sorted(ACTIONS)},
        )
    return Q(action__in=known)


class Command(ListCommand):
    """The activity log."""

    help: Any = gettext_lazy("Show the activity log, the newest lines first: who did what to what.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--by", metavar="EMAIL", help=_("only what this person did"))
        parser.add_argument("--about", metavar="EMAIL", help=_("only what was done to this person's account"))
        parser.add_argument(
            "--action",
            metavar="ACTION",
            help=_("only this action, for example serial.recalled; serial for all about serial numbers"),
        )
        parser.add_argument(
            "--since", metavar="WHEN", type=moment, help=_("from then on: 24h, 7d, 2026-12-31")
        )
        parser.add_argument("--until", metavar="WHEN", type=moment, help=_("only what was before then"))
        parser.add_argument("--failed", action="store_true", help=_("only what did not go well"))
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        lines = OperationLog.objects.visible_to(CONSOLE).select_related("actor", "subject")
        if options["by"]:
            lines = lines.filter(actor=find_person(options["by"]))
        if options["about"]:
            lines = lines.filter(subject=find_person(options["about"]))
        if options["action"]:
            lines = lines.filter(_of_kind(options["action"]))
        if options["since"]:
            lines = lines.filter(at__gte=options["since"])
        if options["until"]:
            lines = lines.filter(at__lt=options["until"])
        if options["failed"]:
            lines = lines.filter(is_success=False)
        self.emit_page(
            lines,
            _describe,
            {"id": "ID", "at": _("Time"), "actor": _("Who"), "action_name": _("Action"), "target": _("Target"),
             "subject": _("Customer"), "is_success": _("Success"), "ip": _("IP address")},
            options,
        )  # fmt: skip
