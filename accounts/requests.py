"""Requests as views behind `login_required` get them."""

from allauth.account.authentication import get_authentication_records
from django.http import HttpRequest
from django_htmx.middleware import HtmxDetails

from accounts.models import User


class SignedInRequest(HttpRequest):
    """A request of somebody who is signed in; a type for annotations, never made."""

    user: User
    htmx: HtmxDetails


def staff_of(request: HttpRequest) -> User:
    """Who asks, on a page that only staff reaches."""
    assert isinstance(request.user, User)
    return request.user


def used_second_factor(request: HttpRequest) -> bool:
    """Whether this session was signed in, or confirmed since, with an authenticator, a passkey or a recovery code."""
    user = request.user
    return any(record.get("method") == "mfa" for record in get_authentication_records(request, user))
