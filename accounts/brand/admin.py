"""The brand in the admin: one page, and a look at it before it is saved."""

import copy
from typing import Any

from csp.decorators import csp
from django.conf import settings
from django.contrib import admin
from django.contrib.auth.models import AnonymousUser
from django.contrib.messages.storage.base import BaseStorage
from django.contrib.sessions.backends.db import SessionStore
from django.core.exceptions import PermissionDenied
from django.forms import ModelForm
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import path, resolve, reverse
from django.utils.translation import get_language, gettext_lazy
from django.utils.translation import gettext as _

from accounts import services
from accounts.admin_base import StaffAdmin
from accounts.brand import make_brand, previewing
from accounts.brand.forms import BrandForm
from accounts.brand.models import ONLY_ROW, BrandSettings
from accounts.models import Notice
from accounts.requests import staff_of
from accounts.services.notices import render as render_notice
from derpmgmt.lib.way_back import part_of

# What can be looked at: pages as a visitor sees them, by the names of their addresses, and a mail.
PAGES = {"front": "front", "sign-in": "account_login", "sign-up": "account_signup"}
MAIL = "mail"
LABELS = {
    "front": gettext_lazy("Front page"),
    "sign-in": gettext_lazy("Sign-in page"),
    "sign-up": gettext_lazy("Sign-up page"),
    MAIL: gettext_lazy("Mail"),
}


class _NoMessages(BaseStorage):
    """The preview says nothing that is meant for the operator, and takes nothing away of it."""

    def _get(self, *args: Any, **kwargs: Any) -> Any:
        return [], True

    def _store(self, *args: Any, **kwargs: Any) -> Any:
        return []


@admin.register(BrandSettings)
class BrandAdmin(StaffAdmin, admin.ModelAdmin[BrandSettings]):
    """One row, which is its own list. Admins read it, super admins change it."""

    form = BrandForm
    change_form_template = "admin/accounts/brandsettings/change_form.html"
    fieldsets = (
        (
            gettext_lazy("Name and look"),
            {"fields": ("name", "slogan", "slogan_en", "accent", "logo", "icon")},
        ),
        (gettext_lazy("Contact"), {"fields": ("wechat", "qq", "email", "code", "code_text", "buy_url")}),
        (gettext_lazy("Filing and footer"), {"fields": ("icp", "police", "footer")}),
        (gettext_lazy("Terms of service"), {"fields": ("terms_url", "terms_text", "terms_text_en")}),
        (gettext_lazy("Privacy policy"), {"fields": ("privacy_url", "privacy_text", "privacy_text_en")}),
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_superuser)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.is_staff)

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(
            part_of("admin:accounts_brandsettings_changelist")(self.preview_view)
        )
        return [
            path("preview/<slug:page>/", view, name="accounts_brandsettings_preview"),
            *super().get_urls(),
        ]

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The one row's page."""
        BrandSettings.objects.get_or_create(pk=ONLY_ROW)
        return self.change_view(request, str(ONLY_ROW), extra_context=extra_context)

    def change_view(
        self, request: HttpRequest, object_id: str, form_url: str = "", extra_context: Any = None
    ) -> Any:
        previews = [
            (reverse("admin:accounts_brandsettings_preview", args=[page]), label)
            for page, label in LABELS.items()
        ]
        extra = {"previews": previews, "title": _("Brand"), "subtitle": None, **(extra_context or {})}
        return super().change_view(request, object_id, form_url, extra)

    def save_model(
        self, request: HttpRequest, obj: BrandSettings, form: ModelForm[BrandSettings], change: bool
    ) -> None:
        assert isinstance(form, BrandForm)
        services.change_brand(by=staff_of(request), **form.values())

    def log_change(self, *args: Any) -> Any:
        """Written by the service."""

    def preview_view(self, request: HttpRequest, page: str) -> HttpResponseBase:
        """A page or a mail as it would be with what is typed. Nothing is saved but the pictures, which go again by themselves."""
        if not self.has_change_permission(request):
            raise PermissionDenied
        if page not in LABELS or request.method != "POST":
            raise Http404
        form = BrandForm(request.POST, request.FILES, instance=BrandSettings(pk=ONLY_ROW))
        if not form.is_valid():
            context = {**self.admin_site.each_context(request), "title": LABELS[page], "form": form}
            return TemplateResponse(
                request, "admin/accounts/brandsettings/preview_refused.html", context, status=422
            )
        with previewing(make_brand(form.instance)):
            return _mail(request) if page == MAIL else _page(request, PAGES[page])


def _page(request: HttpRequest, name: str) -> HttpResponse:
    """The page of that name as a visitor has it who speaks the operator's language."""
    visitor = copy.copy(request)
    visitor.method = "GET"
    visitor.GET = visitor.POST = QueryDict()
    visitor.user, visitor.session = AnonymousUser(), SessionStore()
    visitor._messages = _NoMessages(visitor)  # type: ignore[attr-defined]
    visitor.path = visitor.path_info = reverse(name)
    visitor.resolver_match = match = resolve(visitor.path_info)
    response: HttpResponse = match.func(visitor, *match.args, **match.kwargs)
    return response.render() if isinstance(response, TemplateResponse) else response


@csp({"default-src": ["'none'"], "style-src": ["'unsafe-inline'"], "frame-ancestors": ["'none'"]})
def _mail(request: HttpRequest) -> HttpResponse:
    """A mail as a mail program shows it. Its styles stand in its text, as they must in mails, so this page alone takes those, and nothing
    that could run."""
    notice = Notice(
        user=staff_of(request),
        kind="message",
        language=get_language() or settings.LANGUAGE_CODE,
        context={
            "mail_subject": _("This is how your mails look"),
            "mail_text": _("Below stand the name and the contacts that every mail ends with."),
            "url": settings.PUBLIC_URL,
        },
    )
    return HttpResponse(render_notice(notice).html)
