"""Signing in by the API: with the same tries, the same second factor and the same lines in the activity log as on the pages."""

from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from allauth.core.context import request_context
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.access.models import ApiToken
from accounts.access.tokens import SIGN_IN_LASTS, create_token, revoke_token, scopes_of
from accounts.forms import SecondFactorForm
from accounts.models import User
from accounts.services import NotAllowed, has_second_factor, log_operation
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Failed


class WrongCredentials(Failed):
    """No such account, or not its password."""

    status, code = 401, "wrong_credentials"
    sentence = gettext_lazy("The address or the password is not right.")


class WrongPassword(Failed):
    """The password of somebody who is signed in is not right."""

    status, code = 403, "wrong_password"
    sentence = gettext_lazy("The password is not right.")
    field = "password"


class SecondFactorNeeded(Failed):
    """The password is right, and the account has a second factor."""

    status, code = 401, "second_factor_needed"
    sentence = gettext_lazy(
        "This account has a second factor: send a code of the authenticator app, or a recovery code, as well."
    )
    field = "code"


class WrongSecondFactor(Failed):
    """The code of the second factor is not right, or was used before."""

    status, code = 401, "wrong_code"
    sentence = gettext_lazy("The code is not right, or was used before.")
    field = "code"


class AddressNotConfirmed(Failed):
    """The password is right, and nobody has confirmed the address."""

    status, code = 403, "address_not_confirmed"
    sentence = gettext_lazy(
        "The address is not confirmed yet: sign in in the browser, and you are sent a code."
    )


def sign_in(request: HttpRequest, *, email: str, password: str, code: str) -> tuple[ApiToken, str]:
    """A token for an hour, with all that its owner may do, and its text. `code` may be empty where there is no second factor.

    Raises `TooManyRequests`, `WrongCredentials`, and only for who knows the password `NotAllowed`, `AddressNotConfirmed`,
    `SecondFactorNeeded`, `WrongSecondFactor`.
    """
    with request_context(request):
        user = get_adapter(request).authenticate(
            request, email=email.strip().lower()[:254], password=password
        )
        if user is None:
            raise WrongCredentials
        if not user.is_active:
            raise NotAllowed(_("This account is closed or banned."))
        if not EmailAddress.objects.filter(user=user, verified=True).exists():
            raise AddressNotConfirmed
        if has_second_factor(user):
            _use_second_factor(user, code)
    ip = client_ip(request)
    with transaction.atomic():
        token, text = create_token(
            user=user,
            name=_("Signed in"),
            scopes=scopes_of(user),
            expires_at=timezone.now() + SIGN_IN_LASTS,
            is_sign_in=True,
            ip=ip,
        )
        User.objects.filter(pk=user.pk).update(last_login=timezone.now())
        log_operation(by=user, action="user.signed_in", target=user, subject=user, ip=ip)
    return token, text


def _use_second_factor(user: User, code: str) -> None:
    if not code.strip():
        raise SecondFactorNeeded
    # The form of the page: it asks and counts the tries, and uses the code up.
    form = SecondFactorForm({"code": code}, user=user)
    if not form.is_valid():
        raise WrongSecondFactor
    form.authenticator.record_usage()


def sign_out(request: HttpRequest, *, user: User, token_pk: int) -> None:
    """The token opens nothing any more."""
    ip = client_ip(request)
    with transaction.atomic():
        token = ApiToken.objects.select_related("user").get(pk=token_pk)
        if revoke_token(token=token, by=user, ip=ip) and token.is_sign_in:
            log_operation(by=user, action="user.signed_out", target=user, subject=user, ip=ip)


def ask_password(request: HttpRequest, *, user: User, password: str) -> None:
    """The password of who is signed in, before what cannot be undone. Raises `TooManyRequests`, `WrongPassword`."""
    with request_context(request):
        if not get_adapter(request).reauthenticate(user, password):
            raise WrongPassword
