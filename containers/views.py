"""The customer's relays on his home page."""

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from containers.models import Relay
from containers.progress import describe_relays
from containers.services.relays import ask_probe
from derpmgmt.lib.limits import consume

PROBE_RATE = "30/5m"


@login_required
@require_POST
def relay_probe(request: HttpRequest, pk: int) -> HttpResponse:
    """Have a relay of one's own tested; answers htmx with the cards, others with the home page."""
    consume(request, group="relay-probe", key=str(request.user.pk), rate=PROBE_RATE)
    relay = get_object_or_404(
        Relay.objects.visible_to(request.user)
        .live()
        .filter(rental__user=request.user)
        .select_related("rental"),
        pk=pk,
    )
    ask_probe(relay=relay, now=timezone.now())
    if not request.htmx:
        return redirect("home")
    # The page says which map it shows, so that the next look notices another one.
    context = {**describe_relays(relay.rental, timezone.now()), "map_version": request.POST.get("map", "")}
    return render(request, "containers/_relays.html", context)
