"""Checking devices again where the customer switched it off and the time that runs now does not allow that."""

from datetime import datetime
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone

from accounts.services import log_operation, notify
from acl.devices.models import DevicePolicy
from acl.devices.services.devices import enforce, note_changed
from acl.devices.services.places import may_open, span_may_open
from derpmgmt.lib.prepared import Prepared
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental


def _forbidden(now: datetime) -> QuerySet[Any, Any]:
    policies = DevicePolicy.objects.filter(is_open=True, rental__in=Rental.objects.with_rights(now))
    forbidden = policies.annotate(may_open=span_may_open(now, "rental_id")).filter(may_open=False)
    return forbidden.values("rental_id")


_FORBIDDEN = Prepared(_forbidden)


def due_checks(now: datetime) -> list[int]:
    """Rentals with rights whose switch says that devices are not checked, though what was sold forbids it now."""
    return [row["rental_id"] for row in _FORBIDDEN.read(now=now)]


@transaction.atomic
def check_again(*, rental_pk: int) -> bool:
    """Switch checking on again that may not be off any more, cut who is not approved, and tell the customer; False when it may."""
    if not DevicePolicy.objects.filter(rental=rental_pk, is_open=True).exists():
        return False
    rental = lock_rental(rental_pk)
    now = timezone.now()
    if not rental.has_rights(now) or may_open(rental, now):
        return False
    if not DevicePolicy.objects.filter(rental=rental, is_open=True).update(is_open=False):
        return False
    entry = log_operation(by=None, action="devices.checking_on", target=rental, subject=rental.user)
    note_changed(rental, now)
    enforce(rental, now)
    notify(
        user=rental.user,
        kind="checking_on",
        key=f"checking_on:{entry.pk}",
        context={"url": f"{settings.PUBLIC_URL}{reverse('acl:device-list')}"},
    )
    return True
