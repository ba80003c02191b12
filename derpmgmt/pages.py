"""Pages that draw on many apps: the front page and the customer's home."""

from typing import Any

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.views.decorators.http import require_GET
from django_htmx.http import HttpResponseClientRefresh, trigger_client_event

from accounts.models import User
from acl.services import describe_map
from containers.progress import relay_cards
from serials.models import Rental
from serials.services import current_span


def context(request: HttpRequest) -> dict[str, Any]:
    """What every template may know."""
    return {"is_demo": settings.IS_DEMO}


def _redeem_url() -> str:
    try:
        return reverse("serials:serial-redeem")
    except NoReverseMatch:
        return "/redeem/"


def front(request: HttpRequest) -> HttpResponse:
    """The front page."""
    return render(request, "front.html", {"redeem_url": _redeem_url()})


def _parts(user: User) -> dict[str, Any]:
    """What the customer's home shows, from every room; a fixed number of queries."""
    now = timezone.now()
    rental = Rental.objects.filter(user=user).first()
    if rental is None:
        return {"rental": None}
    is_entitled = rental.is_entitled(now)
    cards = relay_cards(rental, now) if is_entitled else []
    panel = describe_map(rental=rental, now=now)
    span = current_span(rental, now)
    share = (now - span.starts_at) / (span.ends_at - span.starts_at) if span else 0
    return {
        "rental": rental,
        "is_entitled": is_entitled,
        "cards": cards,
        "is_live": any(card.is_live for card in cards),
        "is_short": any(card.relay is None for card in cards),
        "is_unproven": bool(cards) and not any(card.state == "running" for card in cards),
        "map": panel,
        "map_version": panel.config.version if panel.config else "",
        "used_percent": round(100 * share),
    }


@login_required
def home(request: HttpRequest) -> HttpResponse:
    """The customer's home page: his rental, his relays, his map."""
    return render(
        request, "home.html", {**_parts(request.user), "redeem_url": reverse("serials:serial-redeem")}
    )


@login_required
@require_GET
def home_relays(request: HttpRequest) -> HttpResponse:
    """The relay cards alone, asked for by the page itself; says by an event when the map beside them is another one."""
    parts = _parts(request.user)
    if not parts["rental"] or not parts["is_entitled"]:
        return HttpResponseClientRefresh()
    response = render(request, "containers/_relays.html", parts)
    if str(parts["map_version"]) != request.GET.get("map", ""):
        trigger_client_event(response, "map-changed")
    return response


@login_required
@require_GET
def home_map(request: HttpRequest) -> HttpResponse:
    """The map's part of the page alone, with what of the page goes by it."""
    return render(request, "acl/_map.html", _parts(request.user))


def too_many_requests(request: HttpRequest, *, wait_seconds: int = 0) -> HttpResponse:
    """The 429 page; says how long to wait when that is known, to people and in Retry-After."""
    minutes = -(-wait_seconds // 60)
    response = render(request, "429.html", {"wait_minutes": minutes}, status=429)
    if wait_seconds:
        response["Retry-After"] = str(wait_seconds)
    return response
