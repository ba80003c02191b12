"""Requests as views behind `login_required` get them."""

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
