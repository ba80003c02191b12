"""The admin's site object: who gets in and by which door, and the pages that belong to no table."""

from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.core.exceptions import PermissionDenied
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.utils.http import url_has_allowed_host_and_scheme, urlencode
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.cache import never_cache
from django.views.i18n import JavaScriptCatalog

from accounts import services
from accounts.alerts.feeding import alert_pages
from accounts.matters import unknown_proxy
from accounts.requests import staff_of, used_second_factor
from derpmgmt.admin_tasks import navigation
from derpmgmt.lib.address import is_proxy_unknown
from derpmgmt.lib.finding import search
from derpmgmt.lib.matters import Matter
from derpmgmt.lib.way_back import page_of
from derpmgmt.overview import admin_alerts, admin_overview

# These tables are changed by services and by the person themselves, which log what they do; never row by row in the admin.
HIDDEN_APPS = {"account", "auth", "mfa", "usersessions"}

WORDING = settings.BASE_DIR / "accounts" / "wording"


class _ScriptWords(JavaScriptCatalog):
    """The words of Django's own scripts, with ours over them."""

    packages = ("django.contrib.admin",)  # type: ignore[assignment]

    def get_paths(self, packages: Any) -> list[str]:
        return [*super().get_paths(packages), str(WORDING)]


class PanelAdminSite(admin.AdminSite):
    """The operators' side of the panel: staff, with a second factor, used in this session."""

    site_header = site_title = gettext_lazy("derpmgmt operations")
    index_title = gettext_lazy("Overview")

    def register(self, model_or_iterable: Any, admin_class: Any = None, **options: Any) -> None:
        models: Iterable[type[Model]] = (
            [model_or_iterable] if isinstance(model_or_iterable, type) else model_or_iterable
        )
        shown = [model for model in models if model._meta.app_label not in HIDDEN_APPS]
        super().register(shown, admin_class, **options)

    def get_urls(self) -> list[Any]:
        # No row of ours has a page of its own outside: what would lead to it answers 404, whatever table it is asked for.
        own = [
            path("search/", self.admin_view(self.search), name="search"),
            path("alerts/", self.admin_view(self.alerts), name="alerts"),
            path("settings/", self.admin_view(self.settings), name="settings"),
        ]
        return own + [url for url in super().get_urls() if getattr(url, "name", "") != "view_on_site"]

    def i18n_javascript(self, request: HttpRequest, extra_context: Any = None) -> HttpResponseBase:  # type: ignore[override]
        return _ScriptWords.as_view()(request)

    def each_context(self, request: HttpRequest) -> dict[str, Any]:
        context = super().each_context(request)
        return {**context, **navigation(self, request, context["available_apps"])}

    def has_permission(self, request: HttpRequest) -> bool:
        user = request.user
        return bool(
            user.is_active
            and user.is_staff
            and services.has_second_factor(user)
            and used_second_factor(request)
        )

    def index(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> TemplateResponse:
        """The start page: what needs a person, and today's figures."""
        return super().index(request, {**admin_overview(self._own_matters(request)), **(extra_context or {})})

    @staticmethod
    def _own_matters(request: HttpRequest) -> list[Matter]:
        """What needs a person and only the request itself tells."""
        return [unknown_proxy()] if is_proxy_unknown(request) else []

    def alerts(self, request: HttpRequest) -> HttpResponse:
        """All that needs a person, to be narrowed down by level, room and region."""
        found = admin_alerts(self._own_matters(request), request.GET, alert_pages(request.user))
        context = {**self.each_context(request), "title": _("Alerts"), **found}
        return TemplateResponse(request, "admin/alerts.html", context)

    def search(self, request: HttpRequest) -> HttpResponse:
        """What the rooms find for `q`; where that is one thing alone, its page."""
        text = request.GET.get("q", "").strip()
        found = search(text, staff_of(request))
        if len(found) == 1:
            return HttpResponseRedirect(found[0].url)
        context = {**self.each_context(request), "title": _("Search"), "q": text, "found": found}
        return TemplateResponse(request, "admin/search.html", context)

    def settings(self, request: HttpRequest) -> HttpResponse:
        """The way to everything that is set once."""
        context = {**self.each_context(request), "title": _("Settings")}
        return TemplateResponse(request, "admin/settings.html", context)

    @method_decorator(never_cache)
    def login(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """No form of its own: each is sent to the page that gives them what they lack, and told why."""
        target = request.GET.get(REDIRECT_FIELD_NAME, "")
        if not url_has_allowed_host_and_scheme(
            target, {request.get_host()}, require_https=request.is_secure()
        ):
            target = reverse("admin:index")
        target = page_of(target)
        if self.has_permission(request):
            return HttpResponseRedirect(target)
        if not request.user.is_authenticated:
            door = "account_login"
        elif not request.user.is_staff:
            raise PermissionDenied(_("These pages are for operators."))
        elif not services.has_second_factor(request.user):
            messages.warning(
                request,
                _(
                    "Operators sign in with two steps. Set up an authenticator app now; then the operators' pages open."
                ),
            )
            door = "mfa_activate_totp"
        else:
            messages.warning(request, _("Confirm with your second factor to open the operators' pages."))
            door = "mfa_reauthenticate"
        return redirect(f"{reverse(door)}?{urlencode({REDIRECT_FIELD_NAME: target})}")

    def logout(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return redirect("account_logout")

    def password_change(  # type: ignore[override]
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        return redirect("account_change_password")
