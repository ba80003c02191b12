"""How many devices a rental has places for, who has one, and what its customer decided about who comes in."""

from datetime import datetime

from django.db.models import OuterRef, QuerySet, Subquery

from acl.devices.models import Device, DevicePolicy
from serials.rentals.models import Rental, RentalSpan
from serials.rentals.services import current_span


def device_limit(rental: Rental, now: datetime) -> int:
    """How many devices the rental allows now; 0 when it has no time."""
    return limit_of(rental, current_span(rental, now))


def limit_of(rental: Rental, span: RentalSpan | None) -> int:
    """How many devices are allowed while that span rules, or none does: what was said for the customer goes before what was sold."""
    if span is None:
        return 0
    return span.device_limit if rental.cap_devices is None else rental.cap_devices


def placed(rental: Rental, now: datetime) -> QuerySet[Device]:
    """The devices that have a place."""
    return Device.objects.filter(Device.placed(now), rental=rental)


def admitted(rental: Rental, now: datetime) -> QuerySet[Device]:
    """The devices that are let in."""
    return Device.objects.filter(Device.admitted(now), rental=rental)


def places_left(rental: Rental, now: datetime) -> int:
    """How many more devices the rental has a place for."""
    return max(device_limit(rental, now) - placed(rental, now).count(), 0)


def window_until(rental: Rental, policy: DevicePolicy | None = None) -> datetime:
    """Until when new devices are approved by themselves; may be past. `policy` saves a query to whoever has it."""
    return window_of(rental, policy or DevicePolicy.objects.filter(rental=rental).first())


def window_of(rental: Rental, policy: DevicePolicy | None) -> datetime:
    """As `window_until`, by what the customer decided.

    Without a decision of theirs it is `DevicePolicy.ENROL_FOR` from the first activation.
    """
    if policy is None:
        return rental.created_at + DevicePolicy.ENROL_FOR
    return policy.enrol_until or rental.created_at


def may_open(rental: Rental, now: datetime) -> bool:
    """Whether what was sold allows device checking to be switched off."""
    return allows_open(current_span(rental, now))


def allows_open(span: RentalSpan | None) -> bool:
    """Whether device checking may be switched off while that span rules, or none does."""
    return span is not None and span.may_open


def span_may_open(now: datetime, rental: str = "pk") -> Subquery:
    """An annotation, `may_open` of a rental that has rights: the span that began last rules it, also in the grace.

    `rental` leads from the annotated rows to the rental's primary key.
    """
    ruling = RentalSpan.objects.filter(rental=OuterRef(rental), starts_at__lte=now).order_by("-starts_at")
    return Subquery(ruling.values("may_open")[:1])


def lets_all_in(rental: Rental, now: datetime) -> bool:
    """Whether devices are not checked: the customer has switched it off, and what was sold allows that now."""
    return DevicePolicy.objects.filter(rental=rental, is_open=True).exists() and may_open(rental, now)


def policy_of(rental: Rental) -> DevicePolicy:
    """The row of the customer's decisions, made with a new rental's defaults; call with the rental locked."""
    defaults = {"enrol_until": rental.created_at + DevicePolicy.ENROL_FOR}
    policy, _made = DevicePolicy.objects.get_or_create(rental=rental, defaults=defaults)
    return policy
