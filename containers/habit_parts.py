"""A customer's rate beside what is usual for them: the chart, its address in the admin, and the charts on alerts of what is unusual."""

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.alerts.models import Alert
from accounts.tabs import show_around
from containers.models import Relay
from containers.services.habits import HABIT, HOUR, JUMP, SERVER_JUMP, past_of_customers
from containers.services.samples import RELAYS
from derpmgmt.lib.charts import Chart, Line, Range, Unit, answer, on_grid
from derpmgmt.lib.habits import KEEP, usual_by
from fleet.graphs import SERVER_GRAPHS
from serials.rentals.models import Rental

RATE = gettext_lazy("Rate of all relays")


def draw_customer(rental_pk: int, chosen: Range, now: int) -> Chart:
    """Both ways of all a customer's relays together over a range that ends at `now`, and what is usual at each hour. A fixed number of queries.

    Moments further apart than an hour have no usual rate.
    """
    moments = chosen.moments(now)
    relays = list(Relay.objects.filter(rental=rental_pk).values_list("pk", flat=True))
    together: dict[int, float] = defaultdict(float)
    for _relay, at, up, down in RELAYS.rows_of(relays, moments, ["up_rate", "down_rate"]):
        if up is not None and down is not None:
            together[at] += up + down
    (rates,) = on_grid(together.items(), moments, 1)
    lines = [Line(_("up and down"), rates)]
    if chosen.step <= HOUR:
        hours = range(moments.start // HOUR, now // HOUR + 1)
        past = past_of_customers([rental_pk], range(hours.start - KEEP - 1, hours.stop)).get(rental_pk, {})
        usual = usual_by(past, hours)
        lines.append(Line(_("usual at this time"), [usual.get(at // HOUR) for at in moments]))
    return Chart(moments, lines, Unit.BYTE_RATE)


def customer_rate(request: HttpRequest, pk: int) -> HttpResponse:
    """The figures of `draw_customer` for a customer (`pk` of the account), as JSON or CSV."""
    rental = get_object_or_404(Rental.objects.visible_to(request.user), user=pk)
    return answer(request, f"{rental}-rate", partial(draw_customer, rental.pk))


def parts(row: Any) -> Iterator[SafeString]:
    """Answer to "row_parts": of an alert of an unusual rate that rate around the moment."""
    if not isinstance(row, Alert):
        return
    if row.rule in {HABIT, JUMP} and row.customer_id:
        url = reverse("admin:containers_customer_rate", args=[row.customer_id])
        yield show_around([(RATE, url)], row.since)
    elif row.rule == SERVER_JUMP and row.server:
        url = reverse("admin:fleet_server_graph", args=[row.server, "network"])
        yield show_around([(SERVER_GRAPHS["network"].title, url)], row.since)
