"""The customer's map: download, copy, explanation, history, live URL."""

from typing import Any, cast

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET
from django_htmx.middleware import HtmxDetails

from accounts.models import User
from accounts.requests import SignedInRequest
from acl.maps import services
from acl.maps.derpmap import DEFAULT_MAP_URL, HEADSCALE_KEEPS_SINCE, HEADSCALE_PATH, OLDEST_CLIENT, MapFormat
from acl.maps.forms import RegionIdForm, ShownForm
from acl.maps.models import AclEvent, LiveUrl, MapRegion
from acl.maps.tables import MapHistoryTable
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.limits import consume
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
@posted_from("home")
def region_change(request: HtmxRequest, pk: int) -> HttpResponse:
    """Another region ID for one relay: answers htmx with the map's part of the page, others with the home page.

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
    if not error and not request.htmx:
        messages.success(request, _("The region ID was changed. Paste the new version of the map."))
        return redirect("home")
    parts: dict[str, Any] = {"map": services.describe_map(rental=row.rental, now=timezone.now())}
    if error:
        typed = request.POST.get("region_id", "")
        parts |= {"region_error": error, "region_failed": row.pk, "region_typed": typed}
    return render(request, "acl/maps/_map.html" if request.htmx else "acl/maps/region_refused.html", parts)


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
@require_GET
def map_history(request: SignedInRequest) -> HttpResponse:
    """The customer's versions and downloads, newest first."""
    table = MapHistoryTable(AclEvent.objects.filter(rental__user=_person(request)))
    show_page(request, table, rows=HISTORY_ROWS)
    return render(request, "acl/maps/map_history.html", {"table": table})


@login_required
@posted_from("home")
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
    return redirect("home")


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
            "keeps_since": HEADSCALE_KEEPS_SINCE,
        },
    )
    response.headers["Cache-Control"] = "private, no-store"
    return response


@login_required
@posted_from("acl:live-show")
def live_create(request: SignedInRequest) -> HttpResponse:
    """Make the live URL, or another in the place of the one there is."""
    consume(request, group="live_url", key=str(request.user.pk), rate=services.RENEW_RATE)
    rental = _own_rental(request)
    if rental is None:
        return redirect("acl:live-show")
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


@login_required
@posted_from("acl:live-show")
def live_revoke(request: SignedInRequest) -> HttpResponse:
    """End the live URL that the page showed, at once."""
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
