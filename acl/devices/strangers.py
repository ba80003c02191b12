"""Strangers who knock in numbers at a customer's relays and are refused, as readings for alerts."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from django.db.models import Count, Q, Sum
from django.urls import reverse

from accounts.alerts.services import Reading, Rules, open_of
from acl.devices.models import Admission
from serials.rentals.models import Rental

WITHIN = timedelta(hours=1)
# Nobody knows them. Those who were known, or lack a place, are no strangers.
REASONS = (Admission.Reason.UNKNOWN, Admission.Reason.CROWDED)
STRANGERS = "strangers"


def read_strangers(now: datetime) -> Iterator[Reading]:
    """Customers at whose relays many strange devices were refused within an hour, and those of whom that was told and is over.

    One device that tries again and again is one. Where so many knock that they are counted together (`acl.devices.services.pace`) each
    question counts, since nobody knows by how many they are asked. A fixed number of queries.
    """
    rule = Rules().find(STRANGERS, None)
    limits = [limit for limit in (rule.warning, rule.critical) if limit is not None]
    least = max(min(limits), 1) if limits and rule.is_on else float("inf")
    has_key = ~Q(node_key="")
    refused = (
        Admission.objects.filter(at__gt=now - WITHIN, at__lte=now, is_allowed=False, reason__in=REASONS)
        .values_list("rental")
        .annotate(keys=Count("node_key", distinct=True, filter=has_key), others=Sum("count", filter=~has_key))
        .order_by()
    )
    counts = {rental: keys + int(others or 0) for rental, keys, others in refused}
    many = {rental: count for rental, count in counts.items() if count >= least}
    users = set()
    for rental in Rental.objects.filter(pk__in=many).select_related("user"):
        users.add(rental.user_id)
        yield Reading(
            rule=STRANGERS, thing=f"strangers:{rental.user_id}", value=many[rental.pk], name=str(rental),
            url=f"{reverse('admin:accounts_user_change', args=[rental.user_id])}?tab=devices",
            customer=rental.user_id,
        )  # fmt: skip
    for alert in open_of(STRANGERS):
        if alert.customer_id not in users:
            yield Reading(rule=STRANGERS, thing=alert.thing, severity="", customer=alert.customer_id)
