"""Who asks: by a bearer token (RFC 6750), else by the session of the browser, which must then prove that its page asks (CSRF)."""

from contextlib import ExitStack
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.utils import translation
from django.utils.translation import gettext_lazy as _
from ninja.security import APIKeyCookie, HttpBearer
from ninja.utils import check_csrf

from accounts.access import tokens
from accounts.access.models import Scope
from accounts.models import User
from accounts.requests import used_second_factor
from accounts.services import acting, has_second_factor
from derpmgmt.lib.api import Failed, NotSignedIn


class ScopeMissing(Failed):
    """The token was not made for this."""

    status, code = 403, "scope_missing"
    sentence = _("This token was not made for that: it needs “%(scope)s”.")


class CsrfFailed(Failed):
    """A request with a session's cookie that no page of ours made."""

    status, code = 403, "csrf"
    sentence = _("The request has no valid X-CSRFToken header. With a token no such header is needed.")


class SecondFactorMissing(Failed):
    """Staff in whose session no second factor was used."""

    status, code = 403, "second_factor_missing"
    sentence = _("Confirm with your second factor first: without one the API does nothing for staff.")


class ApiRequest(HttpRequest):
    """A request as the API's functions get it; a type for annotations, never made."""

    user: User
    # What lasts as long as the request; ends with it.
    lasting: ExitStack
    token: tokens.Known | None
    ip: str
    is_language_asked: bool
    # What an operation's `prepare` gave (`accounts.access.rooms.Room.does`).
    prepared: Any


def enter(request: Any, user: User, token: tokens.Known | None) -> User:
    """Let the request be that person's: language, and what is written to the activity log."""
    request.user, request.token = user, token
    if not request.is_language_asked:
        request.lasting.enter_context(translation.override(user.language))
    name = token.name if token else ""
    request.lasting.enter_context(acting(user.pk, request.ip, name))
    return user


class Token(HttpBearer):
    """A token that was made for `scope`."""

    openapi_bearerFormat = "derp_…"

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        super().__init__()

    def __call__(self, request: HttpRequest) -> User | None:
        """The token's owner, None without one. As ninja's own, but for the header's place: it would make a mapping of all headers."""
        scheme, _space, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        return self.authenticate(request, token) if scheme.lower() == "bearer" else None

    def authenticate(self, request: Any, token: str) -> User:
        """The token's owner. Raises `NotSignedIn` (a wrong token never falls back to a session), `ScopeMissing`."""
        known = tokens.find_token(token.strip(), request.ip)
        if known is None:
            raise NotSignedIn
        user = enter(request, tokens.owner_of(known), known)
        if self.scope not in known.scopes:
            raise ScopeMissing(scope=self.scope.value)
        return user


class Session(APIKeyCookie):
    """The session of the browser, which may do whatever its person may."""

    param_name = settings.SESSION_COOKIE_NAME

    def __init__(self) -> None:
        super().__init__(csrf=False)  # checked here, in our shape

    def authenticate(self, request: Any, key: str | None) -> User | None:
        """The person who is signed in. Raises `CsrfFailed`, `SecondFactorMissing`."""
        if not key:
            return None
        engine = import_module(settings.SESSION_ENGINE)
        request.session = engine.SessionStore(key)
        user = get_user(request)
        if isinstance(user, AnonymousUser) or not user.is_active:
            return None
        enter(request, user, None)
        if check_csrf(request):
            raise CsrfFailed
        if user.is_staff and not (has_second_factor(user) and used_second_factor(request)):
            raise SecondFactorMissing
        return user


def caller(scope: Scope, *, or_stranger: bool = False) -> list[Any]:
    """For `auth=`: a token made for `scope`, else the browser's session. Tokens come first (a right one needs no CSRF check).

    With `or_stranger` also who brings neither; a token that does not count is refused all the same.
    """
    return [_BY_TOKEN[scope], _BY_SESSION, *([_as_stranger] if or_stranger else [])]


def _as_stranger(request: Any) -> bool:
    request.token = None
    return not request.headers.get("Authorization")


_BY_TOKEN = {scope: Token(scope) for scope in Scope}
_BY_SESSION = Session()
