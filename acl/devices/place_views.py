"""Giving the place of one device to another, where all places are taken."""

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods

from accounts.requests import SignedInRequest
from acl.devices import services
from acl.devices.models import Device
from acl.devices.services.device_panel import describe_holders, describe_state, describe_waiting
from acl.devices.views import clean_where, go_back, own_device, refuse, rental_or_404
from derpmgmt.lib.address import client_ip


@login_required
@require_http_methods(["GET", "POST"])
def place_give(request: SignedInRequest) -> HttpResponse:
    """Which device gives its place (`from`) to which other (`to`), and what that does; then it is done.

    Each may be known from the button that led here; the other one is chosen on the page.
    """
    rental = rental_or_404(request)
    values = request.POST if request.method == "POST" else request.GET
    chosen = {}
    for name in ("from", "to"):
        if pk := values.get(name, ""):
            chosen[name] = own_device(request, pk)
            if chosen[name] is None:
                return refuse(request, services.NotWaiting())
    holder, newcomer = chosen.get("from"), chosen.get("to")
    if request.method == "POST" and holder and newcomer:
        try:
            services.give_place(device=holder, to=newcomer, by=request.user, ip=client_ip(request))
        except services.DeviceRefused as refusal:
            return refuse(request, refusal)
        text = _(
            "%(old)s is revoked, and %(new)s has its place. It connects at its next attempt, within a minute or so."
        )
        messages.success(request, text % {"old": holder, "new": newcomer})
        return go_back(request)
    state = describe_state(rental=rental, now=timezone.now())
    where = QueryDict(mutable=True)
    where.update({name: str(device.pk) for name, device in chosen.items() if device})
    where["back"] = back = values.get("back") or clean_where(request.GET).urlencode()
    context: dict[str, Any] = {
        "where": where,
        "here": reverse("acl:place-give"),
        "state": state,
        "holder": holder if holder and holder.status == Device.Status.APPROVED else None,
        "newcomer": newcomer if newcomer and newcomer.status != Device.Status.APPROVED else None,
        "is_incomplete": request.method == "POST",
        "back": back,
    }
    if context["holder"] is None:
        context["holders"] = describe_holders(rental=rental, state=state, page=values.get("page", 1))
    if context["newcomer"] is None:
        context["waiting"] = describe_waiting(rental=rental, state=state)
    return render(request, "acl/devices/device_place.html", context)
