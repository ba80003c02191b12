"""A new account by the API: a code goes to the address, and whoever has it makes the account."""

import secrets
from dataclasses import dataclass
from datetime import timedelta

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.manage_email import email_already_exists
from allauth.account.internal.flows.password_reset import get_reset_password_url
from allauth.core.context import request_context
from django.contrib.auth.hashers import make_password
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import get_language
from django.utils.translation import gettext_lazy as _

from accounts import tries
from accounts.access.models import SignUpCode
from accounts.forms import SignupForm
from accounts.models import User
from accounts.services import AccountExists, insert_user, log_operation
from derpmgmt.lib import limits
from derpmgmt.lib.address import client_ip, client_network
from derpmgmt.lib.api import Failed
from derpmgmt.lib.crypto import keyed_hash

CODE_LASTS = timedelta(minutes=15)
CODE_TRIES = 5
# By network: each tells whether a user name is taken.
REGISTER_RATE = "60/h"


class WrongCode(Failed):
    """The code is not the one that was mailed last, or counts no more."""

    status, code = 422, "wrong_code"
    sentence = _("The code is not right, or no longer valid. Have a new one sent.")
    field = "verification_code"


@dataclass(frozen=True)
class Wanted:
    """An account that may be made: what was asked for, checked and put in order."""

    email: str
    username: str
    hashed: str


def send_code(request: HttpRequest, email: str) -> None:
    """Mail a code for a new account; it takes the place of the one before once the mail server takes the mail.

    An address that has an account gets the mail that says so, and everything else is the same. Raises `ValidationError`,
    `TooManyRequests`, `MailLimited`, `MailFailed`.
    """
    email = email.strip().lower()
    try:
        validate_email(email)
    except ValidationError as error:
        raise ValidationError({"email": error.messages}) from error
    tries.count_sign_up(request, email)
    with request_context(request):
        adapter = get_adapter(request)
        is_known = email_already_exists(email)[1]
        code = f"{secrets.randbelow(1_000_000):06}"
        # What is written is the same for an address that has an account; its code is in no mail.
        name, context = "sign_up_code", {"code": code}
        if is_known:
            name, context = "account_already_exists", {"password_reset_url": get_reset_password_url(request)}
        adapter.send_mail(f"account/email/{name}", email, context, before_handing=lambda: _keep(email, code))


def _keep(email: str, code: str) -> None:
    SignUpCode.objects.update_or_create(
        email_hash=_hash_email(email),
        defaults={"code_hash": _hash_code(code), "ends_at": timezone.now() + CODE_LASTS, "tries": 0},
    )


def check_wanted(
    request: HttpRequest, *, email: str, username: str, password: str, is_password_needed: bool = True
) -> tuple[str, str]:
    """Address and user name in order, by the rules of the page on which people sign up. Raises `ValidationError` with all that is wrong."""
    with request_context(request):
        form = SignupForm({"email": email, "username": username, "password1": password}, asks_name=True)
        form.is_valid()
    wrong = {
        {"password1": "password"}.get(name, name): [str(text) for text in texts]
        for name, texts in form.errors.items()
        if name != "password1" or password or is_password_needed
    }
    if wrong:
        raise ValidationError(wrong)
    return form.cleaned_data["email"], form.cleaned_data["username"]


def take_code(request: HttpRequest, *, email: str, username: str, password: str, code: str) -> Wanted:
    """Check what is wanted, and the code: each try counts. Raises `ValidationError`, `TooManyRequests`, `WrongCode`."""
    key = f"network:{client_network(request)}"
    limits.consume(request, group="register", key=key, rate=REGISTER_RATE)
    email, username = check_wanted(request, email=email, username=username, password=password)
    sent = SignUpCode.objects.filter(email_hash=_hash_email(email), ends_at__gt=timezone.now()).first()
    # By its primary key alone: by the index of the times, MariaDB would wait for whoever uses the code up while they wait for it.
    row = SignUpCode.objects.filter(pk=sent.pk if sent else 0, tries__lt=CODE_TRIES)
    # Counted before it is compared: however many come at once, only so many are looked at.
    if not row.update(tries=F("tries") + 1) or not _right(email, code).exists():
        raise WrongCode
    return Wanted(email, username, make_password(password))


def _right(email: str, code: str) -> QuerySet[SignUpCode]:
    return SignUpCode.objects.filter(email_hash=_hash_email(email), code_hash=_hash_code(code))


def sign_up(request: HttpRequest, wanted: Wanted, code: str) -> User:
    """Make the account; the code is used up with it. Raises `WrongCode`, `AccountExists`."""
    ip = client_ip(request)
    try:
        with transaction.atomic():
            row = _right(wanted.email, code).select_for_update().first()
            if row is None:
                raise WrongCode
            row.delete()
            user = insert_user(
                email=wanted.email,
                username=wanted.username,
                hashed=wanted.hashed,
                language=get_language() or "",
            )
            log_operation(by=user, action="user.signed_up", target=user, subject=user, ip=ip)
            log_operation(
                by=user, action="email.confirmed", target=user, subject=user, ip=ip, email=user.email
            )
    except IntegrityError as error:
        # Somebody took the name, or made an account with the address, at this moment.
        raise AccountExists(_("The user name or the address was taken at this moment. Try again.")) from error
    return user


def _hash_email(email: str) -> str:
    return keyed_hash("sign-up address", email)


def _hash_code(code: str) -> str:
    return keyed_hash("sign-up code", code.strip())
