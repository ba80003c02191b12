"""The customer's rules about their devices: the window, whether they are checked at all, their own verify address."""

from datetime import timedelta

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods

from accounts.requests import SignedInRequest
from acl.devices import services
from acl.devices.forms import OpenForm, VerifyUrlForm, WindowForm
from acl.devices.models import DevicePolicy
from acl.devices.services.device_panel import describe_state, masked_url
from acl.devices.sources import VerifyUrlRefused
from acl.devices.views import go_back, own_rental, refuse, rental_or_404, say_later
from derpmgmt.lib import confirming
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.limits import TooManyRequests, consume
from derpmgmt.lib.way_back import posted_from
from serials.rentals.models import Rental

# The panel asks an address that somebody typed.
VERIFY_RATE = "10/10m"


@login_required
@require_GET
def rule_list(request: SignedInRequest) -> HttpResponse:
    """Which rules hold about devices, each with the way to change it."""
    rental = own_rental(request)
    state = describe_state(rental=rental, now=timezone.now()) if rental else None
    return render(request, "acl/devices/rule_list.html", {"state": state})


# The window


@login_required
@posted_from("acl:device-list")
def window_open(request: SignedInRequest) -> HttpResponse:
    """Approve new devices by themselves for a while."""
    rental, form = rental_or_404(request), WindowForm(request.POST)
    if not form.is_valid():
        return go_back(request)
    try:
        services.open_window(
            rental=rental,
            length=timedelta(minutes=form.cleaned_data["minutes"]),
            by=request.user,
            ip=client_ip(request),
        )
    except services.DeviceRefused as refusal:
        return refuse(request, refusal)
    messages.success(
        request, _("New devices are approved automatically now: turn Tailscale off and on there.")
    )
    return go_back(request)


@login_required
@posted_from("acl:device-list")
def window_close(request: SignedInRequest) -> HttpResponse:
    """Approve no new device by itself any more."""
    services.close_window(rental=rental_or_404(request), by=request.user, ip=client_ip(request))
    messages.success(request, _("New devices wait for your approval again."))
    return go_back(request)


# Checking at all


@login_required
@require_http_methods(["GET", "POST"])
def checking_stop(request: SignedInRequest) -> HttpResponse:
    """What it means to let everybody in, with the button; then it is done."""
    rental = rental_or_404(request)
    if not services.may_open(rental, timezone.now()):
        return refuse(request, services.OpeningForbidden())
    form = OpenForm(request.POST or None)
    if not form.is_valid():
        return render(request, "acl/devices/checking_stop.html", {"form": form})
    try:
        services.set_open(rental=rental, is_open=True, by=request.user, ip=client_ip(request))
    except services.DeviceRefused as refusal:
        return refuse(request, refusal)
    messages.warning(request, _("Device checking is off: anyone who knows an address can use your relays."))
    return go_back(request)


@login_required
@posted_from("acl:device-list")
def checking_start(request: SignedInRequest) -> HttpResponse:
    """Let only approved devices in again."""
    rental = rental_or_404(request)
    try:
        services.set_open(rental=rental, is_open=False, by=request.user, ip=client_ip(request))
    except services.DeviceRefused as refusal:
        return refuse(request, refusal)
    messages.success(
        request, _("Devices are checked again. Those that are not approved are being disconnected.")
    )
    return go_back(request)


# The customer's own verify address


def _show_verify(request: SignedInRequest, form: VerifyUrlForm, status: int = 200) -> HttpResponse:
    rental = own_rental(request)
    state = describe_state(rental=rental, now=timezone.now()) if rental else None
    response = render(request, "acl/devices/verify_show.html", {"state": state, "form": form}, status=status)
    response.headers["Cache-Control"] = "private, no-store"
    return response


@login_required
@require_GET
def verify_show(request: SignedInRequest) -> HttpResponse:
    """What the own verify address is for, which one is asked, and how its last question went."""
    return _show_verify(request, VerifyUrlForm())


@login_required
@posted_from("acl:verify-show")
def verify_set(request: SignedInRequest) -> HttpResponse:
    """Keep an address that answers as it should; one that does not, or comes too soon, stays in its field, with the reason."""
    rental, form = rental_or_404(request), VerifyUrlForm(request.POST)
    try:
        consume(request, group="verify_url", key=str(request.user.pk), rate=VERIFY_RATE)
    except TooManyRequests as limit:
        say_later(form, "url", limit.wait_seconds)
        response = _show_verify(request, form, status=429)
        response["Retry-After"] = str(limit.wait_seconds)
        return response
    if not form.is_valid():
        return _show_verify(request, form)
    url = form.cleaned_data["url"]
    try:
        services.set_verify_url(rental=rental, url=url, by=request.user, ip=client_ip(request))
    except (VerifyUrlRefused, services.DeviceRefused) as refusal:
        form.add_error("url", str(refusal))
        return _show_verify(request, form)
    messages.success(
        request,
        _("%(address)s answers as it should, and is asked from now on.") % {"address": masked_url(url)},
    )
    return redirect("acl:verify-show")


@login_required
@require_http_methods(["GET", "POST"])
def verify_remove(request: SignedInRequest) -> HttpResponse:
    """Ask the customer's own address no longer, when that is confirmed."""
    rental = rental_or_404(request)
    if request.method == "GET":
        return _ask_remove(request, rental)
    try:
        services.set_verify_url(rental=rental, url="", by=request.user, ip=client_ip(request))
    except services.DeviceRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, _("Your own address is no longer asked."))
    return redirect("acl:verify-show")


def _ask_remove(request: SignedInRequest, rental: Rental) -> HttpResponse:
    policy = DevicePolicy.objects.filter(rental=rental).first()
    if policy is None or not policy.verify_url:
        return redirect("acl:verify-show")
    return confirming.ask(
        request,
        question=_("Remove %(address)s?") % {"address": masked_url(policy.verify_url)},
        effects=[
            _("It is not asked any more: a new device waits until you approve it."),
            _("Devices that came in by it stay approved."),
        ],
        act=_("Remove"),
        back=reverse("acl:verify-show"),
    )
