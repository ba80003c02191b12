"""`manage.py account_close EMAIL`: close an account for good."""

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import services
from accounts.console import find_person
from accounts.models import User
from containers.models import Relay
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    destroys = True
    help: Any = gettext_lazy(
        "Close an account for good: maps destroyed, relays removed, personal data deleted, history kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the account's e-mail address"))
        parser.add_argument(
            "--reason", default="", help=_("kept with the account; do not name the person in it")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        user = find_person(options["email"])
        if user.closing_at is None and user.closed_at is None:
            self.confirm(
                user.email,
                _("This closes the account of %(email)s for good, with its maps, relays and personal data.")
                % {"email": user.email},
                is_sure=options["yes"],
            )
        try:
            is_new = services.close_account(user=user, by=None, reason=options["reason"])
        except services.ClosingRefused as refusal:
            reasons = "".join(f"\n- {reason}" for reason in refusal.reasons)
            raise CommandError(_("The account cannot be closed yet:") + reasons) from refusal
        except services.NotAllowed as refusal:
            raise CommandError(str(refusal)) from refusal
        user.refresh_from_db()
        left = [str(sentence) for sentence in services.closing_left(user)]
        relays = Relay.objects.live().filter(rental__user=user)
        servers = sorted(set(relays.values_list("server__name", flat=True)))
        self.say(" ".join(self._sentences(user, is_new, servers)))
        self.emit_one(
            {
                "id": user.pk,
                "role": user.role,
                "role_text": user.get_role_display(),
                "closing_at": user.closing_at,
                "closed_at": user.closed_at,
                "servers": servers,
                "servers_text": ", ".join(servers),
                "left": left,
                "left_text": " ".join(left),
            },
            {
                "id": _("Account"),
                "role_text": _("Role"),
                "closing_at": _("Closing since"),
                "closed_at": _("Closed"),
                "servers_text": _("Waits for"),
                "left_text": _("Still to be done"),
            },
        )

    def _sentences(self, user: User, is_new: bool, servers: list[str]) -> Iterator[str]:
        if user.closed_at:
            yield _("This account is closed already.")
            return
        if is_new:
            yield _("The person is signed out everywhere, and their personal data is deleted.")
        else:
            yield _("This account is being closed already.")
        if servers:
            text = ngettext(
                "It is closed when the relays on %(count)d server are removed: %(servers)s.",
                "It is closed when the relays on %(count)d servers are removed: %(servers)s.",
                len(servers),
            )
            yield text % {"count": len(servers), "servers": ", ".join(servers)}
        else:
            yield _("It is closed as soon as the last mail has left.")
