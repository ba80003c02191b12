"""`manage.py user_create EMAIL`: an account whose address counts as confirmed."""

import sys
from typing import Any

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError
from django.core.management.base import CommandError, CommandParser
from django.core.validators import validate_email
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import services, usernames
from accounts.models import USERNAME_VALIDATORS, User
from derpmgmt.lib.commands import PanelCommand


class Command(PanelCommand):
    help: Any = gettext_lazy("Make an account. Its e-mail address counts as confirmed at once.")

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email", metavar="EMAIL", help=_("the address with which the person signs in"))
        parser.add_argument("--username", default="", help=_("default: made from the address"))
        parser.add_argument("--role", choices=User.Role.values, default=User.Role.USER.value)
        parser.add_argument(
            "--password-stdin",
            action="store_true",
            help=_(
                "read the password from standard input; without it the person sets one by a code sent by mail"
            ),
        )

    def handle(self, *args: Any, **options: Any) -> None:
        password = None
        try:
            validate_email(options["email"])
            if options["username"]:
                options["username"] = usernames.normalize(options["username"])
                for validator in USERNAME_VALIDATORS:
                    validator(options["username"])
            if options["password_stdin"]:
                password = sys.stdin.readline().rstrip("\r\n")
                validate_password(password, User(email=options["email"], username=options["username"]))
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        user = services.create_user(
            email=options["email"], username=options["username"], password=password, role=options["role"]
        )
        self.emit_one(
            {
                "id": user.pk,
                "email": user.email,
                "username": user.username,
                "role": user.role,
                "has_password": bool(password),
            },
            {"email": _("E-mail address"), "username": _("User name"), "role": _("Role")},
        )
        if not password:
            url = settings.PUBLIC_URL + reverse("account_reset_password")
            self.say(
                _("No password yet: the person sets one at %(url)s by a code sent by mail.") % {"url": url}
            )
        if user.is_staff:
            self.say(_("Operators set up two-factor authentication when they first open the admin."))
