"""People by the JSON API: signing up and in, their account."""

from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from derpmgmt.lib.api import Answer, Line, Moment, Pk

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
