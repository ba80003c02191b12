"""Where a person can be sent: by GET, to a whole page. An address that is a button's or a part of a page names the page it stands on."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render
from django.urls import Resolver404, ResolverMatch, resolve, reverse
from django.utils.http import url_has_allowed_host_and_scheme

_View = TypeVar("_View", bound=Callable[..., HttpResponseBase])

# Addresses of libraries that are no pages, and the pages they stand on.
_OTHERS = {
    "mfa_reauthenticate_webauthn": "account_reauthenticate",
    "mfa_login_webauthn": "account_login",
    "admin:jsi18n": "admin:index",
    "admin:autocomplete": "admin:index",
}


def part_of(page: str, *names: str) -> Callable[[_View], _View]:
    """Says of a view that it is no page: `page` is the URL name of the one it belongs to, `names` those of its arguments that has too."""

    def mark(view: _View) -> _View:
        @wraps(view)
        def inner(*args: Any, **kwargs: Any) -> HttpResponseBase:
            return view(*args, **kwargs)

        inner.page = (page, names)  # type: ignore[attr-defined]
        return inner  # type: ignore[return-value]

    return mark


def posted_from(page: str, *names: str) -> Callable[[_View], _View]:
    """As `part_of`, for a button's address: who comes by GET (405) is told so and finds the way to the page."""

    def mark(view: _View) -> _View:
        @wraps(view)
        def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            if request.method == "POST":
                return view(request, *args, **kwargs)
            context = {"back_to": reverse(page, args=[kwargs[name] for name in names])}
            response = render(request, "405.html", context, status=405)
            response.headers["Allow"] = "POST"
            return response

        return part_of(page, *names)(inner)  # type: ignore[return-value]

    return mark


def page_of(address: str) -> str:
    """The address of the page that `address` (path and query) is, or is a part of; the home page for one that is nowhere."""
    try:
        match: ResolverMatch = resolve(urlsplit(address).path)
    except Resolver404:
        return reverse("home")
    page, names = getattr(match.func, "page", (_OTHERS.get(match.view_name, ""), ()))
    return reverse(page, args=[match.kwargs[name] for name in names]) if page else address


def page_before(request: HttpRequest, wanted: str = "") -> str:
    """The page a person is to come back to: `wanted`, else the one they are on, else home; always one that opens by GET.

    For a part of a page, and for what was posted, that is the page it came from.
    """
    if wanted and wanted != request.get_full_path():
        candidates = [wanted]
    elif request.headers.get("HX-Request") == "true":
        candidates = [request.headers.get("HX-Current-URL", ""), request.get_full_path()]
    elif request.method not in {"GET", "HEAD"}:
        candidates = [request.headers.get("Referer", ""), request.path]
    else:
        candidates = [request.get_full_path()]
    for address in candidates:
        if address and url_has_allowed_host_and_scheme(address, {request.get_host()}):
            parts = urlsplit(address)
            return page_of(f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}")
    return reverse("home")
