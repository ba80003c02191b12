"""Whom a request of the API is about, and whether who asks may act for others."""

from django.utils.translation import gettext as _

from accounts.access.auth import ApiRequest, ScopeMissing
from accounts.access.models import Scope
from accounts.models import User
from accounts.services import NotAllowed
from derpmgmt.lib.api import NotFound


def find_person(request: ApiRequest, user_id: int | None, *, acts: bool = False) -> User:
    """The person with that number, or, without one, who asks. `acts`: something is changed for them, so for others a token must be
    made to operate.

    Raises `NotFound` where who asks may not see that person, `ScopeMissing`.
    """
    if user_id is None or user_id == request.user.pk:
        return request.user
    found = User.objects.visible_to(request.user).filter(pk=user_id).first()
    if found is None:
        raise NotFound(field="user_id")
    if acts:
        ask_scope(request, Scope.OPERATE)
    return found


def ask_scope(request: ApiRequest, scope: Scope) -> None:
    """Raises `ScopeMissing` where the request comes with a token that was not made for `scope`."""
    if request.token is not None and scope not in request.token.scopes:
        raise ScopeMissing(scope=scope.value)


def ask_staff(request: ApiRequest) -> None:
    """Raises `NotAllowed` for everybody but operators."""
    if not (request.user.is_staff and request.user.is_active):
        raise NotAllowed(_("Only operators may do this."))
