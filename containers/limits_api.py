"""Limits by the JSON API: what counts for a customer or a relay, where that was said, and saying it."""

from datetime import date, datetime
from typing import Annotated, Any

from django.utils import timezone
from django.utils.translation import gettext as _
from pydantic import Field

from accounts.access.auth import ApiRequest
from accounts.access.models import Scope
from accounts.access.rooms import Room
from accounts.access.subjects import ask_staff
from containers.allowance_words import CAPS, limits_as_values
from containers.allowances import Allowance, Source, Use
from containers.models import Relay
from containers.services.allowances import allowance_of, set_relay_limits
from containers.services.traffic import month_of
from containers.services.usage import read_place, read_usage
from derpmgmt.lib.api import Answer, Input, Line, Moment, NotFound, Output, Pk
from serials.rentals import services
from serials.rentals.limits import AtQuota, Limited
from serials.rentals.models import Rental
from serials.rentals.wording import traffic

container, rental = Room("container"), Room("rental")

# As the forms take: a million GB, 100 Gbit/s.
_Bytes = Annotated[int, Field(ge=0, le=10**15)]
_Rate = Annotated[int, Field(ge=0, le=12_500_000_000)]
_EMPTY = "Null: as it is otherwise; 0: no limit. Left out it stays."


class RelayCaps(Input):
    """What is to count for one relay instead of what counts for its customer."""

    quota_bytes: _Bytes | None = Field(None, description=f"Traffic a month, both ways together. {_EMPTY}")
    upload_quota_bytes: _Bytes | None = Field(None, description=f"What devices send a month. {_EMPTY}")
    download_quota_bytes: _Bytes | None = Field(
        None, description=f"What is sent to devices a month. {_EMPTY}"
    )
    rate_bytes_per_second: _Rate | None = Field(None, description=f"For each device. {_EMPTY}")
    at_quota: AtQuota | None = Field(
        None, description="What happens at the allowance. Null: as it is otherwise; left out it stays."
    )
    note: Annotated[Line, Field(max_length=200)] = Field(
        "", description="Operators read it beside the limits; left out it stays.", examples=["until March"]
    )


class CustomerCaps(RelayCaps):
    """What is to count for one customer instead of what was sold, for all relays together."""

    device_limit: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        None, description="Devices that may be approved. Null: as sold; left out it stays."
    )


class Limit(Output):
    """A limit that counts, and where it was said."""

    value: int | None = Field(description="Null for none.", examples=[100000000000])
    source: Source = Field(description="Said for the relay, for its customer, or as sold.")


class AtQuotaShown(Output):
    """What happens at the allowance, and where that was said."""

    value: AtQuota
    source: Source = Field(description="Said for the relay, for its customer, or as sold.")


class LimitsShown(Output):
    """What counts."""

    quota_bytes: Limit = Field(description="Traffic a month, both ways together.")
    upload_quota_bytes: Limit = Field(description="What devices send a month.")
    download_quota_bytes: Limit = Field(description="What is sent to devices a month.")
    rate_bytes_per_second: Limit = Field(description="For each device.")
    device_limit: Limit = Field(description="Devices that the customer may have approved.")
    at_quota: AtQuotaShown = Field(description="What happens when a month's traffic is used up.")


class _Counted(Answer):
    """Limits, and what is used of them in the customer's month that runs now."""

    limits: LimitsShown
    note: str | None = Field(description="What operators noted beside them; null for others.")
    begins_on: date = Field(description="When the customer's month began.", examples=["2026-12-01"])
    upload_traffic: int = Field(description="What devices sent this month, in bytes.")
    download_traffic: int = Field(description="What was sent to devices this month, in bytes.")
    traffic_state: Limited.TrafficState = Field(description="How much of the month's traffic is used.")
    stopped_at: Moment | None = Field(
        description="Since when it is stopped, its traffic used up; null while it is not."
    )


class RelayLimits(_Counted):
    """What counts for a relay; its traffic is also that of the relays that had its place before."""

    container_id: Pk = Field(description="The relay's id.", examples=[12])
    rate_now: int | None = Field(description="Bytes a second that each device may send now; null for any.")


class CustomerLimits(_Counted):
    """What counts for a customer, for all their relays together."""

    rental_id: Pk = Field(examples=[12])
    user_id: Pk = Field(examples=[7])
    added_bytes: int = Field(description="What was added to this month's traffic.")


class AddedTraffic(Input):
    """Traffic for the month that runs, on top of the allowance."""

    size_bytes: int = Field(ge=1, le=10**15, description="How much.", examples=[50000000000])
    note: Annotated[Line, Field(max_length=200)] = Field(
        "", description="Operators read it beside the traffic."
    )


def _counted(
    request: ApiRequest, row: Any, allowance: Allowance, used: Use, begins_on: date
) -> dict[str, Any]:
    return {
        "limits": LimitsShown.model_validate(limits_as_values(allowance)),
        "note": row.cap_note if request.user.is_staff else None,
        "begins_on": begins_on,
        "upload_traffic": used.up,
        "download_traffic": used.down,
        "traffic_state": row.traffic_state,
        "stopped_at": row.stopped_at,
    }


def _said(body: RelayCaps, row: Any) -> tuple[dict[str, Any], str]:
    """What is to be written, as services take it, and the note."""
    given = body.model_dump(exclude_unset=True)
    caps = {CAPS[name]: value for name, value in given.items() if name in CAPS}
    if caps.get("cap_at_quota", "") is None:
        caps["cap_at_quota"] = ""
    return caps, given.get("note", row.cap_note)


def _find_relay(request: ApiRequest, pk: int) -> tuple[Relay, Rental]:
    rows = Relay.objects.visible_to(request.user).select_related("server", "rental").defer(*Relay.SECRETS)
    found = rows.filter(pk=pk, rental__isnull=False).first()
    if found is None or found.rental is None:
        raise NotFound
    return found, found.rental


def _answer_relay(request: ApiRequest, pk: int, now: datetime, message: str = "") -> RelayLimits:
    relay, of = _find_relay(request, pk)
    begins_on = month_of(of, now)
    allowance = allowance_of(of, services.current_span(of, now), relay)
    return RelayLimits(
        message=message,
        container_id=relay.pk,
        rate_now=relay.rate,
        **_counted(request, relay, allowance, read_place(relay, begins_on), begins_on),
    )


@container.reads("/{container_id}/limits", RelayLimits)
def container_limits(request: ApiRequest, container_id: Pk) -> RelayLimits:
    """What counts for a relay, where each limit was said, and what of it is used this month."""
    return _answer_relay(request, container_id, timezone.now())


@container.does("/{int:container_id}", RelayLimits, scope=Scope.OPERATE, method="PATCH")
def container_change(request: ApiRequest, container_id: Pk, body: RelayCaps) -> RelayLimits:
    """Say what counts for one relay instead of what counts for its customer, for operators; it counts within seconds.

    Its customer's devices are counted for all relays together, so no relay has a limit of those.
    """
    ask_staff(request)
    relay, _of = _find_relay(request, container_id)
    caps, note = _said(body, relay)
    if set_relay_limits(relay=relay, caps=caps, note=note, by=request.user):
        message = _("The limits of the relay on %(server)s are changed; they count within seconds.")
        return _answer_relay(request, relay.pk, timezone.now(), message % {"server": relay.server})
    return _answer_relay(request, relay.pk, timezone.now(), _("These limits are so already."))


def _find_rental(request: ApiRequest, pk: int) -> Rental:
    found = Rental.objects.visible_to(request.user).select_related("user").filter(pk=pk).first()
    if found is None:
        raise NotFound
    return found


def _answer_rental(request: ApiRequest, pk: int, message: str = "") -> CustomerLimits:
    of, now = _find_rental(request, pk), timezone.now()
    span = services.current_span(of, now)
    usage = read_usage(rental=of, span=span, now=now)
    used = Use(usage.flow.up_bytes, usage.flow.down_bytes)
    return CustomerLimits(
        message=message,
        rental_id=of.pk,
        user_id=of.user_id,
        added_bytes=services.added_since(of, usage.begins_on),
        **_counted(request, of, allowance_of(of, span), used, usage.begins_on),
    )


@rental.reads("/{rental_id}/limits", CustomerLimits)
def rental_limits(request: ApiRequest, rental_id: Pk) -> CustomerLimits:
    """What counts for a customer, where each limit was said, and what of it is used this month."""
    return _answer_rental(request, rental_id)


@rental.does("/{rental_id}/limits", CustomerLimits, scope=Scope.OPERATE, method="PATCH")
def rental_set_limits(request: ApiRequest, rental_id: Pk, body: CustomerCaps) -> CustomerLimits:
    """Say what counts for a customer instead of what was sold, for operators; it counts within seconds."""
    ask_staff(request)
    found = _find_rental(request, rental_id)
    caps, note = _said(body, found)
    if services.set_limits(rental=found, caps=caps, note=note, by=request.user):
        message = _("The limits of %(customer)s are changed; they count within seconds.")
        return _answer_rental(request, found.pk, message % {"customer": found})
    return _answer_rental(request, found.pk, _("These limits are so already."))


@rental.does("/{rental_id}/traffic", CustomerLimits, scope=Scope.OPERATE, creates=True)
def rental_add_traffic(request: ApiRequest, rental_id: Pk, body: AddedTraffic) -> CustomerLimits:
    """Add traffic to a customer's month that runs, on top of the allowance, for operators; it counts within seconds."""
    ask_staff(request)
    found = _find_rental(request, rental_id)
    services.add_traffic(rental=found, size_bytes=body.size_bytes, note=body.note, by=request.user)
    values = {"customer": found, "size": traffic(body.size_bytes)}
    return _answer_rental(request, found.pk, _("%(customer)s has %(size)s more traffic this month.") % values)
