"""The activity log by the JSON API."""

from typing import Annotated, Any

from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.rooms import Room
from accounts.models import OperationLog, User
from derpmgmt.lib.api import Listed, Moment, Output, PageQuery, Pk, cut_page

logs = Room("logs")


class LogFields(Output):
    """Who did what to whom, with which result.

    Customers read no more of what others did to their account than that it was done: no actor, address, target or details.
    """

    log_id: Pk = Field(examples=[31])
    at: Moment = Field(description="When it was done.")
    action: str = Field(examples=["user.signed_in"])
    action_name: str = Field(description="The action in words.", examples=["Signed in"])
    actor_id: int | None = Field(description="Who did it; null for the system, and for others' acts.")
    actor: str = Field(description="Their address; empty where `actor_id` is null.")
    subject_id: int | None = Field(description="To whose account; null for nobody's.")
    target: str = Field(description="What it was done to, in words.")
    is_success: bool = Field(description="Whether it went well.")
    ip: str | None = Field(description="From which IP address.", examples=["203.0.113.7"])
    token: str = Field(description="The name of the API token with which it was done.")
    detail: dict[str, Any] = Field(description="What else is known of it, by the action.")


class Logs(Listed):
    """Lines of the activity log."""

    logs: list[LogFields] = Field(description="The newest first.")


class LogsQuery(PageQuery):
    """Which lines."""

    action: str = Field(default="", max_length=48, description="Only this action, as in `action`.")
    actor: Pk | None = Field(default=None, description="The `user_id` of who did it.")
    subject: Pk | None = Field(default=None, description="The `user_id` of whose account it is about.")
    since: Moment | None = Field(default=None, description="From this moment on.")
    until: Moment | None = Field(default=None, description="Before this moment.")
    is_success: bool | None = Field(default=None, description="Only what went well, or what did not.")


def _fields(row: OperationLog, reader: User) -> dict[str, Any]:
    is_own = reader.is_staff or row.actor_id == reader.pk
    # Who tries at one's account from where concerns oneself.
    is_nobodys = row.actor_id is None
    return {
        "log_id": row.pk,
        "at": row.at,
        "action": row.action,
        "action_name": row.action_text,
        "actor_id": row.actor_id if is_own else None,
        "actor": str(row.actor) if is_own and row.actor else "",
        "subject_id": row.subject_id if reader.is_staff or row.subject_id == reader.pk else None,
        "target": row.target if is_own else "",
        "is_success": row.is_success,
        "ip": row.ip if is_own or is_nobodys else None,
        "token": str(row.detail.get("token", "")) if is_own else "",
        "detail": row.detail if is_own else {},
    }


@logs.reads("/system", Logs)
def logs_system(request: ApiRequest, query: Annotated[LogsQuery, Query()]) -> Logs:
    """The activity log: all of it for operators, for others what they did and what was done to their account."""
    rows = OperationLog.objects.visible_to(request.user).select_related("actor")
    wanted = {
        "action": query.action or None,
        "actor": query.actor,
        "subject": query.subject,
        "at__gte": query.since,
        "at__lt": query.until,
        "is_success": query.is_success,
    }
    rows = rows.filter(**{name: value for name, value in wanted.items() if value is not None})
    if not request.user.is_staff and query.actor not in {None, request.user.pk}:
        # Else one could find out who did something by asking for each.
        rows = rows.none()
    found, cursor = cut_page(rows, query, lambda row: _fields(row, request.user))
    return Logs(logs=found, next_cursor=cursor)
