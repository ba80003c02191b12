"""Coming in by the JSON API: signing up, in and out."""

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from pydantic import Field

from accounts import services
from accounts.access import sign_in, sign_up
from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.api.people import Me
from accounts.models import User
from derpmgmt.lib.api import Answer, Failed, Input, Pk

user = Room("user")

_EMAIL = Field(max_length=254, examples=["customer@example.com"])
_PASSWORD = Field(min_length=1, max_length=1000, examples=["quiet-river-42"])


class CodeMissing(Failed):
    """Somebody who is no operator makes an account without a code."""

    status, code = 422, "invalid"
    sentence = gettext_lazy("This is missing.")
    field = "verification_code"


class SessionStays(Failed):
    """A browser's session is ended in the browser."""

    status, code = 409, "no_token"
    sentence = gettext_lazy("This request came with the browser's session: sign out in the browser.")


class CodeWanted(Input):
    """Where the code is to go."""

    email: str = _EMAIL


class CodeSent(Answer):
    """A mail is on its way, whether the address has an account or not."""


@user.does("/send_code", CodeSent, scope=None)
def user_send_code(request: ApiRequest, payload: CodeWanted) -> CodeSent:
    """Mail a code with which an account is made; an address that has one is told so by the mail."""
    sign_up.send_code(request, payload.email)
    return CodeSent(message=_("A mail is on its way."))


class Registration(Input):
    """A new account."""

    email: str = _EMAIL
    username: str = Field(
        default="", max_length=100, description="Made from the address where it is left out."
    )
    password: str | None = Field(
        default=None, min_length=1, max_length=1000, description="Operators may leave it out."
    )
    verification_code: str | None = Field(
        default=None,
        max_length=20,
        description="From the mail that `send_code` sends. Operators may leave it out.",
        examples=["123456"],
    )


class Registered(Answer):
    """An account that was made."""

    user_id: Pk = Field(examples=[7])
    username: str = Field(examples=["customer"])


def _prepare(request: ApiRequest, payload: Registration) -> sign_up.Wanted:
    code, password = payload.verification_code, payload.password or ""
    if code is None:
        if not (request.user.is_authenticated and request.user.is_staff):
            raise CodeMissing
        email, username = sign_up.check_wanted(
            request,
            email=payload.email,
            username=payload.username,
            password=password,
            is_password_needed=False,
        )
        return sign_up.Wanted(email, username, "")
    return sign_up.take_code(
        request, email=payload.email, username=payload.username, password=password, code=code
    )


@user.does("/register", Registered, scope=Scope.OPERATE, or_stranger=True, creates=True, prepare=_prepare)
def user_register(request: ApiRequest, payload: Registration) -> Registered:
    """Make an account, with the code that `send_code` mailed; operators with a token or session make them without."""
    wanted: sign_up.Wanted = request.prepared
    if payload.verification_code is None:
        made = services.create_user(
            email=wanted.email, username=wanted.username, password=payload.password, by=request.user
        )
    else:
        made = sign_up.sign_up(request, wanted, payload.verification_code)
    return Registered(user_id=made.pk, username=made.username, message=_("The account is made."))


class Login(Input):
    """Who comes in."""

    email: str = _EMAIL
    password: str = _PASSWORD
    code: str = Field(
        default="",
        max_length=20,
        description="Of the authenticator app, or a recovery code; for accounts with a second factor.",
        examples=["123456"],
    )


class SignedIn(Me):
    """A token, and whose it is."""

    token: str = Field(
        description="Sent as `Authorization: Bearer …` from now on; shown only here.",
        examples=["derp_…"],
    )


@user.does("/login", SignedIn, scope=None)
def user_login(request: ApiRequest, payload: Login) -> SignedIn:
    """A token for an hour, with all scopes of the role."""
    token, text = sign_in.sign_in(request, email=payload.email, password=payload.password, code=payload.code)
    person: User = token.user
    return SignedIn(
        token=text,
        user_id=person.pk,
        email=person.email,
        username=person.username,
        role=person.role,
        language=person.language,
        scopes=sorted(token.scopes.split()),
        expires_at=token.expires_at,
        message=_("You are signed in."),
    )


class SignedOut(Answer):
    """The token opens nothing any more."""


@user.does("/logout", SignedOut, scope=Scope.READ)
def user_logout(request: ApiRequest) -> SignedOut:
    """Revoke the token with which this is asked."""
    if request.token is None:
        raise SessionStays
    sign_in.sign_out(request, user=request.user, token_pk=request.token.pk)
    return SignedOut(message=_("The token opens nothing any more."))
