"""What of devices needs a person."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from acl.devices.models import DevicePolicy
from derpmgmt.lib.matters import WARNING, Cause, Matter
from derpmgmt.lib.prepared import Prepared

# Who lost a right is cut within seconds; owed for so long, something keeps it from being done.
CUT_LATE = timedelta(minutes=5)


def _cuts_late(count: int) -> str:
    return ngettext(
        "%(count)d customer may have devices connected that have no right to be",
        "%(count)d customers may have devices connected that have no right to be",
        count,
    ) % {"count": count}


_LATE = Prepared(
    lambda before: (
        DevicePolicy.objects.filter(cut_owed_at__lt=before)
        .defer("verify_url")
        .select_related("rental__user")
        .order_by("cut_owed_at")
    )
)


def matters(now: datetime) -> Iterator[Matter]:
    """Answer to "matters": customers whose devices lost their right and could not be cut off."""
    url = reverse("admin:acl_devicepolicy_changelist") + "?cut_owed_at__isnull=0"
    cause = Cause("cut_late", _cuts_late, url)
    for policy in _LATE.read(before=now - CUT_LATE):
        yield Matter(
            WARNING,
            _("Devices of %(customer)s could not be cut off") % {"customer": policy.rental},
            _("A relay does not answer, or a gate has an old list of devices; it is tried again by itself."),
            reverse("admin:acl_devicepolicy_change", args=[policy.pk]),
            f"cut_late:{policy.rental_id}",
            policy.cut_owed_at,
            str(policy.rental),
            cause,
            rule="relay",
            customer=policy.rental.user_id,
            own=_(
                "A device that has no right any more may still be connected; the panel goes on cutting it off."
            ),
        )
