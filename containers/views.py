"""The customer's relays on their home page, and the page on their traffic."""

import csv
from functools import partial
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db.models import Sum
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET

from accounts.requests import SignedInRequest
from containers.graphs import RELAY_GRAPHS, TEST_GRAPHS, draw_tests
from containers.models import Relay, TrafficMonth
from containers.progress import describe_relays, relay_cards
from containers.services.relay_requests import PROBE_RATE, ask_probe
from containers.services.samples import RELAYS
from containers.services.usage import read_usage, sum_flows
from containers.traffic_graphs import TITLE, rental_month
from derpmgmt.lib.charts import answer, describe_charts
from derpmgmt.lib.limits import consume
from derpmgmt.lib.spreadsheets import MARK
from derpmgmt.lib.way_back import part_of, posted_from
from fleet.graphs import draw
from serials.rentals.models import Rental
from serials.rentals.services import current_span

# The months that the page shows; the file has all.
_MONTHS = 13


def _own(request: SignedInRequest) -> Rental:
    return get_object_or_404(Rental.objects.visible_to(request.user), user=request.user)


@login_required
@posted_from("home")
def relay_probe(request: SignedInRequest, pk: int) -> HttpResponse:
    """Have a relay of one's own tested; answers htmx with the cards, others with the home page."""
    consume(request, group="relay-probe", key=str(request.user.pk), rate=PROBE_RATE)
    rental = _own(request)
    relay = get_object_or_404(Relay.objects.live().filter(rental=rental), pk=pk)
    ask_probe(relay=relay, now=timezone.now())
    if not request.htmx:
        return redirect("home")
    parts = describe_relays(rental, timezone.now())
    return render(request, "containers/_relays.html", parts | {"is_part": True})


@login_required
@require_GET
def traffic_show(request: SignedInRequest) -> HttpResponse:
    """What flowed through one's relays: this month, the months before, charts. A fixed number of queries."""
    now = timezone.now()
    rental = Rental.objects.visible_to(request.user).filter(user=request.user).first()
    if rental is None:
        return redirect("home")
    usage = read_usage(rental=rental, span=current_span(rental, now), now=now)
    cards = (
        [card for card in relay_cards(rental, now, usage.relays) if card.relay]
        if rental.is_entitled(now)
        else []
    )
    charts: list[Any] = [(TITLE, reverse("containers:traffic-graph"))]
    for name, graph in {"rate": RELAY_GRAPHS["rate"], **TEST_GRAPHS}.items():
        charts += [
            (f"{card.name} · {graph.title}", reverse("containers:relay-graph", args=[card.relay.pk, name]))
            for card in cards
            if card.relay
        ]
    standing = {card.relay.pk for card in cards if card.relay}
    months = (
        TrafficMonth.objects.filter(rental=rental)
        .order_by("-begins_on")
        .values("begins_on")
        .annotate(up=Sum("up_bytes"), down=Sum("down_bytes"))
    )
    context = {
        "rental": rental,
        "usage": usage,
        "cards": cards,
        "gone": sum_flows(flow for pk, flow in usage.relays.items() if pk not in standing),
        "months": [month | {"both": month["up"] + month["down"]} for month in months[:_MONTHS]],
        **describe_charts(request, charts),
    }
    return render(request, "containers/traffic.html", context)


@login_required
@require_GET
@part_of("containers:traffic")
def traffic_graph(request: SignedInRequest) -> HttpResponse:
    """The figures of the month's chart, as JSON or CSV."""
    return answer(request, "traffic", partial(rental_month, _own(request)))


@login_required
@require_GET
@part_of("containers:traffic")
def relay_graph(request: SignedInRequest, pk: int, name: str) -> HttpResponse:
    """The figures of a chart of a relay of one's own, as JSON or CSV."""
    relay = get_object_or_404(Relay.objects.filter(rental=_own(request)), pk=pk)
    if name in TEST_GRAPHS:
        return answer(request, f"relay-{pk}-{name}", partial(draw_tests, relay, name))
    if name != "rate":
        raise Http404
    return answer(request, f"relay-{pk}-{name}", partial(draw, RELAYS, pk, RELAY_GRAPHS[name]))


@login_required
@require_GET
@part_of("containers:traffic")
def traffic_csv(request: SignedInRequest) -> HttpResponse:
    """One's months, relay by relay, as a file; bytes are whole numbers."""
    rows = TrafficMonth.objects.filter(rental=_own(request)).order_by("begins_on", "relay")
    response = HttpResponse(MARK, content_type="text/csv; charset=utf-8")
    response["Content-Disposition"] = 'attachment; filename="traffic.csv"'
    writer = csv.writer(response)
    writer.writerow(["month_from", "relay", "address", "up_bytes", "down_bytes"])
    writer.writerows(
        rows.values_list("begins_on", "relay", "relay__server__address", "up_bytes", "down_bytes")
    )
    return response
