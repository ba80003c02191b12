"""What every request passes: the person's language, and the limits of the pages that strangers may try."""

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django_ratelimit.exceptions import Ratelimited

from derpmgmt import pages
from derpmgmt.lib import limits
from derpmgmt.lib.address import client_network
from derpmgmt.lib.mail import MailFailed, MailLimited

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


# Tries (POST) of allauth's pages. By address, and by the account that the form names or that is signed in.
BY_ADDRESS = {
    "account_login": "30/10m",
    "mfa_authenticate": "30/10m",
    "mfa_login_webauthn": "30/10m",
    "account_signup": "20/h",
    "account_email_verification_sent": "30/10m",
    "account_reset_password": "20/h",
    "account_confirm_password_reset_code": "30/10m",
    "account_complete_password_reset": "30/10m",
    "account_reauthenticate": "30/10m",
    "mfa_reauthenticate": "30/10m",
}
BY_ACCOUNT = {
    "account_login": ("login", "10/10m"),
    "account_signup": ("email", "5/h"),
    "account_reset_password": ("email", "5/h"),
    "account_email": ("", "20/h"),
    "account_change_password": ("", "10/10m"),
    "account_reauthenticate": ("", "10/10m"),
    "mfa_reauthenticate": ("", "10/10m"),
}


class LimitMiddleware:
    """Counts tries of the pages above; answers 429 with the time to wait where a limit is reached, 503 where mail fails."""

    def __init__(self, get_response: GetResponse) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        return self.get_response(request)

    def process_view(self, request: HttpRequest, *view: object) -> HttpResponse | None:
        if request.method != "POST" or request.resolver_match is None:
            return None
        name = request.resolver_match.view_name
        try:
            if rate := BY_ADDRESS.get(name):
                limits.consume(request, group=name, key=f"address:{client_network(request)}", rate=rate)
            field, rate = BY_ACCOUNT.get(name, ("", ""))
            if rate and (account := self._account(request, field)):
                limits.consume(request, group=name, key=f"account:{account}", rate=rate)
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
    def _account(request: HttpRequest, field: str) -> str:
        if field:
            return request.POST.get(field, "").strip().lower()
        return str(request.user.pk or "")
