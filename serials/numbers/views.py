"""The redeem page."""

from contextlib import nullcontext
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from accounts.models import User
from derpmgmt.lib import limits
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.refusals import Refusal
from serials.numbers import codes, services, tries
from serials.numbers.forms import LONGEST_TYPED, CodeForm, ConfirmForm
from serials.numbers.keeping import KEPT
from serials.numbers.models import SerialNumber
from serials.numbers.wording import redeemed
from serials.rentals import services as rentals
from serials.rentals.wording import moves_on


@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def serial_redeem(request: HttpRequest) -> HttpResponse:
    """The box, the check of a code that is posted, the confirmation, and its being confirmed.

    A code that passes its check is kept and the page without it is shown: its confirmation, or for a visitor the ways to sign
    up and in, which lead back here. One in the address (`?code=`) is put into the box and no more: what any picture on any page
    could ask for must neither count as a try nor be one.
    """
    if request.method == "POST":
        return _confirm(request) if "confirm" in request.POST else _check(request, CodeForm(request.POST))
    if typed := request.GET.get("code"):
        return _show_box(request, CodeForm(initial={"code": typed[:LONGEST_TYPED]}))
    if "code" in request.GET:
        request.session.pop(KEPT, None)
        return redirect("serials:serial-redeem")
    kept = _kept(request)
    if kept is None:
        return _show_box(request, CodeForm())
    try:
        serial = services.check_serial(code=kept.code, user=_user(request), ip=client_ip(request))
    except services.SerialRefused as refusal:
        return _show_refusal(request, CodeForm({"code": codes.group(kept.code)}), refusal)
    return _show_confirmation(request, serial)


def _check(request: HttpRequest, form: CodeForm) -> HttpResponse:
    if not form.is_valid():
        return _show_box(request, form)
    try:
        with tries.counted(request):
            serial = services.check_serial(
                code=form.cleaned_data["code"], user=_user(request), ip=client_ip(request)
            )
    except limits.TooManyRequests as limit:
        return _show_limit(request, form, limit)
    except services.SerialRefused as refusal:
        return _show_refusal(request, form, refusal)
    request.session[KEPT] = serial.pk
    return redirect("serials:serial-redeem")


def _confirm(request: HttpRequest) -> HttpResponse:
    user = _user(request)
    if user is None:
        return redirect_to_login(reverse("serials:serial-redeem"))
    form = ConfirmForm(request.POST)
    if not form.is_valid():
        return _show_box(request, form)
    code = form.cleaned_data["code"]
    kept = _kept(request)
    # One that this session has typed before was no guess.
    is_guess = kept is None or kept.code != codes.normalize(code)
    try:
        with tries.counted(request) if is_guess else nullcontext():
            redemption = services.redeem_serial(
                code=code,
                user=user,
                by=user,
                ip=client_ip(request),
                start_now=form.cleaned_data["start"] == "now",
            )
    except limits.TooManyRequests as limit:
        return _show_limit(request, form, limit)
    except services.AlreadyRedeemed as refusal:
        # A second click, or a second tab: what they wanted is done.
        request.session.pop(KEPT, None)
        messages.info(request, str(refusal))
        return redirect("home")
    except Refusal as refusal:
        return _show_refusal(request, form, refusal)
    request.session.pop(KEPT, None)
    messages.success(request, redeemed(redemption))
    if redemption.rental.paused_at is not None:
        messages.warning(request, moves_on())
    return redirect("home")


def _user(request: HttpRequest) -> User | None:
    return request.user if isinstance(request.user, User) else None


def _kept(request: HttpRequest) -> SerialNumber | None:
    """The serial number this session has typed: to have typed it is the right to see it."""
    pk = request.session.get(KEPT)
    return SerialNumber.objects.filter(pk=pk).first() if pk else None


def _show_box(request: HttpRequest, form: CodeForm, *, status: int = 200, **context: Any) -> HttpResponse:
    return render(request, "serials/numbers/serial_redeem.html", {"form": form, **context}, status=status)


def _show_refusal(request: HttpRequest, form: CodeForm, refusal: Refusal) -> HttpResponse:
    request.session.pop(KEPT, None)
    form.add_error("code", str(refusal))
    return _show_box(request, form, refusal=refusal.code)


def _show_limit(request: HttpRequest, form: CodeForm, limit: limits.TooManyRequests) -> HttpResponse:
    form.add_error("code", str(limit))
    response = _show_box(request, form, status=429)
    response["Retry-After"] = str(limit.wait_seconds)
    return response


def _show_confirmation(request: HttpRequest, serial: SerialNumber) -> HttpResponse:
    user = _user(request)
    context: dict[str, Any] = {
        "serial": serial,
        "code": codes.group(serial.code),
        "terms": rentals.Terms.of(serial.batch),
    }
    if user is not None:
        context["preview"] = services.preview_redemption(serial=serial, user=user, now=timezone.now())
        context["title"] = _("Redeem this serial number?")
    else:
        context["title"] = _("This serial number is valid")
    return render(request, "serials/numbers/serial_confirm.html", context)
