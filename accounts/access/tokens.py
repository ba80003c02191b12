"""Tokens: made, found by what a request brings, revoked."""

import copy
import secrets
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from accounts.access.models import ApiToken, ApiTokenQuerySet, Scope
from accounts.models import User
from accounts.services import NotAllowed, has_second_factor, log_operation
from derpmgmt.lib.crypto import keyed_hash
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.refusals import Refusal

# How every token begins, so that people and programs that look for leaked secrets know one.
PREFIX = "derp_"
SIGN_IN_LASTS = timedelta(hours=1)
MOST_TOKENS = 50
# What a request finds is kept so long by each process, as gates' secrets are: so late a revocation counts at most.
_KNOWN_SECONDS = 1.0
_MOST_KNOWN = 10_000
# When and where a token was last used is written this often at most.
_USE_NOTED_EVERY = timedelta(minutes=1)

_ROLE_SCOPES = {
    User.Role.USER: {Scope.READ, Scope.ACT},
    User.Role.DISTRIBUTOR: {Scope.READ, Scope.ACT, Scope.SELL},
    User.Role.ADMIN: set(Scope),
    User.Role.SUPERADMIN: set(Scope),
}


class TokenRefused(Refusal):
    """A token is not made."""

    code = "token_refused"


@dataclass(frozen=True)
class Known:
    """What is known of a token that counts: its row's key, name and scopes, and its owner."""

    pk: int
    name: str
    scopes: frozenset[str]
    user: User
    expires_at: datetime | None


_known: dict[str, tuple[float, Known | None]] = {}
_known_lock = threading.Lock()


def scopes_of(user: User) -> list[Scope]:
    """What a token of this person may be made for, in the order in which it is shown."""
    return [scope for scope in Scope if scope in _ROLE_SCOPES[User.Role(user.role)]]


@transaction.atomic
def create_token(
    *,
    user: User,
    name: str,
    scopes: Collection[str],
    expires_at: datetime | None,
    is_sign_in: bool = False,
    ip: str | None = None,
    newest: int | None = None,
) -> tuple[ApiToken, str]:
    """A new token and its text, which is nowhere else. `newest` is the primary key of the newest token that its owner was shown (0 for
    none): with a newer one this is a second click.

    Raises `TokenRefused`, and `NotAllowed` for staff without a second factor.
    """
    user = User.objects.select_for_update().get(pk=user.pk)
    if not user.is_active:
        raise NotAllowed(_("This account is closed or banned."))
    if user.is_staff and not has_second_factor(user):
        raise NotAllowed(_("Set up a second factor first: staff make no token without one."))
    if newest is not None and shown_tokens(user).filter(pk__gt=newest).exists():
        raise TokenRefused(
            _(
                "A token was made since you opened this page, maybe by a second click: its text was shown there. If you do not have it, revoke that token and make another."
            )
        )
    name, now = one_line(name)[:60], timezone.now()
    if not name:
        raise TokenRefused(_("Give the token a name."), field="name")
    wanted = {str(scope) for scope in scopes}
    if not wanted or not wanted <= {str(scope) for scope in scopes_of(user)}:
        raise TokenRefused(_("A token of this account cannot be made for that."), field="scopes")
    if expires_at is not None and expires_at <= now:
        raise TokenRefused(_("The token would not be valid any more."), field="expires_at")
    own = ApiToken.objects.filter(user=user, is_sign_in=is_sign_in).valid(now)
    if is_sign_in:
        # Whoever signs in again and again has the newest ones.
        for pk in own.order_by("-pk").values_list("pk", flat=True)[MOST_TOKENS - 1 :]:
            ApiToken.objects.filter(pk=pk).delete()
    elif own.count() >= MOST_TOKENS:
        raise TokenRefused(_("There are %(count)d tokens already. Revoke one first."), count=MOST_TOKENS)
    text = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken.objects.create(
        user=user,
        name=name,
        scopes=" ".join(scope for scope in Scope if scope in wanted),
        token_hash=_hash(text),
        hint=text[-4:],
        expires_at=expires_at,
        is_sign_in=is_sign_in,
    )
    if not is_sign_in:
        log_operation(by=user, action="token.created", target=token, subject=user, ip=ip, scopes=token.scopes)
    return token, text


def shown_tokens(user: User) -> ApiTokenQuerySet:
    """The tokens that their owner made, the newest first: also those that have ended, until they are deleted."""
    return ApiToken.objects.visible_to(user).filter(is_sign_in=False).order_by("-pk")


def revoke_token(*, token: ApiToken, by: User, ip: str | None = None) -> bool:
    """The token opens nothing any more; False when it did not before."""
    with transaction.atomic():
        revoked = ApiToken.objects.filter(pk=token.pk, revoked_at=None).update(revoked_at=timezone.now())
        if revoked and not token.is_sign_in:
            log_operation(by=by, action="token.revoked", target=token, subject=token.user, ip=ip)
    return bool(revoked)


def find_token(text: str, ip: str) -> Known | None:
    """What the token is and whose, when it counts; one indexed read, or none within a second of the last one.

    Notes when and from where it was used.
    """
    if not text.startswith(PREFIX) or len(text) > 100:
        return None
    hashed, moment = _hash(text), time.monotonic()
    kept = _known.get(hashed)
    if kept is None or not 0 <= moment - kept[0] < _KNOWN_SECONDS:
        kept = (moment, _read(hashed, ip))
        with _known_lock:
            if len(_known) >= _MOST_KNOWN:
                _known.clear()
            _known[hashed] = kept
    known = kept[1]
    if known is None or (known.expires_at is not None and known.expires_at <= timezone.now()):
        return None
    return known


def owner_of(known: Known) -> User:
    """The token's owner, as an object that the request may change."""
    # What copy.copy does, without its detour by pickling: each request does it.
    user = User.__new__(User)
    user.__dict__.update(known.user.__dict__)
    user._state = copy.copy(known.user._state)
    return user


def forget_known() -> None:
    """Read every token anew; for tests, where a second does not pass."""
    _known.clear()


def _hash(text: str) -> str:
    return keyed_hash("api-token", text)


def _read(hashed: str, ip: str) -> Known | None:
    now = timezone.now()
    row = ApiToken.objects.valid(now).select_related("user").filter(token_hash=hashed).first()
    if row is None or not row.user.is_active:
        return None
    if row.last_used_at is None or row.last_used_at <= now - _USE_NOTED_EVERY or row.last_used_ip != ip:
        # Another process may just have written it: once is enough.
        ApiToken.objects.filter(pk=row.pk, last_used_at=row.last_used_at).update(
            last_used_at=now, last_used_ip=ip
        )
    return Known(row.pk, row.name, frozenset(row.scopes.split()), row.user, row.expires_at)
