"""Asking the sources that a customer named whether a device is theirs."""

from datetime import datetime

from django.db import transaction
from django.utils import timezone

from acl.devices import sources
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.services.devices import enforce, note_changed
from acl.devices.services.enrolment import Decision, why_not
from acl.devices.services.places import places_left
from serials.rentals.services import lock_rental

# The gate gives the panel 2 s; what is left of them is for the rest.
ASK_SECONDS = 1.5

Reason = Admission.Reason


def ask_sources(*, rental_pk: int, relay_pk: int, node_key: str, ip: str | None) -> Decision | None:
    """What the customer's own verify address says about a device; None when they have none or it does not know the device.

    A device that it knew the last time keeps its approval while the address is silent, and the answer of an address that was
    changed or removed meanwhile counts as silence. Raises nothing for what the address does wrong.
    """
    policy = DevicePolicy.objects.filter(rental=rental_pk).first()
    if policy is None or not policy.verify_url:
        return None
    asked = policy.verify_url
    answer = sources.ask_verify_url(url=asked, node_key=node_key, source_ip=ip or "", timeout=ASK_SECONDS)
    with transaction.atomic():
        rental = lock_rental(rental_pk)
        now = timezone.now()
        # Both may have changed while it was asked.
        if reason := why_not(rental, now):
            return Decision(False, reason)
        policy.refresh_from_db()
        if is_current := policy.verify_url == asked:
            _note_problem(policy, answer.problem, now)
        is_silent = not is_current or answer.verdict is sources.Verdict.SILENT
        device = Device.objects.filter(rental=rental, node_key=node_key).first()
        is_of_source = device is not None and device.source == Device.Source.VERIFY_URL
        is_approved = device is not None and device.status == Device.Status.APPROVED
        if device is not None and device.status == Device.Status.REVOKED:
            return Decision(False, Reason.REVOKED)
        if is_silent:
            return Decision(True, Reason.VERIFY_URL) if is_of_source and is_approved else None
        if answer.verdict is sources.Verdict.NO:
            if is_of_source and is_approved:
                Device.objects.filter(rental=rental, node_key=node_key).delete()
                note_changed(rental, now)
                enforce(rental, now)
            return None
        if is_approved:
            return Decision(True, Reason.VERIFY_URL if is_of_source else Reason.APPROVED)
        is_placed = device is not None and device.is_placed(now)
        if not is_placed and not places_left(rental, now):
            return Decision(False, Reason.FULL)
        device = device or Device(rental=rental, node_key=node_key, first_seen_at=now)
        device.status, device.source = Device.Status.APPROVED, Device.Source.VERIFY_URL
        device.approved_at, device.knocks = now, 0
        device.trial_until = device.stayed_at = device.left_at = None
        device.note_seen(now, ip, relay_pk)
        device.save()
        note_changed(rental, now)
        return Decision(True, Reason.VERIFY_URL)


def _note_problem(policy: DevicePolicy, problem: str, now: datetime) -> None:
    if problem != policy.verify_problem or policy.verify_asked_at is None:
        DevicePolicy.objects.filter(pk=policy.pk).update(verify_problem=problem[:200], verify_asked_at=now)
