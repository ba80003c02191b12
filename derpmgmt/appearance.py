"""Light or dark: the person's choice, kept in a cookie; without one the system's, which static/theme.js follows."""

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from derpmgmt.lib.way_back import page_before, posted_from

COOKIE = "theme"
THEMES = {"light", "dark"}
KEPT_SECONDS = 400 * 86_400  # browsers keep no cookie longer (RFC 6265bis)


def read_theme(request: HttpRequest) -> str:
    """`light` or `dark` when the browser's user chose it, else "": the system decides."""
    theme = request.COOKIES.get(COOKIE, "")
    return theme if theme in THEMES else ""


@posted_from("home")
def theme_set(request: HttpRequest) -> HttpResponse:
    """The switch: `theme` is light or dark; anything else forgets the choice. Leads back to the page."""
    response = HttpResponseRedirect(page_before(request, request.POST.get("next", "")))
    theme = request.POST.get("theme", "")
    if theme in THEMES:
        response.set_cookie(
            COOKIE, theme, max_age=KEPT_SECONDS, secure=settings.IS_HTTPS, httponly=True, samesite="Lax"
        )
    else:
        response.delete_cookie(COOKIE, samesite="Lax")
    return response
