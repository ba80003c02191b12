from typing import Any

from django.core.management.base import CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.models import User
from accounts.services import search_people, with_factor
from derpmgmt.lib.commands import CONSOLE, ListCommand


def _describe(user: Any) -> dict[str, Any]:
    return {
        "id": user.pk,
        "email": user.email,
        "username": user.username,
        "role": user.role,
        "role_text": user.get_role_display(),
        "state": user.state,
        "state_text": user.state.label,
        "language": user.language,
        "has_second_factor": user.has_factor,
        "joined_at": user.date_joined,
        "last_sign_in_at": user.last_login,
        "banned_at": user.banned_at,
        "closing_at": user.closing_at,
        "closed_at": user.closed_at,
    }


class Command(ListCommand):
    """Accounts."""

    help: Any = gettext_lazy("List accounts, the newest first: role, state, last sign-in.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "text",
            nargs="?",
            default="",
            metavar="TEXT",
            help=_(
                "words in the e-mail address or user name; of a closed account its number, or the whole address it had"
            ),
        )
        parser.add_argument(
            "--role", nargs="+", choices=User.Role.values, help=_("only those with these roles")
        )
        parser.add_argument("--state", choices=User.State.values, help=_("only those in this state"))
        super().add_arguments(parser)

    def handle(self, *args: Any, **options: Any) -> None:
        people = with_factor(search_people(User.objects.visible_to(CONSOLE), options["text"]))
        if options["role"]:
            people = people.filter(role__in=options["role"])
        if options["state"]:
            people = people.in_state(options["state"])  # type: ignore[attr-defined]
        self.emit_page(
            people,
            _describe,
            {"id": "ID", "email": _("E-mail address"), "username": _("User name"), "role_text": _("Role"),
             "state_text": _("State"), "has_second_factor": _("Two steps"), "joined_at": _("Registered"),
             "last_sign_in_at": _("Last sign-in")},
            options,
        )  # fmt: skip
