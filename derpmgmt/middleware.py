"""What every request passes: its Host header, compression, the language, the door, and the limits of the pages that strangers may try."""

from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.messages import get_messages
from django.http import HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.middleware.gzip import GZipMiddleware
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django_htmx.http import HttpResponseClientRedirect
from django_ratelimit.exceptions import Ratelimited

from accounts import browsers, tries
from accounts.services import acting
from derpmgmt import pages
from derpmgmt.lib import limits
from derpmgmt.lib.address import client_ip, client_network, note_proxy
from derpmgmt.lib.mail import MailFailed, MailLimited
from derpmgmt.lib.public_url import read_host
from derpmgmt.lib.way_back import page_before

GetResponse = Callable[[HttpRequest], HttpResponse]


class LanguageMiddleware:
    """The signed-in person's own language, else the one chosen with the switch (a cookie), else Chinese.

    The browser's Accept-Language does not count: the panel is Chinese unless somebody chooses English.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        chosen = request.COOKIES.get(settings.LANGUAGE_COOKIE_NAME, "")
        if request.user.is_authenticated:
            chosen = request.user.language
        language = chosen if chosen in dict(settings.LANGUAGES) else settings.LANGUAGE_CODE
        with translation.override(language):
            request.LANGUAGE_CODE = language
            response = self.get_response(request)
        response.headers.setdefault("Content-Language", language)
        patch_vary_headers(response, ("Cookie",))
        return response


class CompressMiddleware(GZipMiddleware):
    """Compresses pages, but for those of a signed-in browser that another site may have asked for.

    What is compressed tells by its length what stands in it twice. So a site that has somebody's browser ask for their pages again and
    again, with guesses in the address, could find out what is secret there if it sees how long the answers are (BREACH,
    https://www.breachattack.com). Browsers say who asks (Sec-Fetch-Site, https://www.w3.org/TR/fetch-metadata/); where https is used and
    one does not, nobody knows. Django hides lengths behind random ones too, and masks its CSRF tokens.
    """

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        asker = request.headers.get("Sec-Fetch-Site", "" if settings.IS_HTTPS else "none")
        if settings.SESSION_COOKIE_NAME in request.COOKIES and asker not in {"same-origin", "none"}:
            return response
        return super().process_response(request, response)


class ToastMiddleware:
    """Sends what a request said (django.contrib.messages) along with the part of a page that htmx asked for."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        # An answer that leads the window elsewhere leaves them to the page it goes to.
        is_part = (
            request.headers.get("HX-Request") == "true"
            and response.status_code == 200
            and response.get("Content-Type", "").startswith("text/html")
            and not {"HX-Redirect", "HX-Refresh"} & response.headers.keys()
        )
        if is_part and get_messages(request):
            response.content += render_to_string("partials/messages.html", {"is_oob": True}, request).encode()
        return response


class ActingMiddleware:
    """Has what operators do written down with the address they do it from, whatever page or button it is."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        if not (request.user.is_authenticated and request.user.is_staff):
            return self.get_response(request)
        with acting(request.user.pk, client_ip(request)):
            return self.get_response(request)


class HostMiddleware:
    """Puts an IPv6 address in the Host header into the form in which browsers write it: other programs send it as it was typed."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        host = request.META.get("HTTP_HOST", "")
        if host.startswith("["):
            with suppress(ValueError):  # Django refuses what is no address
                request.META["HTTP_HOST"] = read_host(host) + host.rpartition("]")[2]
        return self.get_response(request)


class DoorMiddleware:
    """Sends whoever must sign in to the door, and from there back to a page that opens by GET; keeps signed-in pages out of caches.

    A part of a page that htmx asked for is never answered with another page: the window goes there as a whole.
    """

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        response = self.get_response(request)
        if request.user.is_authenticated and "no-store" not in response.headers.get("Cache-Control", ""):
            response.headers["Cache-Control"] = "private, no-store"
        target = response.headers.get("Location", "")
        if not target:
            return response
        parts = urlsplit(target)
        if parts.path in {reverse("account_login"), reverse("admin:login")} and not parts.netloc:
            values = QueryDict(parts.query, mutable=True)
            wanted = values.get("next", "")
            if (page := page_before(request, wanted)) != wanted:
                values["next"] = page
                target = response.headers["Location"] = f"{parts.path}?{values.urlencode(safe='/')}"
        if request.headers.get("HX-Request") == "true":
            whole = HttpResponseClientRedirect(target)
            whole.cookies = response.cookies
            whole.headers["Cache-Control"] = "private, no-store"
            return whole
        return response


# Passwords, second factors and resets are counted by `accounts.tries`. By session: pages on which a code is typed that belongs to it
# (allauth takes it back after a few wrong ones, and each new one is a counted sign-up or reset), so that nobody keeps the code of
# somebody else in their network from being taken; by network for who has no session. What did not lead on counts.
FAILED_BY_SESSION = {
    "mfa_login_webauthn": "30/10m",
    "account_email_verification_sent": "30/10m",
    "account_confirm_password_reset_code": "30/10m",
    "account_complete_password_reset": "30/10m",
}
# By whoever is signed in: what did not lead on, and what sends a mail.
FAILED_BY_USER = {"account_change_password": "10/10m"}
SENT_BY_USER = {"account_email": "20/h"}


class LimitMiddleware:
    """Counts tries of the pages above; answers 429 with the time to wait where a limit is reached, 503 where mail fails."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        note_proxy(request)
        response = self.get_response(request)
        match = request.resolver_match
        # What was refused before it came to a view was no try: other sites may let their visitors' browsers post here.
        is_try = getattr(request, "_is_let_in", False)
        if match and is_try and not _leads_on(response) and response.status_code != 429:
            limits.count(request, group=match.view_name, counts=self._failures(request, match.view_name))
        browsers.remember(request, response)
        return response

    def process_view(self, request: HttpRequest, *view: object) -> HttpResponse | None:
        if request.method != "POST" or request.resolver_match is None:
            return None
        request._is_let_in = True  # type: ignore[attr-defined]
        name = request.resolver_match.view_name
        email = request.POST.get("email", "").strip().lower()
        try:
            limits.ask(request, group=name, counts=self._failures(request, name))
            if name == "account_reset_password":
                tries.ask(request, tries.RESET, email=email)
                tries.count(request, tries.RESET, email=email)
            if name == "account_signup":
                tries.count_sign_up(request, email)
            if (rate := SENT_BY_USER.get(name)) and request.user.is_authenticated:
                limits.consume(request, group=name, key=f"account:{request.user.pk}", rate=rate)
        except limits.TooManyRequests as error:
            return pages.too_many_requests(request, wait_seconds=error.wait_seconds)
        return None

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        if isinstance(error, limits.TooManyRequests):
            return pages.too_many_requests(request, wait_seconds=error.wait_seconds)
        if isinstance(error, Ratelimited):
            return pages.too_many_requests(request)
        if isinstance(error, MailLimited):
            return pages.mail_limited(request, wait_seconds=error.wait_seconds)
        if isinstance(error, MailFailed):
            return pages.mail_failed(request)
        return None

    @staticmethod
    def _failures(request: HttpRequest, name: str) -> list[limits.Limit]:
        found = []
        if rate := FAILED_BY_SESSION.get(name):
            # Reading it shows whether the browser's cookie names one that there is.
            has_session = bool(request.session.keys())
            key = (
                f"session:{request.session.session_key}"
                if has_session
                else f"network:{client_network(request)}"
            )
            found.append(limits.Limit(key, rate))
        if (rate := FAILED_BY_USER.get(name)) and request.user.is_authenticated:
            found.append(limits.Limit(f"account:{request.user.pk}", rate))
        return found


def _leads_on(response: HttpResponse) -> bool:
    """Whether the answer sends on to the next page; back to the sign-in page is none."""
    target = response.headers.get("Location", "")
    return bool(target) and not target.startswith(reverse("account_login"))
