"""Pages that draw on many apps: the front page and the customer's home."""

import sys
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import loader
from django.templatetags.static import static
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET
from django_htmx.http import HttpResponseClientRefresh, trigger_client_event

from accounts.brand import current_brand
from accounts.models import User
from accounts.requests import SignedInRequest
from acl.devices.presence import ask_presence
from acl.devices.services.device_panel import describe_state, describe_waiting
from acl.maps.services import describe_map
from containers.progress import describe_relays
from containers.services.usage import read_usage
from derpmgmt.appearance import read_theme
from derpmgmt.first_run import describe_first_run
from derpmgmt.front import current_facts, draw_regions
from derpmgmt.lib.mail import LIMIT, WINDOW
from derpmgmt.lib.way_back import part_of
from serials.rentals.services import Standing, current_pause, read_standing

# From then on the page says that the end is near.
ENDING_SOON = timedelta(days=7)
# Of the front page's picture of a home page, in CSS pixels.
PICTURE_SIZE = (960, 600)
# Devices that wait for approval, on the home page.
WAITING_ROWS = 5


def context(request: HttpRequest) -> dict[str, Any]:
    """What every template may know."""
    return {"is_demo": settings.IS_DEMO, "theme": read_theme(request)}


def front(request: HttpRequest) -> HttpResponse:
    """The front page: what this is, live figures, where servers stand, whom to ask for a serial number."""
    facts, brand = current_facts(), current_brand()
    # Made by tests/browser/front_picture.py.
    pictures = {
        theme: static(f"front/home-{request.LANGUAGE_CODE}-{theme}.webp") for theme in ("light", "dark")
    }
    return render(
        request,
        "front.html",
        {
            "facts": facts,
            "map": draw_regions(facts.regions),
            "has_contact": bool(brand.buy_url or brand.contacts or brand.code_url),
            "pictures": pictures,
            "picture_size": PICTURE_SIZE,
            "address": f"{settings.PUBLIC_URL}{reverse('front')}",
            "picture_address": f"{settings.PUBLIC_URL}{pictures['light']}",
        },
    )


@require_GET
def robots(request: HttpRequest) -> HttpResponse:
    """What search engines may show (https://www.rfc-editor.org/rfc/rfc9309): the front page, the terms and the privacy policy."""
    shown = [f"{reverse('front')}$", reverse("terms"), reverse("privacy"), settings.STATIC_URL, "/brand/"]
    lines = ["User-agent: *", *(f"Allow: {path}" for path in shown), "Disallow: /", ""]
    return HttpResponse("\n".join(lines), content_type="text/plain; charset=utf-8")


def _parts(user: User, *, seen: str = "", looks: str = "") -> dict[str, Any]:
    """What the customer's home shows, from every room; a fixed number of queries."""
    now = timezone.now()
    standing = read_standing(user=user, now=now)
    if standing is None:
        return {"rental": None}
    rental, span = standing.rental, standing.span
    if not rental.is_entitled(now):
        pause, closes_at = current_pause(rental), rental.closes_at
        return {
            "rental": rental,
            "is_entitled": False,
            "pause_reason": pause.reason if pause else "",
            # Past only where something still holds the closing up.
            "closes_at": closes_at and max(closes_at, now),
        }
    panel = describe_map(rental=rental, now=now, standing=standing)
    usage = read_usage(rental=rental, span=span, now=now)
    # In the grace after the end all of the last span is used.
    share = min((now - span.starts_at) / (span.ends_at - span.starts_at), 1) if span else 0
    return {
        "standing": standing,
        "rental": rental,
        "is_entitled": True,
        "is_in_grace": rental.ends_at is not None and rental.ends_at <= now,
        "is_ending": rental.ends_at is not None and rental.ends_at - now < ENDING_SOON,
        "used_percent": round(100 * share),
        "usage": usage,
        **describe_relays(rental, now, flows=usage.relays, seen=seen, looks=looks),
        "map": panel,
    }


def _devices(standing: Standing) -> dict[str, Any]:
    """Devices in brief: how many are connected, and who waits for approval."""
    rental = standing.rental
    ask_presence(rental_pk=rental.pk)
    state = describe_state(rental=rental, now=timezone.now(), page=None, standing=standing)
    return {"state": state, "waiting": describe_waiting(rental=rental, state=state, most=WAITING_ROWS)}


@login_required
def home(request: SignedInRequest) -> HttpResponse:
    """The customer's home page: their rental, their relays, their map, their devices in brief."""
    parts = _parts(request.user)
    if parts["rental"] and parts["is_entitled"]:
        parts |= _devices(parts["standing"]) | {"is_first": True}
        if not parts["state"].is_set_up and not parts["state"].is_open:
            parts["first_run"] = describe_first_run(rental=parts["rental"], now=timezone.now())
    return render(request, "home.html", parts)


@login_required
@require_GET
@part_of("home")
def home_relays(request: SignedInRequest) -> HttpResponse:
    """The relay cards alone, asked for by the page itself; says by an event when the map beside them is another one."""
    parts = _parts(request.user, seen=request.GET.get("seen", ""), looks=request.GET.get("looks", ""))
    if not parts["rental"] or not parts["is_entitled"]:
        return HttpResponseClientRefresh()
    response = render(request, "containers/_relays.html", parts | {"is_part": True})
    config = parts["map"].config
    if str(config.version if config else "") != request.GET.get("map", ""):
        trigger_client_event(response, "map-changed")
    return response


@login_required
@require_GET
@part_of("home")
def home_map(request: SignedInRequest) -> HttpResponse:
    """The map's part of the page alone, with what of the page goes by it."""
    parts = _parts(request.user)
    if not parts["rental"] or not parts["is_entitled"]:
        return HttpResponseClientRefresh()
    return render(request, "home/_map.html", parts)


def _entitled_standing(request: SignedInRequest) -> Standing | None:
    """How the rental stands of whoever asks for a part of their home page; None where the page is another one by now."""
    now = timezone.now()
    standing = read_standing(user=request.user, now=now)
    return standing if standing and standing.rental.is_entitled(now) else None


@login_required
@require_GET
@part_of("home")
def home_devices(request: SignedInRequest) -> HttpResponse:
    """The devices in brief alone, asked for by the page itself."""
    standing = _entitled_standing(request)
    if standing is None:
        return HttpResponseClientRefresh()
    return render(request, "home/_devices.html", _devices(standing))


@login_required
@require_GET
@part_of("home")
def home_first_run(request: SignedInRequest) -> HttpResponse:
    """The steps until the first device is in alone, asked for by the page itself."""
    standing = _entitled_standing(request)
    if standing is None:
        return HttpResponseClientRefresh()
    first_run = describe_first_run(rental=standing.rental, now=timezone.now())
    return render(request, "home/_first_run.html", {"first_run": first_run})


def too_many_requests(request: HttpRequest, *, wait_seconds: int = 0) -> HttpResponse:
    """The 429 page; says how long to wait when that is known, to people and in Retry-After."""
    minutes = -(-wait_seconds // 60)
    response = render(request, "429.html", {"wait_minutes": minutes}, status=429)
    if wait_seconds:
        response["Retry-After"] = str(wait_seconds)
    return response


def mail_limited(request: HttpRequest, *, wait_seconds: int) -> HttpResponse:
    """The 429 page for a mail that somebody asked for when their address has had its share; says how long to wait."""
    context = {"wait_minutes": -(-wait_seconds // 60), "limit": LIMIT, "window": WINDOW.seconds // 60}
    response = render(request, "429_mail.html", context, status=429)
    response["Retry-After"] = str(wait_seconds)
    return response


def mail_failed(request: HttpRequest) -> HttpResponse:
    """The page for a request whose mail the mail server did not take; what was typed can be sent again."""
    return render(request, "503_mail.html", status=503)


def server_error(request: HttpRequest) -> HttpResponse:
    """The 500 page, or, where the database did not let something be read or written in time, a 503 page that says so.

    Both stand alone: nothing of the database is needed for them.
    """
    if isinstance(sys.exc_info()[1], OperationalError | InterfaceError):
        response = HttpResponse(loader.get_template("503.html").render(), status=503)
        response["Retry-After"] = "30"
        return response
    return HttpResponse(loader.get_template("500.html").render(), status=500)
