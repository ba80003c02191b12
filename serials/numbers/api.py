"""Serial numbers by the JSON API: made, looked up, listed, recalled; and renewing with one, or by an operator's word.

Redeeming with an answer that waits for the relays crosses rooms: `derpmgmt/rental_api.py`.
"""

from datetime import date, datetime
from typing import Annotated, Any

from django.core.exceptions import ValidationError
from django.utils import timezone
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from ninja import Query
from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import ask_scope, ask_staff, find_person
from accounts.models import User
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.api import Answer, Failed, Input, Line, Listed, Moment, NotFound, Output, PageQuery, Pk
from derpmgmt.lib.api.paging import cut_page
from fleet.models import Server
from serials.numbers import codes, services, tries
from serials.numbers.forms import LONGEST_TYPED
from serials.numbers.models import SerialNumber
from serials.numbers.wording import redeemed
from serials.rentals.admin_acts import renewed_sentence
from serials.rentals.api import Renewed, answer_renewed
from serials.rentals.forms import end_of_day
from serials.rentals.limits import AtQuota
from serials.rentals.models import Redemption, Rental
from serials.rentals.services import NothingToRenew, renew_rental
from serials.rentals.wording import BYTES_PER_GB, BYTES_PER_MBIT

serial = Room("serial")
user = Room("user")

Status = SerialNumber.Status
# A code as people have it: grouped or not, with O for 0, or in the middle of the message that it came in.
Code = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_TYPED,
        description="As it was given out; groups, spaces, and small letters do not matter.",
        examples=["K7QW-29XM-4TR8-C3NV-B6HJ"],
    ),
]

_Quota = Annotated[int, Field(ge=BYTES_PER_GB, le=10**6 * BYTES_PER_GB)] | None


def _read_end(text: str) -> str:
    read_end(text)
    return text


def read_end(text: str) -> datetime:
    """The moment that `end_date` names: itself, or the end of a day of the panel's time zone."""
    try:
        if day := parse_date(text):
            return end_of_day(day)
        moment = parse_datetime(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise PydanticCustomError("datetime_or_day", "no day and no time with a zone")
    return moment


class Generating(Input):
    """A batch of serial numbers that is to be made."""

    count: int = Field(ge=1, le=10_000, description="Serial numbers.", examples=[10])
    duration_days: int = Field(ge=1, le=3660, description="Days that each one gives.", examples=[30])
    name: Annotated[Line, Field(max_length=80)] = Field(
        "", description="What operators call the batch; without one it is the day.", examples=["spring"]
    )
    redeem_by: date | None = Field(None, description="The last day for redeeming; null for no limit.")
    is_paid: bool = Field(
        default=False,
        description="For super admins. Unpaid ones cannot be redeemed until a super admin says that they are paid for.",
    )
    device_limit: int = Field(20, ge=1, le=1000, description="Devices that may be approved.")
    quota_bytes: _Quota = Field(None, description="Traffic a month, both ways together; null for no limit.")
    upload_quota_bytes: _Quota = Field(None, description="What devices send a month; null for no limit.")
    download_quota_bytes: _Quota = Field(
        None, description="What is sent to devices a month; null for no limit."
    )
    rate_bytes_per_second: int | None = Field(
        None, ge=BYTES_PER_MBIT, le=10**5 * BYTES_PER_MBIT, description="For each device; null for no limit."
    )
    at_quota: AtQuota = Field(AtQuota.NOTHING, description="What happens at the allowance.")
    grace_days: int | None = Field(
        None,
        ge=0,
        le=366,
        description="Everything runs on so long after the end; null: as set for the panel.",
    )
    may_open: bool = Field(default=True, description="Whether device checking may be switched off.")
    server_ids: list[Pk] = Field(
        default_factory=list,
        max_length=1000,
        description="Relays are placed on these only: three at least, or none for all.",
    )


class Generated(Answer):
    """A new batch with its serial numbers; here they are told, and afterwards only by an export, which is logged."""

    batch_id: Pk = Field(examples=[3])
    serial_numbers: list[str] = Field(examples=[["K7QW-29XM-4TR8-C3NV-B6HJ"]])


class SerialAnswer(Answer):
    """What is known of a serial number."""

    serial_id: Pk = Field(examples=[41])
    serial_code: str = Field(description="Masked.", examples=["••••-B6HJ"])
    status: Status
    can_redeem: bool = Field(description="Whether who asks could redeem it now; if not, `message` says why.")
    reason: str = Field(description="Why not, for programs; empty where it can.", examples=["expired"])
    duration_days: int = Field(description="Days that it gives.", examples=[30])
    redeem_by: date | None = Field(description="The last day for redeeming; null for no limit.")
    redeemed_at: Moment | None = Field(description="Null while nobody has.")
    batch_id: Pk | None = Field(description="For operators; to others null.")
    user_id: Pk | None = Field(description="Who redeemed it.")


class SerialRow(Output):
    """A serial number in the list."""

    serial_id: Pk = Field(examples=[41])
    serial_code: str = Field(description="Masked.", examples=["••••-B6HJ"])
    batch_id: Pk = Field(examples=[3])
    batch_name: str = Field(examples=["spring"])
    duration_days: int = Field(description="Days that it gives.", examples=[30])
    status: Status
    redeemed_at: Moment | None = Field(description="Null while nobody has.")
    user_id: Pk | None = Field(description="Who redeemed it.")
    email: str | None = Field(description="Their address.")


class SerialQuery(PageQuery):
    """Which serial numbers."""

    batch_id: Pk | None = Field(None, description="Those of this batch.")
    status: Status | None = Field(None, description="Those in this state.")
    q: str = Field(
        "",
        max_length=200,
        description="A whole serial number, its last four characters, or the customer's address.",
    )


class Serials(Listed):
    """Serial numbers."""

    serials: list[SerialRow] = Field(description="The page's rows.")


class Renewing(Input):
    """What a rental is renewed by: a serial number, or, for operators, the end that it is to have."""

    user_id: Pk | None = Field(None, description="Whose; without it one's own. For operators.")
    serial_code: Code | None = Field(None, description="Its time starts where the rental ends.")
    end_date: Annotated[str, Field(max_length=40), AfterValidator(_read_end)] | None = Field(
        None,
        description="The last day in the panel's time zone, until whose end it runs, or a moment with its zone.",
        examples=["2026-12-31", "2026-12-31T16:00:00Z"],
    )
    note: Line = Field("", description="Why, for the history; with `end_date`.")


class UnknownServers(Failed):
    """A batch is to be bound to servers that are none."""

    status, code, field = 422, "invalid", "server_ids"
    sentence = gettext_lazy("There is no such server.")


class OneOfThem(Failed):
    """Renewing takes either a code or an end."""

    status, code, field = 422, "invalid", "serial_code"
    sentence = gettext_lazy("Send either serial_code or end_date.")


@serial.does("/generate", Generated, scope=Scope.SELL, creates=True)
def serial_generate(request: ApiRequest, body: Generating) -> Generated:
    """Make serial numbers, for operators."""
    ask_staff(request)
    servers = list(Server.objects.visible_to(request.user).filter(pk__in=body.server_ids))
    if len(servers) < len(set(body.server_ids)):
        raise UnknownServers
    values = body.model_dump(exclude={"duration_days", "server_ids", "name"})
    try:
        batch = services.create_batch(
            by=request.user,
            name=body.name or f"API {timezone.localdate():%Y-%m-%d}",
            days=body.duration_days,
            servers=servers,
            **values,
        )
    except ValidationError as error:
        named = {"servers": "server_ids", "days": "duration_days"}
        raise ValidationError(
            {named.get(name, name): texts for name, texts in error.error_dict.items()}
        ) from error
    made = services.reveal_batch(batch=batch, by=request.user)
    return Generated(
        message=_("Batch %(batch)s is made.") % {"batch": batch},
        batch_id=batch.pk,
        serial_numbers=[codes.group(row.code) for row in made],
    )


@serial.reads("/status/{code}", SerialAnswer)
def serial_status(request: ApiRequest, code: Code) -> SerialAnswer:
    """Whether a serial number can be redeemed. What somebody else redeemed is shown to operators only; wrong ones count as tries."""
    with tries.counted(request):
        found, refusal = services.look_up_serial(code=code, user=request.user, ip=client_ip(request))
    redemption = found.redemption
    return SerialAnswer(
        message=str(refusal) if refusal else _("This serial number is valid"),
        serial_id=found.pk,
        serial_code=found.masked,
        status=Status(found.status),
        can_redeem=refusal is None,
        reason=refusal.code if refusal else "",
        duration_days=found.batch.days,
        redeem_by=found.batch.redeem_by,
        redeemed_at=found.redeemed_at,
        batch_id=found.batch_id if request.user.is_staff else None,
        user_id=redemption.rental.user_id if redemption else None,
    )


@serial.reads("/list", Serials)
def serial_list(request: ApiRequest, query: Annotated[SerialQuery, Query()]) -> Serials:
    """Serial numbers, for operators: masked, the newest first."""
    ask_staff(request)
    rows = services.search_serials(SerialNumber.objects.visible_to(request.user), query.q)
    if query.batch_id is not None:
        rows = rows.filter(batch=query.batch_id)
    if query.status is not None:
        rows = rows.filter(status=query.status)
    customer = "redemption__rental__user"
    columns = rows.values(
        "id", "code_end", "batch_id", "batch__name", "batch__days", "status", "redeemed_at", f"{customer}_id", f"{customer}__email"
    )  # fmt: skip
    serials, next_cursor = cut_page(columns, query, _describe_row)
    return Serials(serials=serials, next_cursor=next_cursor)


def _describe_row(row: dict[str, Any]) -> SerialRow:
    return SerialRow(
        serial_id=row["id"],
        serial_code=SerialNumber(code_end=row["code_end"]).masked,
        batch_id=row["batch_id"],
        batch_name=row["batch__name"],
        duration_days=row["batch__days"],
        status=row["status"],
        redeemed_at=row["redeemed_at"],
        user_id=row["redemption__rental__user_id"],
        email=row["redemption__rental__user__email"],
    )


@serial.does("/{serial_id}/recall", SerialAnswer, scope=Scope.SELL)
def serial_recall(request: ApiRequest, serial_id: Pk) -> SerialAnswer:
    """Take an unused serial number back for good, for operators."""
    rows = SerialNumber.objects.visible_to(request.user).select_related("batch", "redemption__rental")
    found = rows.filter(pk=serial_id).first()
    if found is None:
        raise NotFound
    services.recall_serial(serial=found, by=request.user)
    return SerialAnswer(
        message=_("%(serial)s is recalled and can no longer be redeemed.") % {"serial": found},
        serial_id=found.pk,
        serial_code=found.masked,
        status=Status.RECALLED,
        can_redeem=False,
        reason=services.SerialRecalled.code,
        duration_days=found.batch.days,
        redeem_by=found.batch.redeem_by,
        redeemed_at=None,
        batch_id=found.batch_id,
        user_id=None,
    )


def redeem_for(
    request: ApiRequest, person: User, code: str, *, start_now: bool = False
) -> tuple[Redemption, str]:
    """Redeem a code for `person`; the redemption, and what to say of it. A wrong code counts as a try of who asks.

    Raises what `services.redeem_serial` raises, and `TooManyRequests`.
    """
    with tries.counted(request):
        redemption = services.redeem_serial(
            code=code, user=person, by=request.user, ip=client_ip(request), start_now=start_now
        )
    is_own = person.pk == request.user.pk
    return redemption, redeemed(redemption) if is_own else renewed_sentence(redemption)


@user.does("/renew", Renewed, creates=True)
def user_renew(request: ApiRequest, body: Renewing) -> Renewed:
    """Give a rental more time: by a serial number, or, for operators, until `end_date`, with the terms it had last."""
    if (body.serial_code is None) == (body.end_date is None):
        raise OneOfThem
    person = find_person(request, body.user_id, acts=True)
    if body.serial_code is not None:
        redemption, message = redeem_for(request, person, body.serial_code)
        return answer_renewed(redemption.rental, message)
    assert body.end_date is not None
    ask_staff(request)
    ask_scope(request, Scope.OPERATE)
    rental = Rental.objects.visible_to(request.user).select_related("user").filter(user=person).first()
    if rental is None:
        raise NothingToRenew
    redemption = renew_rental(rental=rental, until=read_end(body.end_date), by=request.user, note=body.note)
    return answer_renewed(redemption.rental, renewed_sentence(redemption))
