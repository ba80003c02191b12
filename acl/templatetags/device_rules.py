"""A customer's devices on his rental's page in the admin, which belongs to a room that knows no devices."""

from typing import Any
from urllib.parse import urlsplit

from django import template
from django.db.models import Count, Q
from django.utils import timezone
from django.utils.translation import gettext

from acl.devices import services
from acl.devices.models import Device, DevicePolicy
from serials.rentals.models import Rental

register = template.Library()


@register.inclusion_tag("admin/acl/_device_rules.html")
def device_rules(rental: Rental) -> dict[str, Any]:
    """How many devices a rental has and may have, and what its customer decided about who comes in."""
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
        "problem": gettext(policy.verify_problem) if policy and policy.verify_problem else "",
    }
