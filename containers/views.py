"""The customer's relays on their home page."""

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone

from accounts.requests import SignedInRequest
from containers.models import Relay
from containers.progress import describe_relays
from containers.services.relay_requests import PROBE_RATE, ask_probe
from derpmgmt.lib.limits import consume
from derpmgmt.lib.way_back import posted_from
from serials.rentals.models import Rental


@login_required
@posted_from("home")
def relay_probe(request: SignedInRequest, pk: int) -> HttpResponse:
    """Have a relay of one's own tested; answers htmx with the cards, others with the home page."""
    consume(request, group="relay-probe", key=str(request.user.pk), rate=PROBE_RATE)
    rental = get_object_or_404(Rental.objects.visible_to(request.user), user=request.user)
    relay = get_object_or_404(Relay.objects.live().filter(rental=rental), pk=pk)
    ask_probe(relay=relay, now=timezone.now())
    if not request.htmx:
        return redirect("home")
    parts = describe_relays(rental, timezone.now())
    return render(request, "containers/_relays.html", parts | {"is_part": True})
