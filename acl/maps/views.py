"""The customer's map: download, copy, explanation, history, live URL."""

from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_http_methods
from django_htmx.middleware import HtmxDetails

from accounts.models import User
from accounts.requests import SignedInRequest
from acl.maps import services
from acl.maps.derpmap import (
    CRON_PATH,
    DEFAULT_MAP_URL,
    HEADSCALE_KEEPS_SINCE,
    HEADSCALE_PATH,
    OLDEST_CLIENT,
    MapFormat,
)
from acl.maps.forms import RegionIdForm, ShownForm
from acl.maps.models import AclEvent, LiveUrl, MapRegion
from acl.maps.netcheck import NotNetcheck
from acl.maps.tables import MapHistoryTable
from derpmgmt.lib import confirming
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.limits import TooManyRequests, consume
from derpmgmt.lib.moments import ago
from derpmgmt.lib.paging import show_page
from derpmgmt.lib.way_back import posted_from
from serials.rentals.models import Rental

HISTORY_ROWS = 25


class HtmxRequest(HttpRequest):
    """What django-htmx's middleware makes of a request."""

    htmx: HtmxDetails


def _person(request: HttpRequest) -> User:
    """Who is signed in."""
    return cast(User, request.user)


def _own_rental(request: HttpRequest) -> Rental | None:
    """The customer's own rental; what others have is for the admin's pages."""
    return Rental.objects.filter(user=_person(request)).first()


def _shown(request: HttpRequest) -> int | None:
    """The version or the live URL that stood on the page from which this comes."""
    form = ShownForm(request.POST)
    form.is_valid()
    return form.cleaned_data.get("shown")


def _hand_out(request: HttpRequest, file_format: str, *, copied: int | None = None) -> services.MapFile:
    try:
        form = MapFormat(file_format)
    except ValueError:
        raise Http404 from None
    consume(request, group="map", key=str(request.user.pk), rate=services.HAND_OUT_RATE)
    return services.hand_out_map(
        rental=_own_rental(request),
        file_format=form,
        by=_person(request),
        ip=client_ip(request),
        browser=request.headers.get("User-Agent", ""),
        copied=copied,
    )


@login_required
@require_GET
def map_download(request: SignedInRequest, file_format: str) -> HttpResponse:
    """The map as a file; 403 with the reason when it may not be handed out."""
    try:
        file = _hand_out(request, file_format)
    except services.DownloadRefused as refusal:
        response = render(request, "acl/maps/map_refused.html", {"refusal": refusal}, status=403)
    else:
        response = HttpResponse(file.text, content_type=file.content_type)
        response.headers["Content-Disposition"] = f'attachment; filename="{file.name}"'
    response.headers["Cache-Control"] = "private, no-store"
    return response


@login_required
@posted_from("home")
def map_copied(request: SignedInRequest, file_format: str) -> HttpResponse:
    """The page's word that the version it shows was copied, which counts as a download of that one."""
    try:
        # Without one, none is found.
        _hand_out(request, file_format, copied=_shown(request) or 0)
    except LookupError:
        raise Http404 from None
    except services.DownloadRefused as refusal:
        return HttpResponse(str(refusal), status=403, content_type="text/plain; charset=utf-8")
    return HttpResponse(status=204)


@login_required
@posted_from("acl:map-history")
def region_change(request: HtmxRequest, pk: int) -> HttpResponse:
    """Another region ID for one relay: answers htmx with what stands above the list of versions, others with the whole page.

    What is refused stays in its field, with the reason below it.
    """
    row = get_object_or_404(
        MapRegion.objects.filter(rental__user=_person(request)).select_related("rental"), pk=pk
    )
    form = RegionIdForm(request.POST)
    error = ""
    if form.is_valid():
        try:
            services.change_region_id(
                rental=row.rental,
                map_region=row,
                region_id=form.cleaned_data["region_id"],
                by=_person(request),
                ip=client_ip(request),
            )
        except services.RegionIdRefused as refusal:
            error = str(refusal)
    else:
        error = str(form.errors["region_id"][0])
    if error:
        typed = request.POST.get("region_id", "")
        return _show_versions(request, region_error=error, region_failed=row.pk, region_typed=typed)
    messages.success(request, _("The region ID was changed. Paste the new version of the map."))
    return _show_versions(request) if request.htmx else redirect("acl:map-history")


@login_required
@require_GET
def map_howto(request: SignedInRequest) -> HttpResponse:
    """Where to paste the map, in five steps, and what the client prints afterwards."""
    panel = services.describe_map(rental=_own_rental(request), now=timezone.now())
    return render(
        request,
        "acl/maps/map_howto.html",
        {
            "map": panel,
            "oldest_client": OLDEST_CLIENT,
            "headscale_path": HEADSCALE_PATH,
            "default_map_url": DEFAULT_MAP_URL,
        },
    )


@login_required
@require_http_methods(["GET", "POST"])
def netcheck(request: SignedInRequest) -> HttpResponse:
    """A device's own times to the relays, as pasted; what is none stays in its field, with what is wrong."""
    rental = _own_rental(request)
    text, error, wait = request.POST.get("text", ""), "", 0
    if request.method == "POST" and rental is not None:
        try:
            consume(request, group="netcheck", key=str(request.user.pk), rate=services.NETCHECK_RATE)
            number = services.keep_netcheck(rental=rental, text=text, now=timezone.now())
        except NotNetcheck as refusal:
            error = str(refusal) if text.strip() else _("Paste the output of the command first.")
        except TooManyRequests as limit:
            wait = limit.wait_seconds
            error = str(limit)
        else:
            messages.success(
                request,
                ngettext(
                    "The time from your device to %(number)d relay is kept.",
                    "The times from your device to %(number)d relays are kept.",
                    number,
                )
                % {"number": number},
            )
            return redirect("home")
    context = {"text": text, "error": error, "has_rental": rental is not None}
    response = render(request, "acl/maps/netcheck.html", context, status=429 if wait else 200)
    if wait:
        response["Retry-After"] = str(wait)
    return response


@login_required
@require_GET
def map_history(request: HtmxRequest) -> HttpResponse:
    """The version that counts and what may be done with it; the customer's versions and downloads, newest first."""
    return _show_versions(request)


def _show_versions(request: HtmxRequest, **region: Any) -> HttpResponse:
    version = services.describe_version(rental=_own_rental(request), now=timezone.now())
    if request.htmx and request.method == "POST":
        return render(request, "acl/maps/_version.html", {"version": version, **region})
    table = MapHistoryTable(AclEvent.objects.filter(rental__user=_person(request)))
    show_page(request, table, rows=HISTORY_ROWS)
    return render(request, "acl/maps/map_history.html", {"table": table, "version": version, **region})


@login_required
@posted_from("acl:map-history")
def map_renew(request: SignedInRequest) -> HttpResponse:
    """A new version by the customer's own hand."""
    consume(request, group="map_renew", key=str(request.user.pk), rate=services.RENEW_RATE)
    try:
        config = services.renew_map(
            rental=_own_rental(request), by=request.user, instead_of=_shown(request), ip=client_ip(request)
        )
    except services.ChangedMeanwhile as change:
        messages.info(request, str(change))
    except services.DownloadRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, _("Version %(version)s of your map is made.") % {"version": config.version})
    return redirect("acl:map-history")


@login_required
@require_GET
def live_show(request: SignedInRequest) -> HttpResponse:
    """The live URL, when it was fetched, and what to write into Headscale's configuration."""
    rental = _own_rental(request)
    live = services.describe_live(rental=rental, now=timezone.now())
    response = render(
        request,
        "acl/maps/live_show.html",
        {
            "live": live,
            "has_rental": rental is not None,
            "headscale_path": HEADSCALE_PATH,
            "default_map_url": DEFAULT_MAP_URL,
            "cron_path": CRON_PATH,
            "keeps_since": HEADSCALE_KEEPS_SINCE,
        },
    )
    response.headers["Cache-Control"] = "private, no-store"
    return response


def _live_url(request: SignedInRequest) -> LiveUrl | None:
    """The customer's live URL that is in use."""
    return LiveUrl.objects.visible_to(request.user).filter(rental__user=request.user, revoked_at=None).first()


@login_required
@require_http_methods(["GET", "POST"])
def live_create(request: SignedInRequest) -> HttpResponse:
    """Make the live URL, or, once it is confirmed, another in the place of the one there is."""
    rental = _own_rental(request)
    if rental is None:
        return redirect("acl:live-show")
    if request.method == "GET":
        url = _live_url(request)
        return redirect("acl:live-show") if url is None else _ask_replace(request, url)
    consume(request, group="live_url", key=str(request.user.pk), rate=services.RENEW_RATE)
    try:
        services.create_live_url(
            rental=rental, by=request.user, instead_of=_shown(request), ip=client_ip(request)
        )
    except services.ChangedMeanwhile as change:
        messages.info(request, str(change))
    except services.DownloadRefused as refusal:
        messages.error(request, str(refusal))
    else:
        messages.success(request, _("The live URL is made."))
    return redirect("acl:live-show")


def _ask_replace(request: SignedInRequest, url: LiveUrl) -> HttpResponse:
    return confirming.ask(
        request,
        question=_("Replace the live URL?"),
        effects=[
            *_fetched(url),
            _("The old address stops working at once, for everyone who has it."),
            _("You get a new address. Headscale and your timer follow your relays again once they have it."),
        ],
        act=_("Replace"),
        back=reverse("acl:live-show"),
        hidden={"shown": url.pk},
    )


def _fetched(url: LiveUrl) -> list[str]:
    """Who would notice."""
    if url.last_fetched_at is None:
        return [_("It has not been fetched yet.")]
    values = {"when": ago(url.last_fetched_at), "ip": url.last_ip or "–"}
    return [_("It was last fetched %(when)s from %(ip)s.") % values]


@login_required
@require_http_methods(["GET", "POST"])
def live_revoke(request: SignedInRequest) -> HttpResponse:
    """End the live URL that the page showed, at once, when that is confirmed."""
    if request.method == "GET":
        used = _live_url(request)
        return redirect("acl:live-show") if used is None else _ask_revoke(request, used)
    url = (
        LiveUrl.objects.visible_to(request.user)
        .filter(rental__user=request.user, pk=_shown(request) or 0)
        .first()
    )
    if url and services.revoke_live_url(url=url, by=request.user, ip=client_ip(request)):
        messages.success(request, _("The live URL is revoked."))
    else:
        messages.info(request, str(services.ChangedMeanwhile()))
    return redirect("acl:live-show")


def _ask_revoke(request: SignedInRequest, url: LiveUrl) -> HttpResponse:
    return confirming.ask(
        request,
        question=_("Revoke the live URL?"),
        effects=[
            *_fetched(url),
            _(
                "It stops working at once. Programs that used it keep the map they have and no longer hear of changes to your relays."
            ),
            _("You can make a new one at any time; this address does not come back."),
        ],
        act=_("Revoke"),
        back=reverse("acl:live-show"),
        hidden={"shown": url.pk},
    )
