"""Strangers who knock in numbers at a customer's relays and are refused, as readings for alerts."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from django.db.models import Count, Q, Sum
from django.db.models.functions import TruncHour, TruncMinute
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from accounts.alerts.services import Reading, Rules, open_of
from acl.devices.models import Admission
from derpmgmt.lib.charts import Chart, Line, Range, Unit
from serials.rentals.models import Rental

WITHIN = timedelta(hours=1)
# Nobody knows them. Those who were known, or lack a place, are no strangers.
REASONS = (Admission.Reason.UNKNOWN, Admission.Reason.CROWDED)
STRANGERS = "strangers"
# So long questions are kept.
KEPT = timedelta(days=30)


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


def draw_strangers(rental_pk: int, chosen: Range, now: int) -> Chart:
    """How often strangers were refused at a customer's relays, over a range that ends at `now`; one query."""
    moments = chosen.moments(now)
    cut = TruncMinute if chosen.step < 3600 else TruncHour
    rows = (
        Admission.objects.filter(
            rental=rental_pk, is_allowed=False, reason__in=REASONS,
            at__gte=datetime.fromtimestamp(moments.start, UTC), at__lte=datetime.fromtimestamp(now, UTC),
        )
        .annotate(moment=cut("at", tzinfo=UTC)).values_list("moment").annotate(times=Sum("count")).order_by()
    )  # fmt: skip
    oldest = now - int(KEPT.total_seconds())
    values: list[float | None] = [0.0 if at >= oldest else None for at in moments]
    for moment, times in rows:
        place = max(int(moment.timestamp()) - moments.start, 0) // moments.step
        values[place] = (values[place] or 0.0) + int(times)
    return Chart(moments, [Line(_("strangers refused"), values)], Unit.NUMBER)
