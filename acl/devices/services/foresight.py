"""What a relay would be told about a device if it asked now. It only reads: nobody is let in, seen or written down."""

from datetime import datetime

from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.services.enrolment import Decision, judge, why_not
from acl.devices.services.places import span_may_open
from serials.rentals.models import Rental

Reason = Admission.Reason


def foresee(*, rental: Rental | None, node_key: str, now: datetime) -> Decision:
    """The answer of `acl.devices.admission` to this device, as it stands in the rows.

    The customer's own verify address is not asked: a device that it knew the last time is allowed, one that it was never asked about is
    unknown. While a window is open, which network a device comes from may decide too, and is not known here.
    """
    if rental is None:
        return Decision(False, Reason.ENDED)
    if reason := why_not(rental, now):
        return Decision(False, reason)
    device = Device.objects.filter(rental=rental, node_key=node_key).first()
    status = device.status if device else None
    is_of_source = device is not None and device.source == Device.Source.VERIFY_URL
    if status == Device.Status.APPROVED and not is_of_source:
        return Decision(True, Reason.APPROVED)
    if status == Device.Status.REVOKED:
        return Decision(False, Reason.REVOKED)
    policy = DevicePolicy.objects.filter(rental=rental).first()
    if policy is not None and policy.is_open:
        # As admission reads it: in the grace the span that began last rules.
        ruled = Rental.objects.annotate(may_open=span_may_open(now)).get(pk=rental.pk)
        if getattr(ruled, "may_open", False):
            return Decision(True, Reason.OPEN)
    if status == Device.Status.APPROVED:
        return Decision(True, Reason.VERIFY_URL)
    device = device or Device(rental=rental, node_key=node_key, first_seen_at=now)
    return judge(device=device, rental=rental, now=now)
