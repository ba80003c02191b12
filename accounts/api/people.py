"""People by the JSON API: who asks, accounts, and closing them."""

from typing import Annotated, Any

from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts import services
from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room, accepted
from accounts.access.sign_in import ask_password
from accounts.access.subjects import ask_scope, ask_staff
from accounts.models import User
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import (
    Answer,
    Input,
    Line,
    Listed,
    Moment,
    NotFound,
    Output,
    PageQuery,
    Pk,
    Wait,
    cut_page,
    wait_for,
)

user = Room("user")


class Me(Answer):
    """The person who asks."""

    user_id: Pk = Field(examples=[7])
    email: str = Field(examples=["customer@example.com"])
    username: Line = Field(examples=["customer"])
    role: str = Field(description="user, distributor, admin or superadmin", examples=["user"])
    language: str = Field(description="zh-hans or en", examples=["zh-hans"])
    scopes: list[str] | None = Field(
        description="What the token was made for; null with a browser's session."
    )
    expires_at: Moment | None = Field(description="When the token ends; null for never, or with a session.")


@user.reads("/me", Me)
def user_me(request: ApiRequest) -> Me:
    """Who asks, and with what."""
    person, token = request.user, request.token
    return Me(
        user_id=person.pk,
        email=person.email,
        username=person.username,
        role=person.role,
        language=person.language,
        scopes=sorted(token.scopes) if token else None,
        expires_at=token.expires_at if token else None,
    )


class PersonFields(Output):
    """An account."""

    user_id: Pk = Field(examples=[7])
    email: str = Field(
        description="Of an account that is being closed or is closed: its number.",
        examples=["customer@example.com"],
    )
    username: str = Field(examples=["customer"])
    role: User.Role
    state: User.State
    language: str = Field(description="zh-hans or en", examples=["zh-hans"])
    has_second_factor: bool = Field(description="Whether there is an authenticator app or a passkey.")
    created_at: Moment = Field(description="When the account was made.")
    last_sign_in_at: Moment | None = Field(description="Null for never.")
    banned_at: Moment | None = Field(description="Since when the account is banned.")
    closing_at: Moment | None = Field(description="Since when the account is being closed.")
    closed_at: Moment | None = Field(description="When nothing of it was left.")


class Person(PersonFields, Answer):
    """An account."""


class People(Listed):
    """Accounts."""

    users: list[PersonFields] = Field(description="The newest first.")


class PeopleQuery(PageQuery):
    """Which accounts."""

    q: str = Field(
        default="",
        max_length=200,
        description="Words in address or user name; of a closed account its number, or the whole address it had.",
    )
    role: User.Role | None = Field(default=None, description="Only those of this role.")
    state: User.State | None = Field(default=None, description="Only those in this state.")


def _fields(row: Any) -> dict[str, Any]:
    return {
        "user_id": row.pk,
        "email": row.email,
        "username": row.username,
        "role": row.role,
        "state": row.state,
        "language": row.language,
        "has_second_factor": row.has_factor,
        "created_at": row.date_joined,
        "last_sign_in_at": row.last_login,
        "banned_at": row.banned_at,
        "closing_at": row.closing_at,
        "closed_at": row.closed_at,
    }


@user.reads("/list", People, scope=Scope.OPERATE)
def user_list(request: ApiRequest, query: Annotated[PeopleQuery, Query()]) -> People:
    """Accounts, for operators."""
    ask_staff(request)
    rows = User.objects.visible_to(request.user)
    if query.role:
        rows = rows.filter(role=query.role)
    if query.state:
        rows = rows.in_state(query.state)
    found, cursor = cut_page(services.search_people(services.with_factor(rows), query.q), query, _fields)
    return People(users=found, next_cursor=cursor)


def _find(request: ApiRequest, user_id: int) -> User:
    found = services.with_factor(User.objects.visible_to(request.user)).filter(pk=user_id).first()
    if found is None:
        raise NotFound
    return found


@user.reads("/{int:user_id}", Person)
def user_show(request: ApiRequest, user_id: Pk) -> Person:
    """An account: one's own, for operators anybody's."""
    return Person(**_fields(_find(request, user_id)))


class Release(Input):
    """The closing of an account."""

    password: str | None = Field(
        default=None, min_length=1, max_length=1000, description="One's own, to close one's own account."
    )
    reason: Line = Field(default="", description="Why an operator closes it; kept, so name no person.")


class Released(Answer):
    """An account that is closed, or being closed."""

    user_id: Pk = Field(examples=[7])
    state: User.State
    follow: str = Field(
        description="Where an operator follows it: the account's state is `closed` when nothing of it is left."
    )


@user.does("/{int:user_id}/release", Released, later=True)
def user_release(request: ApiRequest, user_id: Pk, payload: Release, wait: Wait = 0) -> Any:
    """Close an account for good: one's own with the password, for operators a customer's.

    The person is signed out at once; what stands on servers is taken down by jobs.
    """
    person, ip = _find(request, user_id), client_ip(request)
    reason = payload.reason
    if person.pk == request.user.pk:
        ask_password(request, user=person, password=payload.password or "")
        reason = services.OWN_WISH
    else:
        ask_scope(request, Scope.OPERATE)
    is_new = services.close_account(user=person, by=request.user, reason=reason, ip=ip)
    closed = User.objects.filter(pk=person.pk, closed_at__isnull=False)
    is_done = wait_for(lambda: closed.exists() or None, wait)
    text = _("The account is closed.") if is_done else _("The account is being closed.")
    if not is_new:
        text = _("This account is closed already.") if is_done else _("This account is being closed already.")
    state = User.State.CLOSED if is_done else User.State.CLOSING
    answer = Released(user_id=person.pk, state=state, follow=f"/api/v1/user/{person.pk}", message=text)
    return answer if is_done else accepted(answer)
