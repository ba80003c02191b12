"""`manage.py account_close EMAIL`: close an account for good."""

from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import services
from accounts.models import User
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    help: Any = gettext_lazy(
        "Close an account for good: maps destroyed, relays removed, personal data deleted, history kept."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the account's e-mail address"))
        parser.add_argument(
            "--reason", default="", help=_("kept with the account; do not name the person in it")
        )

    def handle(self, *args: Any, **options: Any) -> None:
        email = options["email"].strip().lower()
        user = User.objects.filter(email=email).first()
        if user is None:
            former = services.hash_address(email)
            user = User.objects.filter(former_email_hash=former).order_by("-closing_at").first()
        if user is None:
            raise CommandError(_("There is no account with the address %(email)s.") % {"email": email})
        try:
            is_new = services.close_account(user=user, by=None, reason=options["reason"])
        except services.ClosingRefused as refusal:
            raise CommandError("\n".join(str(reason) for reason in refusal.reasons)) from refusal
        user.refresh_from_db()
        left = [str(sentence) for sentence in services.closing_left(user)]
        if not is_new:
            self.say(_("This account was closed before."))
        self.emit_one(
            {
                "id": user.pk,
                "closing_at": user.closing_at,
                "closed_at": user.closed_at,
                "left": left,
                "left_text": " ".join(left),
            },
            {
                "id": _("Account"),
                "closing_at": _("Closing since"),
                "closed_at": _("Closed"),
                "left_text": _("Still to be done"),
            },
        )
