"""Notices by the JSON API: what operators write to people, and what oneself was told."""

from typing import Annotated, Any

from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts import services
from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.models import Notice, User
from derpmgmt.lib.api import Answer, Input, Listed, Moment, NotFound, Output, PageQuery, Pk, cut_page

notifications = Room("notifications")


class Letter(Input):
    """What an operator writes to somebody."""

    user_id: Pk = Field(examples=[7])
    subject: str = Field(min_length=1, max_length=150, description="One line.", examples=["About your relay"])
    text: str = Field(min_length=1, max_length=5000, description="Plain text; empty lines make paragraphs.")


class LetterSent(Answer):
    """It leaves as soon as the mail server and the person's channels take it."""

    notice_ids: list[Pk] = Field(description="One for each way by which it goes.")


@notifications.does("/send", LetterSent, scope=Scope.OPERATE, creates=True)
def notifications_send(request: ApiRequest, payload: Letter) -> LetterSent:
    """Write to somebody, by e-mail and by their own channels; for operators."""
    person = User.objects.visible_to(request.user).filter(pk=payload.user_id).first()
    if person is None:
        raise NotFound(field="user_id")
    made = services.write_to(user=person, by=request.user, subject=payload.subject, text=payload.text)
    return LetterSent(
        notice_ids=[notice.pk for notice in made],
        message=_("The message to %(user)s is on its way.") % {"user": person},
    )


class NoticeFields(Output):
    """Something that one was told, by one way."""

    notice_id: Pk = Field(examples=[12])
    kind: str = Field(examples=["rental_ending"])
    kind_name: str = Field(description="The kind in words.")
    channel: Notice.By = Field(description="By which way.")
    state: Notice.State = Field(description="`dropped`: it was no longer the case and was not sent.")
    created_at: Moment = Field(description="When there was something to tell.")
    sent_at: Moment | None = Field(description="When it was taken; null for not yet, or never.")


class Notices(Listed):
    """What one was told."""

    notifications: list[NoticeFields] = Field(description="The newest first.")


class NoticesQuery(PageQuery):
    """Which notices."""

    kind: str = Field(default="", max_length=32, description="Only those of this kind.")
    state: Notice.State | None = Field(default=None, description="Only those in this state.")


def _fields(row: Notice) -> dict[str, Any]:
    return {
        "notice_id": row.pk,
        "kind": row.kind,
        "kind_name": row.kind_text,
        "channel": row.channel,
        "state": row.state,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
    }


@notifications.reads("/list", Notices)
def notifications_list(request: ApiRequest, query: Annotated[NoticesQuery, Query()]) -> Notices:
    """One's own notices."""
    rows = Notice.objects.filter(user=request.user)
    if query.kind:
        rows = rows.filter(kind=query.kind)
    if query.state:
        rows = rows.filter(state=query.state)
    found, cursor = cut_page(rows.defer("context", "address"), query, _fields)
    return Notices(notifications=found, next_cursor=cursor)
