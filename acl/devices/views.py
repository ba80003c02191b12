"""The customer's devices: who is connected, who may, who wants to; and who asked."""

import re
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.forms import Form
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_http_methods
from django_htmx.http import HttpResponseClientRefresh, trigger_client_event
from django_tables2 import LazyPaginator

from accounts.requests import SignedInRequest
from acl.devices import services
from acl.devices.forms import PasteForm
from acl.devices.models import Admission, Device
from acl.devices.node_keys import NewDevice
from acl.devices.presence import ask_presence
from acl.devices.sentences import say_added, say_approved, say_left_out
from acl.devices.services.device_panel import (
    DeviceState,
    describe_device,
    describe_lists,
    describe_state,
    relay_names,
)
from acl.devices.tables import AdmissionTable
from containers.derp.keys import format_node_key
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.limits import TooManyRequests, consume
from derpmgmt.lib.paging import show_page
from derpmgmt.lib.way_back import part_of, posted_from
from serials.rentals.models import Rental

ADMISSION_ROWS = 25
_PK = re.compile(r"[0-9]{1,18}")
# What says which part of the lists a page shows: search words, and the page of each list.
_WHERE = ("q", "page", "connected", "revoked", "refused")


def own_rental(request: SignedInRequest) -> Rental | None:
    """The customer's own rental; what others have is for the admin's pages."""
    return Rental.objects.visible_to(request.user).filter(user=request.user).first()


def rental_or_404(request: SignedInRequest) -> Rental:
    """The customer's own rental; raises `Http404` when they have none."""
    return get_object_or_404(Rental.objects.visible_to(request.user), user=request.user)


def own_device(request: SignedInRequest, pk: int | str) -> Device | None:
    """The customer's own device; None when there is none (any more), 404 for what belongs to another."""
    if not _PK.fullmatch(str(pk)):
        raise Http404
    device = Device.objects.visible_to(request.user).select_related("rental__user").filter(pk=pk).first()
    is_anothers = (
        device.rental.user_id != request.user.pk if device else Device.objects.filter(pk=pk).exists()
    )
    if is_anothers:
        raise Http404
    return device


def clean_where(values: QueryDict) -> QueryDict:
    where = QueryDict(mutable=True)
    for name in _WHERE:
        if value := values.get(name):
            where[name] = str(value)[:80]
    return where


def go_back(request: SignedInRequest) -> HttpResponse:
    """To the page whose button was pressed, where the list was open."""
    back = request.POST.get("back", "")
    if back == "home":
        return redirect("home")
    where = clean_where(QueryDict(back)).urlencode()
    return redirect(reverse("acl:device-list") + (f"?{where}" if where else ""))


def refuse(request: SignedInRequest, refusal: services.DeviceRefused) -> HttpResponse:
    """Back again, with the sentence why it was not done."""
    messages.error(request, str(refusal))
    return go_back(request)


# The page and its parts


def _state(request: SignedInRequest, rental: Rental, where: QueryDict) -> DeviceState:
    if rental.is_entitled(timezone.now()):
        ask_presence(rental_pk=rental.pk)
    return describe_state(rental=rental, now=timezone.now(), page=where.get("connected", 1))


def _parts(request: SignedInRequest, rental: Rental) -> dict[str, Any]:
    """What the whole page shows; a fixed number of queries."""
    where = clean_where(request.GET)
    state = _state(request, rental, where)
    words = where.get("q", "")
    lists = describe_lists(
        rental=rental,
        state=state,
        words=words,
        page=where.get("page", 1),
        revoked_page=where.get("revoked", 1),
        refused_page=where.get("refused", 1),
    )
    return {
        "rental": rental,
        "state": state,
        "lists": lists,
        "words": words,
        "where": where,
        "back": where.urlencode(),
    }


def _show_list(request: SignedInRequest, form: PasteForm | None = None, status: int = 200) -> HttpResponse:
    rental = own_rental(request)
    if rental is None:
        return render(request, "acl/devices/device_list.html", {"rental": None})
    parts = _parts(request, rental)
    parts |= {"form": form or PasteForm(), "is_first": True}
    return render(request, "acl/devices/device_list.html", parts, status=status)


@login_required
@require_GET
def device_list(request: SignedInRequest) -> HttpResponse:
    """Connected devices, approved ones, those who wait; adding by pasting; the rules."""
    return _show_list(request)


@login_required
@require_GET
@part_of("acl:device-list")
def device_state(request: SignedInRequest) -> HttpResponse:
    """Places, window and who is connected, asked for by the page itself; says by an event when the lists are others."""
    rental = own_rental(request)
    if rental is None or not rental.is_entitled(timezone.now()):
        return HttpResponseClientRefresh()
    where = clean_where(request.GET)
    state = _state(request, rental, where)
    context = {"rental": rental, "state": state, "where": where, "back": where.urlencode()}
    response = render(request, "acl/devices/_device_state.html", context)
    if request.GET.get("mark") != state.mark:
        trigger_client_event(response, "devices-changed")
    return response


@login_required
@require_GET
@part_of("acl:device-list")
def device_lists(request: SignedInRequest) -> HttpResponse:
    """The lists alone, asked for by the page itself."""
    rental = own_rental(request)
    if rental is None:
        return HttpResponseClientRefresh()
    return render(request, "acl/devices/_device_lists.html", _parts(request, rental))


# Letting in and keeping out


@login_required
@require_http_methods(["GET", "POST"])
def device_add(request: SignedInRequest) -> HttpResponse:
    """Show what was pasted, and add of it what is confirmed (`sure`, and the keys that are ticked).

    A text that is no list of devices, finds no place, or comes too soon stays in its field.
    """
    if request.method == "GET":
        return redirect(reverse("acl:device-list") + "#device-add")
    rental = rental_or_404(request)
    form = PasteForm(request.POST)
    try:
        consume(request, group="device_paste", key=str(request.user.pk), rate=services.PASTE_RATE)
    except TooManyRequests as limit:
        return _show_later(request, form, limit.wait_seconds)
    if not form.is_valid():
        return _show_list(request, form)
    named: list[NewDevice] = form.cleaned_data["text"]
    ticked = set(request.POST.getlist("key"))
    devices = [device for device in named if device.node_key in ticked]
    if not request.POST.get("sure") or not devices:
        return _show_paste(request, rental, named)
    try:
        added = services.add_devices(rental=rental, devices=devices, by=request.user, ip=client_ip(request))
    except services.DeviceRefused as refusal:
        form.add_error("text", str(refusal))
        return _show_list(request, form)
    for level, text in say_added(added):
        messages.add_message(request, level, text)
    if not added.left_out:
        return redirect(reverse("acl:device-list") + "#messages")
    # What found no place stays in the field.
    left = "\n".join(f"{format_node_key(one.node_key)} {one.name}".strip() for one in added.left_out)
    form = PasteForm({"text": left})
    form.add_error("text", say_left_out(added))
    return _show_list(request, form)


def _show_paste(request: SignedInRequest, rental: Rental, named: list[NewDevice]) -> HttpResponse:
    """Which devices were pasted and what would become of each, to confirm."""
    paste = services.describe_paste_of(rental=rental, devices=named, now=timezone.now())
    context = {"paste": paste, "is_incomplete": bool(request.POST.get("sure"))}
    return render(request, "acl/devices/device_paste.html", context)


def _show_later(request: SignedInRequest, form: PasteForm, seconds: int) -> HttpResponse:
    say_later(form, "text", seconds)
    response = _show_list(request, form, status=429)
    response["Retry-After"] = str(seconds)
    return response


def say_later(form: Form, field: str, seconds: int) -> None:
    """Say at a field, instead of what may be wrong about what was typed, when it may be tried again."""
    minutes = -(-seconds // 60)
    text = ngettext(
        "For safety, this is limited. Try again in %(minutes)s minute.",
        "For safety, this is limited. Try again in %(minutes)s minutes.",
        minutes,
    )
    form.errors[field] = form.error_class([text % {"minutes": minutes}])


@login_required
@posted_from("acl:device-list")
def device_approve(request: SignedInRequest, pk: int) -> HttpResponse:
    """Let a device in that waits or was revoked; with `replaces` instead of that one."""
    device, replaces = own_device(request, pk), None
    is_gone = device is None
    if old := request.POST.get("replaces", ""):
        replaces = own_device(request, old)
        is_gone = is_gone or replaces is None
    if device is None or is_gone:
        return refuse(request, services.NotWaiting())
    try:
        device = services.approve_device(
            device=device,
            by=request.user,
            replaces=replaces,
            name=request.POST.get("name", ""),
            ip=client_ip(request),
        )
    except services.DeviceRefused as refusal:
        return refuse(request, refusal)
    messages.success(request, say_approved(device, is_replacing=replaces is not None))
    return go_back(request)


@login_required
@posted_from("acl:device-list")
def device_ignore(request: SignedInRequest, pk: int) -> HttpResponse:
    """Refuse a device that waits: it is not asked about again, and stands in a list of its own."""
    device = own_device(request, pk)
    if device is None or not services.ignore_device(device=device, by=request.user, ip=client_ip(request)):
        return refuse(request, services.NotWaiting())
    messages.success(
        request,
        _("%(device)s was refused and stays out. You can still let it in: it is listed under “Refused”.")
        % {"device": device},
    )
    return go_back(request)


@login_required
@require_http_methods(["GET", "POST"])
def device_revoke(request: SignedInRequest, pk: int) -> HttpResponse:
    """What revoking does, with the button; then it is done."""
    device = own_device(request, pk)
    if device is None or device.status == Device.Status.REVOKED:
        messages.info(request, _("This device is revoked already."))
        return go_back(request)
    if request.method == "GET":
        context = {
            "device": device,
            "is_open": services.lets_all_in(device.rental, timezone.now()),
            "back": clean_where(request.GET).urlencode(),
        }
        return render(request, "acl/devices/device_revoke.html", context)
    if services.revoke_device(device=device, by=request.user, ip=client_ip(request)):
        text = _("%(device)s is revoked, and its connections are being cut. It stays out.")
        messages.success(request, text % {"device": device})
    else:
        messages.info(request, _("This device is revoked already."))
    return go_back(request)


@login_required
@posted_from("acl:device-list")
def device_rename(request: SignedInRequest, pk: int) -> HttpResponse:
    """Give a device another name: answers htmx with the device's line, others with the list."""
    device = own_device(request, pk)
    if device is None:
        if request.headers.get("HX-Request"):
            return HttpResponseClientRefresh()
        messages.error(request, _("This device is gone."))
        return go_back(request)
    services.rename_device(
        device=device, name=request.POST.get("name", ""), by=request.user, ip=client_ip(request)
    )
    if not request.headers.get("HX-Request"):
        return go_back(request)
    device.refresh_from_db()
    state = describe_state(rental=device.rental, now=timezone.now())
    context = {
        "line": describe_device(rental=device.rental, state=state, device=device),
        "state": state,
        "back": clean_where(QueryDict(request.POST.get("back", ""))).urlencode(),
    }
    return render(request, "acl/devices/_device_line.html", context)


# Who asked to be let in


@login_required
@require_GET
def admission_list(request: SignedInRequest) -> HttpResponse:
    """Who asked to be let in within 30 days, and the answer, newest first; by answer, and by device."""
    rental = own_rental(request)
    answer, key = request.GET.get("answer", ""), request.GET.get("key", "").lower()[:64]
    rows = Admission.objects.visible_to(request.user).filter(rental=rental)
    if answer in {"allowed", "refused"}:
        rows = rows.filter(is_allowed=answer == "allowed")
    if key:
        rows = rows.filter(node_key=key)
    table = AdmissionTable(rows, relays=relay_names(rental) if rental else {})
    show_page(request, table, rows=ADMISSION_ROWS, paginator_class=LazyPaginator)
    keys = [row.record.node_key for row in table.paginated_rows]
    devices = Device.objects.visible_to(request.user).filter(rental=rental, node_key__in={*keys, key})
    table.devices = {device.node_key: device for device in devices}
    context = {
        "table": table,
        "most": services.MOST_OF_RENTAL,
        "has_rental": rental is not None,
        "answer": answer,
        "key": key,
        "device": table.devices.get(key),
    }
    return render(request, "acl/devices/admission_list.html", context)
