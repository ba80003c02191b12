"""Pages that say what is about to happen and ask for one more click."""

from collections.abc import Iterable, Mapping

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def ask(
    request: HttpRequest,
    *,
    question: str,
    effects: Iterable[str],
    act: str,
    back: str,
    hidden: Mapping[str, object] | None = None,
    address: str = "",
) -> HttpResponse:
    """The page that asks `question`, which names the thing, and says in `effects` what happens then.

    The red button `act` posts `hidden` to the same address, or to `address`; `back` is where whoever thinks better of it goes. Is kept by no cache.
    """
    context = {
        "question": question,
        "effects": effects,
        "act": act,
        "back": back,
        "hidden": hidden or {},
        "address": address,
    }
    response = render(request, "confirm.html", context)
    response.headers["Cache-Control"] = "private, no-store"
    return response
