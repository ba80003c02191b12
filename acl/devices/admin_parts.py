"""What devices add to the pages that a customer and their rental have in the admin, whose rooms know no devices."""

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from django.db.models import Count, Q
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link
from accounts.models import User
from acl.devices import services
from acl.devices.models import Device, DevicePolicy
from serials.rentals.models import Rental


def links(row: Any) -> Iterator[Link]:
    """Answer to "row_links": a customer's devices."""
    if isinstance(row, User):
        for pk in Rental.objects.filter(user=row).values_list("pk", flat=True):
            yield Link(_("Devices"), f"{reverse('admin:acl_device_changelist')}?rental__id__exact={pk}")


def parts(row: Any) -> Iterator[SafeString]:
    """Answer to "row_parts": how many devices a rental has and may have, and what its customer decided about who comes in."""
    if isinstance(row, Rental):
        yield render_to_string("admin/acl/_device_rules.html", _rules(row))


def _rules(rental: Rental) -> dict[str, Any]:
    now = timezone.now()
    counts = Device.objects.filter(rental=rental).aggregate(
        approved=Count("pk", filter=Q(status=Device.Status.APPROVED)),
        waiting=Count("pk", filter=Device.waiting(now)),
        on_trial=Count("pk", filter=Device.on_trial(now)),
    )
    policy = DevicePolicy.objects.filter(rental=rental).first()
    until = services.window_until(rental, policy) if policy else services.window_until(rental)
    return {
        **counts,
        "rental": rental,
        "policy": policy,
        "is_open": services.lets_all_in(rental, now),
        "is_full": not services.places_left(rental, now),
        "limit": services.device_limit(rental, now),
        "until": until if until > now else None,
        "verify_host": urlsplit(policy.verify_url).hostname if policy else None,
        "problem": _(policy.verify_problem) if policy and policy.verify_problem else "",
    }
