"""`manage.py mail_test ADDRESS`: a test mail, and what the mail server said to it."""

from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.core.validators import validate_email
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.brand import sender
from derpmgmt.lib.commands import PanelCommand
from derpmgmt.lib.mail import MailFailed, MailLimited, send_test_mail


class Command(PanelCommand):
    help: Any = gettext_lazy("Send a test mail to an address and say what the mail server answered.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("address", metavar="ADDRESS", help=_("where the mail goes"))

    def handle(self, *args: Any, **options: Any) -> None:
        address = options["address"]
        try:
            validate_email(address)
            send_test_mail(address, sender=sender())
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        except MailLimited as limited:
            raise CommandError(str(limited)) from limited
        except MailFailed as failure:
            text = _("The mail was not sent: %(reason)s") % {"reason": failure.reason}
            if settings.EMAIL_URL:
                text = f"{text}\n" + _("The mail server is %(server)s.") % {"server": _transport()}
            raise CommandError(text) from failure
        row = {"address": address, "sender": sender(), "by": _transport()}
        self.emit_one(row, {"address": _("Sent to"), "sender": _("From"), "by": _("By")})
        if not settings.EMAIL_URL:
            self.say(_("DERPMGMT_EMAIL_URL is not set: mail does not leave this machine."))


def _transport() -> str:
    if settings.EMAIL_URL:
        return f"{settings.EMAIL_HOST}:{settings.EMAIL_PORT}"
    return str(settings.EMAIL_BACKEND).split(".")[-2]
