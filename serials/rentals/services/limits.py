"""What operators say about a customer's limits, traffic that is added to a month, and the verdicts of the room that counts."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time
from typing import Any

from django.db import transaction
from django.db.models import F, Sum
from django.utils import timezone
from django.utils.translation import gettext as _

from accounts.models import User
from accounts.services import NotAllowed, log_operation
from derpmgmt.lib import queue
from derpmgmt.lib.lines import one_line
from derpmgmt.lib.prepared import Prepared
from serials.rentals.limits import CAP_FIELDS, Limited
from serials.rentals.models import Redemption, Rental, TrafficGrant
from serials.rentals.services.refusals import RentalClosed
from serials.rentals.services.spans import lock_rental, request_plan

# What customers get, or pay for, renews their month's traffic.
_RENEWALS = (Redemption.Kind.SERIAL, Redemption.Kind.RENEWAL, Redemption.Kind.ORDER)


def ask_staff(by: User | None) -> None:
    """Raises `NotAllowed` for whoever is no operator; None is the console."""
    if by is not None and not (by.is_staff and by.is_active):
        raise NotAllowed(_("Only admins change limits."))


@transaction.atomic
def set_limits(*, rental: Rental, caps: Mapping[str, Any], note: str, by: User | None) -> bool:
    """Say what counts for a customer instead of what was sold: `caps` gives each of `CAP_FIELDS` and `cap_devices`, None or "" for as sold.

    False where that is so already. Raises `NotAllowed`, `RentalClosed`. Announces `limits_changed`.
    """
    ask_staff(by)
    rental = lock_rental(rental.pk)
    if rental.closed_at is not None:
        raise RentalClosed
    changed = write_limits(rental, (*CAP_FIELDS, "cap_devices"), caps, note)
    if not changed:
        return False
    log_operation(
        by=by, action="rental.limits_changed", target=rental, subject=rental.user, note=rental.cap_note, changes=changed
    )  # fmt: skip
    queue.announce("limits_changed", rental.pk)
    return True


def write_limits(row: Limited, names: Iterable[str], caps: Mapping[str, Any], note: str) -> dict[str, Any]:
    """Write what was said about a locked row; what changed, as [before, after], and nothing where all was so already."""
    said = {**{name: caps[name] for name in names if name in caps}, "cap_note": one_line(note)[:200]}
    changed = {
        name: [getattr(row, name), value] for name, value in said.items() if getattr(row, name) != value
    }
    for name, value in said.items():
        setattr(row, name, value)
    if changed:
        type(row)._default_manager.filter(pk=row.pk).update(**said)
    return changed


@transaction.atomic
def add_traffic(
    *, rental: Rental, size_bytes: int, by: User | None, note: str = "", after: int | None = None
) -> TrafficGrant | None:
    """Add traffic to the month that runs, on top of the allowance.

    `after` is how many times that was done when a person decided it: None where it was done once more since. Raises `NotAllowed`,
    `RentalClosed`. Announces `limits_changed`.
    """
    ask_staff(by)
    rental = lock_rental(rental.pk)
    if rental.closed_at is not None:
        raise RentalClosed
    if after is not None and rental.traffic_grants.count() != after:
        return None
    grant = TrafficGrant.objects.create(
        rental=rental, size_bytes=size_bytes, by=by, note=one_line(note)[:200]
    )
    log_operation(
        by=by, action="rental.traffic_added", target=rental, subject=rental.user, note=grant.note, bytes=size_bytes
    )  # fmt: skip
    queue.announce("limits_changed", rental.pk)
    return grant


def added_since(rental: Rental, begins_on: date) -> int:
    """What was added to the month of a rental that began on that day and runs, in bytes."""
    begin = timezone.make_aware(datetime.combine(begins_on, time()))
    size = rental.traffic_grants.filter(at__gte=begin).aggregate(size=Sum("size_bytes", default=0))["size"]
    return int(size)


_RENEWED = Prepared(
    lambda now: Redemption.objects.filter(
        kind__in=_RENEWALS, pk__gt=F("rental__over_after"), traffic_grant=None, rental__entitled_until__gt=now
    ).values("rental_id")
)


def renewed_when_over(now: datetime) -> set[int]:
    """The rentals whose time runs that were renewed since their traffic was used up, without having got more for that."""
    return {row["rental_id"] for row in _RENEWED.read(now=now)}


def grant_renewals(*, rental: Rental, size_bytes: int, now: datetime) -> bool:
    """Give a locked rental whose traffic is used up `size_bytes` once for each renewal since then; whether there was one."""
    if rental.over_after is None:
        return False
    renewals = rental.redemptions.filter(kind__in=_RENEWALS, pk__gt=rental.over_after, traffic_grant=None)
    for redemption in renewals:
        TrafficGrant.objects.create(rental=rental, size_bytes=size_bytes, redemption=redemption, at=now)
    return bool(renewals)


def record_use(*, rental: Rental, state: str, added: int, is_stopped: bool, now: datetime) -> None:
    """Write down how much of a locked rental's traffic is used, how much was `added` to the month, and whether it is stopped.

    Announces `rental_changed` where that changes.
    """
    is_over = state == Limited.TrafficState.OVER
    fields: dict[str, Any] = {"traffic_state": state, "added_bytes": added}
    if not is_over:
        fields["over_after"] = None
    elif rental.over_after is None:
        newest = rental.redemptions.order_by("-pk").values_list("pk", flat=True).first()
        fields["over_after"] = newest or 0
    has_changed = is_stopped != (rental.stopped_at is not None)
    if has_changed:
        fields["stopped_at"] = timezone.now() if is_stopped else None
    if has_changed and is_stopped:
        # From then on they are without relays for another reason: that time is not given back.
        fields["waiting_since"] = None
    Rental.objects.filter(pk=rental.pk).update(**fields)
    if has_changed:
        action = "rental.stopped" if is_stopped else "rental.going_on"
        log_operation(by=None, action=action, target=rental, subject=rental.user)
        request_plan(rental_pk=rental.pk, now=now)
