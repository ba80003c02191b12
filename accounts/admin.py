"""People and the activity log in the admin."""

import json
from collections.abc import Callable
from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import services
from accounts.admin_base import ReadOnlyAdmin
from accounts.forms import UserChangeForm, UserCreateForm
from accounts.models import OperationLog, User


@admin.register(User)
class UserAdmin(admin.ModelAdmin[User]):
    """Accounts. Everything goes through `accounts.services`, so it is checked and logged once, wherever it comes from."""

    list_display = ["email", "username", "role", "state", "second_factor", "date_joined", "last_login"]
    list_filter = ["role", "is_active", "date_joined"]
    search_fields = ["email", "username"]
    ordering = ["-date_joined"]
    readonly_fields = [
        "email",
        "state",
        "second_factor",
        "date_joined",
        "last_login",
        "banned_at",
        "closed_at",
    ]
    actions = ["ban", "unban"]
    change_form_template = "admin/accounts/user/change_form.html"

    @admin.display(description=gettext_lazy("state"))
    def state(self, user: User) -> str:
        if user.closed_at:
            return _("closed")
        return _("banned") if user.banned_at else _("active")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        factors = Authenticator.objects.filter(user=OuterRef("pk"), type__in=services.SECOND_FACTORS)
        return super().get_queryset(request).annotate(has_factor=Exists(factors))

    @admin.display(description=gettext_lazy("two-factor authentication"), boolean=True)
    def second_factor(self, user: Any) -> bool:
        return bool(user.has_factor)

    def get_form(
        self, request: HttpRequest, obj: User | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        kwargs["form"] = UserChangeForm if change else UserCreateForm
        return super().get_form(request, obj, change=change, **kwargs)

    def get_fields(self, request: HttpRequest, obj: User | None = None) -> tuple[str, ...]:
        if obj is None:
            return ("email", "username", "role")
        return ("email", "username", "language", "role", *self.readonly_fields[1:])

    def get_readonly_fields(self, request: HttpRequest, obj: User | None = None) -> list[str]:
        if obj is None:
            return []
        return [*self.readonly_fields, *([] if request.user.is_superuser else ["role"])]

    def formfield_for_choice_field(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if db_field.name == "role" and not request.user.is_superuser:
            kwargs["choices"] = [(role, role.label) for role in (User.Role.USER, User.Role.DISTRIBUTOR)]
        return super().formfield_for_choice_field(db_field, request, **kwargs)

    def has_change_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """A normal admin changes customers and distributors, not staff."""
        if not super().has_change_permission(request, obj):
            return False
        return obj is None or request.user.is_superuser or not obj.is_staff

    def has_delete_permission(self, request: HttpRequest, obj: User | None = None) -> bool:
        """Accounts are closed or banned, never deleted: books and logs refer to them."""
        return False

    def save_model(self, request: HttpRequest, obj: User, form: ModelForm[User], change: bool) -> None:
        by = _staff(request)
        if change:
            # A field that is read-only for this admin is not in the form and stays as it is.
            stored = User.objects.get(pk=obj.pk)
            data = {
                name: form.cleaned_data.get(name, getattr(stored, name))
                for name in ("username", "language", "role")
            }
            services.change_user(user=stored, by=by, **data)
        else:
            data = form.cleaned_data
            made = services.create_user(
                email=data["email"], username=data["username"], role=data["role"], by=by
            )
            obj.pk, obj.username = made.pk, made.username
            messages.info(
                request, _("The person sets a password with “Forgot your password?” on the sign-in page.")
            )

    def log_addition(self, *args: Any) -> Any:
        """Written by the service."""

    def log_change(self, *args: Any) -> Any:
        """Written by the service."""

    def get_urls(self) -> list[Any]:
        def page(act: Callable[[User, User], str]) -> Any:
            def view(request: HttpRequest, pk: int) -> HttpResponse:
                return self._act(request, pk, act)

            return self.admin_site.admin_view(view)

        return [
            path("<int:pk>/ban/", page(_ban), name="accounts_user_ban"),
            path("<int:pk>/unban/", page(_unban), name="accounts_user_unban"),
            path(
                "<int:pk>/reset-second-factor/",
                page(_reset_second_factor),
                name="accounts_user_reset_second_factor",
            ),
            *super().get_urls(),
        ]

    def _act(self, request: HttpRequest, pk: int, act: Callable[[User, User], str]) -> HttpResponse:
        if request.method != "POST":
            raise PermissionDenied
        user = get_object_or_404(User.objects.visible_to(request.user), pk=pk)
        try:
            messages.success(request, act(user, _staff(request)))
        except services.NotAllowed as error:
            messages.error(request, str(error))
        return HttpResponseRedirect(reverse("admin:accounts_user_change", args=[pk]))

    @admin.action(description=gettext_lazy("Ban the selected accounts"))
    def ban(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._act_on_all(request, queryset, services.ban_user)

    @admin.action(description=gettext_lazy("Lift the ban of the selected accounts"))
    def unban(self, request: HttpRequest, queryset: QuerySet[User]) -> None:
        self._act_on_all(request, queryset, services.unban_user)

    def _act_on_all(self, request: HttpRequest, queryset: QuerySet[User], act: Callable[..., bool]) -> None:
        done = 0
        for user in queryset:
            try:
                done += act(user=user, by=_staff(request))
            except services.NotAllowed as error:
                messages.error(request, f"{user}: {error}")
        messages.success(
            request,
            ngettext("%(count)d account changed.", "%(count)d accounts changed.", done) % {"count": done},
        )


def _staff(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


def _ban(user: User, by: User) -> str:
    services.ban_user(user=user, by=by)
    return _("Banned; open sessions have ended.")


def _unban(user: User, by: User) -> str:
    services.unban_user(user=user, by=by)
    return _("The ban is lifted.")


def _reset_second_factor(user: User, by: User) -> str:
    if services.reset_second_factor(user=user, by=by):
        return _(
            "The second factor is removed, the person is signed out everywhere and has been told by mail."
        )
    return _("There was no second factor.")


LOG_FIELDS = ("at", "actor", "subject", "action", "target", "is_success", "ip", "details")


@admin.register(OperationLog)
class OperationLogAdmin(ReadOnlyAdmin):
    """The activity log: read only, for everybody."""

    list_display = ["at", "actor", "action", "target", "is_success", "ip"]
    list_filter = ["is_success", "action", "at"]
    list_select_related = ["actor"]
    search_fields = ["target", "action", "actor__email", "subject__email", "ip"]
    fields = LOG_FIELDS
    readonly_fields = LOG_FIELDS
    show_full_result_count = False

    @admin.display(description=gettext_lazy("details"))
    def details(self, entry: OperationLog) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(entry.detail, ensure_ascii=False, indent=2))
