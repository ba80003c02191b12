"""Browsers in which an account has signed in before: a signed cookie says so, for a year after the last visit.

It opens nothing. Whoever guesses at an account from elsewhere uses up what is left for strangers, and not what is left for its owner.
"""

import secrets
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.core import signing
from django.http import HttpRequest, HttpResponse

COOKIE = "derpmgmt_browser"
LASTS = timedelta(days=365)
# Written anew when it is older than this.
RENEWED_AFTER = timedelta(days=30)
_SALT = "accounts.browsers"
# Accounts that one browser is known for, the latest first.
_MOST = 8


def _read(request: HttpRequest, lasts: timedelta = LASTS) -> dict[str, Any]:
    """What the cookie says: the browser's name and its accounts' primary keys; both empty without one, or with a forged or old one."""
    try:
        found = signing.loads(request.COOKIES.get(COOKIE, ""), salt=_SALT, max_age=lasts)
        return {"name": str(found["name"]), "users": [int(pk) for pk in found["users"]]}
    except (signing.BadSignature, KeyError, TypeError, ValueError):
        return {"name": "", "users": []}


def name_of(request: HttpRequest, user_pk: int | None) -> str:
    """The name of this browser when that account has signed in here before, else ""."""
    found = _read(request)
    return found["name"] if user_pk in found["users"] else ""


def remember(request: HttpRequest, response: HttpResponse) -> None:
    """Keep in the browser that whoever is signed in has signed in here; written once and then renewed from time to time."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or user.pk in _read(request, RENEWED_AFTER)["users"]:
        return
    found = _read(request)
    others = [pk for pk in found["users"] if pk != user.pk]
    value = {"name": found["name"] or secrets.token_hex(8), "users": [user.pk, *others][:_MOST]}
    response.set_cookie(
        COOKIE,
        signing.dumps(value, salt=_SALT),
        max_age=LASTS,
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Lax",
    )
