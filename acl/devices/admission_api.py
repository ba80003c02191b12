"""Admission by the JSON API: who asked to be let in, and what a relay would be told about a device."""

from typing import Literal

from django.utils import timezone
from django.utils.translation import gettext as _
from ninja import Query
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import find_person
from acl.devices import services
from acl.devices.api import NODE_KEY, USER_ID, rental_of
from acl.devices.models import Admission
from acl.devices.node_keys import NoNodeKey, parse_node_key
from acl.maps.services import active_config
from containers.derp.keys import format_node_key
from containers.models import Relay
from derpmgmt.lib.api import Answer, Input, Line, Listed, Moment, NotFound, Output, PageQuery, Pk, cut_page
from serials.rentals.models import Rental

device = Room("device")
acl = Room("acl")


class AdmissionQuery(PageQuery):
    """Which questions."""

    user_id: Pk | None = USER_ID
    answer: Literal["allowed", "refused"] | None = Field(None, description="Only these.")
    node_key: Line = Field("", description="Of one device.")


class AdmissionLine(Output):
    """A relay asked whether a device may come in. The same within a moment is one line; where very many knock, a line counts a minute's."""

    at: Moment = Field(examples=["2026-12-31T08:00:00Z"])
    node_key: str | None = Field(description="Null where the line counts many.")
    is_allowed: bool = Field(description="Whether it was let in.")
    reason: Admission.Reason
    reason_text: str = Field(description="The reason in words.")
    ip: str | None = Field(description="The device's address.")
    place: str = Field(description="Where that is, as far as known.")
    container_id: Pk = Field(description="The relay that asked.")
    map_version: int | None = Field(description="The map's version that counted then.")
    count: int = Field(description="How often it asked.")


class Admissions(Listed):
    """Who asked to be let in within 30 days, the newest first."""

    admissions: list[AdmissionLine] = Field(description="The page's lines.")


class AdmissionAsked(Input):
    """Which device asks, and at which relay."""

    user_id: Pk | None = USER_ID
    node_key: Line = Field(examples=[NODE_KEY])
    relay_id: Pk | None = Field(
        None, description="`container_id` of one of the customer's relays; all of them answer alike."
    )


class AdmissionForeseen(Answer):
    """What a relay would be told; nothing is changed by asking."""

    allowed: bool = Field(description="Whether it would be let in.")
    reason: Admission.Reason
    reason_text: str = Field(description="The reason in words.")
    version: int | None = Field(description="The map's version that counts now.")
    end: Moment | None = Field(description="Until when that version is valid.")


@device.reads("/admissions", Admissions)
def device_admissions(request: ApiRequest, query: Query[AdmissionQuery]) -> Admissions:
    """Who asked to be let in, and the answer."""
    rows = Admission.objects.filter(rental=rental_of(request, query.user_id))
    if query.answer:
        rows = rows.filter(is_allowed=query.answer == "allowed")
    if query.node_key:
        rows = rows.filter(node_key=_read_key(query.node_key))
    found, cursor = cut_page(rows, query, _admission)
    return Admissions(admissions=found, next_cursor=cursor)


def _admission(row: Admission) -> AdmissionLine:
    return AdmissionLine(
        at=row.at,
        node_key=format_node_key(row.node_key) if row.node_key else None,
        is_allowed=row.is_allowed,
        reason=Admission.Reason(row.reason),
        reason_text=row.get_reason_display(),
        ip=row.ip,
        place=row.place,
        container_id=row.relay_id,
        map_version=row.map_version,
        count=row.count,
    )


def _read_key(text: str) -> str:
    """Raises `DeviceRefused` for what is no node key."""
    try:
        return parse_node_key(text)
    except NoNodeKey as error:
        raise services.DeviceRefused(
            _("There is no whole node key in it. A node key is nodekey: and 64 characters, 0–9 and a–f."),
            code="invalid",
            field="node_key",
        ) from error


@acl.does("/verify", AdmissionForeseen, scope=Scope.READ)
def acl_verify(request: ApiRequest, payload: AdmissionAsked) -> AdmissionForeseen:
    """Whether a device would be let in now, and why. Nobody is let in by asking, and no trial begins.

    The customer's own verify address is not asked: what it said last counts.
    """
    person = find_person(request, payload.user_id)
    rental = Rental.objects.select_related("user").filter(user=person).first()
    if (
        payload.relay_id
        and not Relay.objects.live().filter(pk=payload.relay_id, rental=rental).exclude(rental=None).exists()
    ):
        raise NotFound(field="relay_id")
    found = services.foresee(rental=rental, node_key=_read_key(payload.node_key), now=timezone.now())
    config = active_config(rental) if rental else None
    reason = str(found.reason.label)
    text = (
        _("The device is let in: %(reason)s.")
        if found.is_allowed
        else _("The device is not let in: %(reason)s.")
    )
    return AdmissionForeseen(
        message=text % {"reason": reason},
        allowed=found.is_allowed,
        reason=found.reason,
        reason_text=reason,
        version=config.version if config else None,
        end=config.ends_at if config else None,
    )
