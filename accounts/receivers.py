"""What allauth does to accounts is written to the activity log here; connected by `AccountsConfig.ready`."""

from typing import Any

from allauth.account import signals as account_signals
from allauth.account.internal.flows.login import record_authentication
from allauth.mfa import signals as mfa_signals
from allauth.mfa.models import Authenticator
from django.contrib.auth import signals as auth_signals
from django.db import transaction
from django.dispatch import receiver
from django.http import HttpRequest

from accounts.models import User
from accounts.services import end_oldest_sessions, log_operation, shorten_ip
from derpmgmt.lib.address import client_ip


@transaction.atomic
def _log(request: HttpRequest | None, action: str, user: User, **detail: Any) -> None:
    """Write down what happened to `user`; of an account that was closed while the request was under way nothing personal."""
    ip = client_ip(request) if request else None
    # Locked: the line comes wholly before a closing, which cleans it, or wholly after.
    user = User.objects.select_for_update().get(pk=user.pk)
    if user.closing_at or user.closed_at:
        ip, detail = shorten_ip(ip), {}
    log_operation(by=user, action=action, target=user, subject=user, ip=ip, **detail)


@receiver(account_signals.user_signed_up)
def log_sign_up(request: HttpRequest, user: User, **rest: Any) -> None:
    _log(request, "user.signed_up", user)


@receiver(account_signals.email_confirmed)
def log_email_confirmed(request: HttpRequest, email_address: Any, **rest: Any) -> None:
    _log(request, "email.confirmed", email_address.user, email=email_address.email)


@receiver(auth_signals.user_logged_in)
def log_sign_in(request: HttpRequest, user: User, **rest: Any) -> None:
    _log(request, "user.signed_in", user)
    end_oldest_sessions(user)


@receiver(auth_signals.user_logged_out)
def log_sign_out(request: HttpRequest, user: User | None, **rest: Any) -> None:
    if user is not None:
        _log(request, "user.signed_out", user)


@receiver(auth_signals.user_login_failed)
def log_failed_sign_in(credentials: dict[str, Any], request: HttpRequest | None = None, **rest: Any) -> None:
    email = str(credentials.get("email") or "")[:120].lower()
    log_operation(
        by=None,
        action="user.sign_in_failed",
        target=email,
        subject=User.objects.filter(email=email).first(),
        is_success=False,
        ip=client_ip(request) if request else None,
    )


@receiver(account_signals.password_changed)
def log_password_change(request: HttpRequest, user: User, **rest: Any) -> None:
    _log(request, "password.changed", user)


@receiver(account_signals.password_reset)
def log_password_reset(request: HttpRequest, user: User, **rest: Any) -> None:
    _log(request, "password.reset", user)


@receiver(account_signals.email_changed)
def log_email_change(
    request: HttpRequest, user: User, from_email_address: Any, to_email_address: Any, **rest: Any
) -> None:
    # The first confirmation after sign-up comes here too, with nothing before it.
    if from_email_address and from_email_address.email != to_email_address.email:
        _log(request, "email.changed", user, before=from_email_address.email, after=to_email_address.email)


@receiver(mfa_signals.authenticator_added)
def log_second_factor_added(
    request: HttpRequest, user: User, authenticator: Authenticator, **rest: Any
) -> None:
    """Whoever adds an authenticator has just used it, so this session counts as signed in with it from now on."""
    if authenticator.type != Authenticator.Type.RECOVERY_CODES:
        record_authentication(request, user, "mfa", id=authenticator.pk, type=authenticator.type)
    _log(request, "second_factor.added", user, kind=authenticator.type)


@receiver(mfa_signals.authenticator_removed)
def log_second_factor_removed(
    request: HttpRequest, user: User, authenticator: Authenticator, **rest: Any
) -> None:
    _log(request, "second_factor.removed", user, kind=authenticator.type)


@receiver(mfa_signals.authenticator_reset)
def log_recovery_codes_renewed(
    request: HttpRequest, user: User, authenticator: Authenticator, **rest: Any
) -> None:
    _log(request, "second_factor.renewed", user, kind=authenticator.type)
