"""Making, changing, banning accounts, and their second factors."""

from itertools import count

from allauth.account.models import EmailAddress
from allauth.core.internal.cryptokit import compare_user_code
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import TOTP, format_hotp_value, hotp_value, yield_hotp_counters_from_time
from allauth.mfa.utils import decrypt
from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.auth.hashers import make_password
from django.db import transaction
from django.db.models import Exists, OuterRef, QuerySet
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts import usernames
from accounts.access.models import ApiToken
from accounts.models import User
from accounts.services.activity import log_operation
from accounts.services.notices import notify
from derpmgmt.lib import queue
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.refusals import Refusal

# What counts as a second factor; recovery codes only stand in for one.
SECOND_FACTORS = (Authenticator.Type.TOTP, Authenticator.Type.WEBAUTHN)

# Browsers in which one account may be signed in.
MOST_SESSIONS = 50


class AccountExists(Refusal):
    """The e-mail address or the user name is taken."""

    code = "account_exists"


class NotAllowed(Refusal):
    """Who asks may not do this."""

    code = "not_allowed"


def suggest_username(text: str) -> str:
    """A free user name made from an e-mail address or from a name that is taken."""
    base = usernames.keep_allowed(text.partition("@")[0])[:24]
    if len(base) < 2:
        base = f"user{base}"
    taken = set(User.objects.filter(username__startswith=base).values_list("username", flat=True))
    if base not in taken and not looks_like_staff(base):
        return base
    numbered = (f"{base}{number}" for number in count(2))
    return next(name for name in numbered if name not in taken and not looks_like_staff(name))


def looks_like_staff(username: str, *, except_for: User | None = None) -> bool:
    """Whether a name can be mistaken for that of one of the staff, of whom there are few: 1 for l, or another sign in between."""
    names = User.objects.filter(is_staff=True).exclude(pk=except_for and except_for.pk)
    shape = usernames.shape(username)
    return any(usernames.shape(name) == shape for name in names.values_list("username", flat=True))


def create_user(
    *,
    email: str,
    username: str = "",
    password: str | None = None,
    role: str = User.Role.USER,
    by: User | None = None,
) -> User:
    """Make an account whose address counts as confirmed (an operator vouches for it).

    Without a user name one is made from the address; without a password the person sets one by "forgot password". Raises
    `AccountExists`, and `NotAllowed` when a normal admin wants to make staff.
    """
    if by is not None and not by.is_superuser and role in {User.Role.ADMIN, User.Role.SUPERADMIN}:
        raise NotAllowed(_("Only a super admin makes admins."))
    email = email.strip().lower()
    # Takes a good part of a second, for which nobody who writes should have to wait.
    hashed = make_password(password or None)
    with transaction.atomic():
        user = insert_user(email=email, username=username, hashed=hashed, role=role)
        log_operation(by=by, action="user.created", target=email, subject=user, role=role)
    return user


def insert_user(*, email: str, username: str, hashed: str, **fields: str) -> User:
    """The rows of an account whose address is confirmed and whose password is hashed already; inside a transaction.

    Raises `AccountExists`.
    """
    username = usernames.normalize(username) or suggest_username(email)
    if User.objects.filter(email=email).exists():
        raise AccountExists(_("There is an account with the address %(email)s already.") % {"email": email})
    if User.objects.filter(username=username).exists() or looks_like_staff(username):
        raise AccountExists(_("The user name “%(name)s” is taken.") % {"name": username})
    user = User(email=email, username=username, password=hashed, **fields)
    user.save()
    EmailAddress.objects.create(user=user, email=email, verified=True, primary=True)
    return user


def ask_right_over(user: User, by: User | None) -> None:
    """The rule for everything an admin does to another account; None is the console, which may do all."""
    if by is not None and not by.is_superuser and (user.is_staff or not by.is_staff):
        raise NotAllowed(_("Only a super admin changes an admin's account."))


@transaction.atomic
def change_user(*, user: User, by: User | None, username: str, language: str, role: str) -> None:
    """Change what an admin, or for name and language the person themselves, may change. Raises `AccountExists`, `NotAllowed`.

    A changed role ends the account's sessions, so that rights never outlive it.
    """
    user = User.objects.select_for_update().get(pk=user.pk)
    if user.closing_at or user.closed_at:
        raise NotAllowed(_("This account is closed."))
    if by is None or by.pk != user.pk:
        ask_right_over(user, by)
    if role != user.role and by is not None and not by.is_superuser:
        raise NotAllowed(_("Only a super admin changes roles."))
    username = usernames.normalize(username)
    is_taken = User.objects.filter(username=username).exclude(pk=user.pk).exists()
    if is_taken or (username != user.username and looks_like_staff(username, except_for=user)):
        raise AccountExists(_("The user name “%(name)s” is taken.") % {"name": username})
    wanted = {"username": username, "language": language, "role": role}
    before = {name: getattr(user, name) for name, value in wanted.items() if getattr(user, name) != value}
    if not before:
        return
    for name in before:
        setattr(user, name, wanted[name])
    user.save(update_fields=before)
    if "role" in before:
        end_sessions(user)
    after = {name: wanted[name] for name in before}
    log_operation(by=by, action="user.changed", target=user, subject=user, before=before, after=after)


def end_sessions(user: User) -> None:
    """Sign the account out everywhere; its API tokens open nothing any more."""
    for session in UserSession.objects.filter(user=user):
        session.end()
    ApiToken.objects.filter(user=user, revoked_at=None).update(revoked_at=timezone.now())


def end_oldest_sessions(user: User) -> None:
    """Leave the account its newest `MOST_SESSIONS` browsers: the list of them is shown whole."""
    for session in UserSession.objects.filter(user=user).order_by("-created_at", "-pk")[MOST_SESSIONS:]:
        session.end()


@transaction.atomic
def ban_user(*, user: User, by: User | None, reason: str = "") -> bool:
    """Shut the account out at once, open sessions included; False when it was already.

    Raises `NotAllowed`. Announces `user_barred`.
    """
    ask_right_over(user, by)
    if by is not None and by.pk == user.pk:
        raise NotAllowed(_("You cannot ban yourself."))
    user = User.objects.select_for_update().get(pk=user.pk)
    if user.banned_at:
        return False
    user.banned_at = timezone.now()
    user.save(update_fields=["banned_at"])
    end_sessions(user)
    log_operation(by=by, action="user.banned", target=user, subject=user, reason=one_line(reason))
    queue.announce("user_barred", user.pk)
    return True


@transaction.atomic
def unban_user(*, user: User, by: User | None) -> bool:
    """Let a banned account in again; False when it was not banned. Raises `NotAllowed`. Announces `user_barred`."""
    ask_right_over(user, by)
    user = User.objects.select_for_update().get(pk=user.pk)
    if not user.banned_at:
        return False
    user.banned_at = None
    user.save(update_fields=["banned_at"])
    log_operation(by=by, action="user.unbanned", target=user, subject=user)
    queue.announce("user_barred", user.pk)
    return True


def with_factor(rows: QuerySet[User]) -> QuerySet[User]:
    """The accounts, each with `has_factor`, as `has_second_factor` says it."""
    factors = Authenticator.objects.filter(user=OuterRef("pk"), type__in=SECOND_FACTORS)
    return rows.annotate(has_factor=Exists(factors))


def has_second_factor(user: User) -> bool:
    """Whether the account has an authenticator app, a security key or a passkey."""
    return Authenticator.objects.filter(user=user, type__in=SECOND_FACTORS).exists()


@transaction.atomic
def use_up_code(authenticator: Authenticator, code: str) -> bool:
    """Take a code of an authenticator app that is right; False where it, or a later one, was taken before.

    The newest time step whose code was taken stands in the app's row (`last_step`), so that it holds whatever else is lost.
    """
    app = Authenticator.objects.select_for_update().filter(pk=authenticator.pk).first()
    if app is None:
        return False
    secret = decrypt(app.data["secret"])
    last = app.data.get("last_step", -1)
    for step in yield_hotp_counters_from_time():
        if step > last and compare_user_code(
            actual=code, expected=format_hotp_value(hotp_value(secret, step))
        ):
            app.data["last_step"] = step
            app.save(update_fields=["data"])
            return True
    return False


def enrol_second_factor(*, user: User, secret: str) -> None:
    """Give the account an authenticator app with this secret (base32), as set-up scripts need it."""
    TOTP.activate(user, secret)
    log_operation(
        by=None, action="second_factor.added", target=user, subject=user, kind=Authenticator.Type.TOTP
    )


@transaction.atomic
def reset_second_factor(*, user: User, by: User | None) -> int:
    """Remove every second factor of a person who lost it, sign them out everywhere and tell them; returns how many there were.

    Only a super admin may (`by` None is the console). Raises `NotAllowed`.
    """
    if by is not None and not (by.is_superuser and by.is_active):
        raise NotAllowed(_("Only a super admin resets a second factor."))
    kinds = list(Authenticator.objects.filter(user=user).values_list("type", flat=True))
    Authenticator.objects.filter(user=user).delete()
    end_sessions(user)
    entry = log_operation(by=by, action="second_factor.reset", target=user, subject=user, kinds=kinds)
    if kinds:
        notify(
            user=user,
            kind="second_factor_reset",
            key=f"second-factor-reset-{entry.pk}",
            context={"username": user.username, "url": settings.PUBLIC_URL + reverse("account_login")},
        )
    return len(kinds)
