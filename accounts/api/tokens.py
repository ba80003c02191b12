"""Tokens by the JSON API: looking at them and revoking them, and making one in the browser's session."""

from typing import Any

from allauth.account.internal.flows.reauthentication import did_recently_reauthenticate
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import Field

from accounts.access import tokens
from accounts.access.auth import ApiRequest
from accounts.access.models import ApiToken, Scope
from accounts.access.rooms import Room
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Answer, Failed, Input, Moment, NotFound, Output, Pk

user = Room("user")


class SessionNeeded(Failed):
    """A token was to make a token."""

    status, code = 403, "session_needed"
    sentence = gettext_lazy("A token makes no tokens: make one on the account's page, in the browser.")


class PasswordNeeded(Failed):
    """The session is old, and a token is worth a password."""

    status, code = 403, "reauthentication_needed"
    sentence = gettext_lazy("Confirm who you are first: make the token on the account's page.")


class TokenFields(Output):
    """A token, without its text."""

    token_id: Pk = Field(examples=[3])
    name: str = Field(examples=["backup script"])
    ends_in: str = Field(description="The last characters of its text.", examples=["x7Qa"])
    scopes: list[Scope] = Field(description="What it may be used for.")
    created_at: Moment = Field(description="When it was made.")
    expires_at: Moment | None = Field(description="When it ends; null for never.")
    revoked_at: Moment | None = Field(description="Null where it counts still.")
    last_used_at: Moment | None = Field(description="To the minute; null for never.")
    last_used_ip: str | None = Field(description="From which IP address.", examples=["203.0.113.7"])


class Tokens(Answer):
    """One's own tokens, the newest first; those of signing in by the API are none of them."""

    tokens: list[TokenFields] = Field(description="Also those that have ended, for three months.")


class NewToken(Input):
    """What a token is to be for."""

    name: str = Field(min_length=1, max_length=60, examples=["backup script"])
    scopes: list[Scope] = Field(min_length=1, max_length=4, examples=[["read"]])
    expires_at: Moment | None = Field(default=None, description="When it ends; null for never.")


class MadeToken(TokenFields, Answer):
    """A new token."""

    token: str = Field(description="Its text; shown only here.", examples=["derp_…"])


def _fields(row: ApiToken) -> dict[str, Any]:
    return {
        "token_id": row.pk,
        "name": row.name,
        "ends_in": row.hint,
        "scopes": row.scopes.split(),
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "revoked_at": row.revoked_at,
        "last_used_at": row.last_used_at,
        "last_used_ip": row.last_used_ip,
    }


@user.reads("/tokens", Tokens)
def user_tokens(request: ApiRequest) -> Tokens:
    """One's own tokens."""
    return Tokens(tokens=[TokenFields(**_fields(row)) for row in tokens.shown_tokens(request.user)])


@user.does("/tokens", MadeToken, creates=True)
def user_make_token(request: ApiRequest, payload: NewToken) -> MadeToken:
    """Make a token; only by the session of a browser in which the password was typed lately."""
    if request.token is not None:
        raise SessionNeeded
    if not did_recently_reauthenticate(request):
        raise PasswordNeeded
    token, text = tokens.create_token(
        user=request.user,
        name=payload.name,
        scopes=payload.scopes,
        expires_at=payload.expires_at,
        ip=client_ip(request),
    )
    return MadeToken(
        token=text, message=_("The token is made. Its text is shown only this once."), **_fields(token)
    )


class Revoked(Answer):
    """The token opens nothing any more."""


@user.does("/tokens/{int:token_id}", Revoked, method="DELETE")
def user_revoke_token(request: ApiRequest, token_id: Pk) -> Revoked:
    """Revoke one of one's own tokens, also the one with which this is asked."""
    token = ApiToken.objects.visible_to(request.user).filter(pk=token_id).first()
    if token is None:
        raise NotFound
    is_new = tokens.revoke_token(token=token, by=request.user, ip=client_ip(request))
    return Revoked(message=_("The token is revoked.") if is_new else _("This token was revoked already."))
