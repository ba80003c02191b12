"""What closing an account means for its devices: they stay out for good, and nothing tells where they were."""

from collections.abc import Iterator

from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext

from accounts.models import OperationLog, User
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.services.devices import note_changed
from serials.rentals.models import Rental
from serials.rentals.services import lock_rental

# So many admissions are deleted at a time.
_DELETE_AT_ONCE = 5000


def destroy_devices(*, rental: Rental) -> bool:
    """Keep the devices of a closed rental out and forget their names and addresses, and who asked to be let in.

    Nobody is told, the farewell has said it. False while the rental is not closed. May die at any line and run twice.
    """
    with transaction.atomic():
        rental = lock_rental(rental.pk)
        if rental.closed_at is None:
            return False
        now, devices = timezone.now(), Device.objects.filter(rental=rental)
        devices.filter(status=Device.Status.PENDING).delete()
        approved = devices.filter(status=Device.Status.APPROVED)
        if approved.update(status=Device.Status.REVOKED, revoked_at=now):
            note_changed(rental, now)
        devices.update(name="", last_ip=None, last_place="", came_from="", trial_until=None, stayed_at=None)
        DevicePolicy.objects.filter(rental=rental).update(
            enrol_until=None, is_open=False, verify_url="", verify_problem=""
        )
        # A device is often called after a person; the entries' keys still say which one it was.
        OperationLog.objects.filter(subject=rental.user_id, action__startswith="device.").update(target="")
    admissions = Admission.objects.filter(rental=rental)
    while pks := list(admissions.values_list("pk", flat=True)[:_DELETE_AT_ONCE]):
        Admission.objects.filter(pk__in=pks).delete()
    return True


def devices_left(user: User) -> Iterator[str]:
    """Answer to "closing_left": the devices and admissions, while there is anything of them to forget."""
    devices = Device.objects.filter(rental__user=user)
    has_traces = (
        devices.exclude(
            status=Device.Status.REVOKED, name="", last_ip=None, last_place="", came_from=""
        ).exists()
        or Admission.objects.filter(rental__user=user).exists()
        or _has_verify_url(user)
    )
    if has_traces:
        yield gettext("The devices are not forgotten yet.")


def _has_verify_url(user: User) -> bool:
    policy = DevicePolicy.objects.filter(rental__user=user).first()
    return policy is not None and bool(policy.verify_url)
