"""People and the activity log in the admin."""

import json
import unicodedata
from collections.abc import Callable, Iterable
from typing import Any

from allauth.mfa.models import Authenticator
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import Exists, OuterRef, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import get_object_or_404
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts import services, wordlist
from accounts.admin_base import ReadOnlyAdmin, StaffAdmin
from accounts.forms import AdminCloseForm, UserChangeForm, UserCreateForm
from accounts.models import Notice, OperationLog, User
from accounts.requests import staff_of
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.mail import MailFailed, MailLimited, send_test_mail
from derpmgmt.lib.way_back import part_of


@admin.register(User)
class UserAdmin(StaffAdmin):
    """Accounts. Everything goes through `accounts.services`, so it is checked and logged once, wherever it comes from."""

    list_display = ["email", "username", "role", "state", "second_factor", "date_joined", "last_login"]
    list_filter = ["role", "is_active", "date_joined"]
    search_fields = ["email", "username"]
    search_help_text = gettext_lazy(
        "E-mail address or user name; a closed account by its number or by the whole address it had."
    )
    ordering = ["-date_joined"]
    readonly_fields = [
        "email",
        "state",
        "second_factor",
        "date_joined",
        "last_login",
        "banned_at",
        "closing_at",
        "closed_at",
        "closing_reason_text",
        "closing_reasons",
        "closing_left",
    ]
    actions = ["ban", "unban"]
    change_form_template = "admin/accounts/user/change_form.html"

    @admin.display(description=gettext_lazy("state"))
    def state(self, user: User) -> str:
        if user.closed_at:
            return _("closed")
        if user.closing_at:
            return _("closing")
        return _("banned") if user.banned_at else _("active")

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        factors = Authenticator.objects.filter(user=OuterRef("pk"), type__in=services.SECOND_FACTORS)
        return super().get_queryset(request).annotate(has_factor=Exists(factors))

    @admin.display(description=gettext_lazy("reason of closing"))
    def closing_reason_text(self, user: User) -> str:
        return _(user.closing_reason) if user.closing_reason else "–"

    @admin.display(description=gettext_lazy("cannot be closed because"))
    def closing_reasons(self, user: User) -> str:
        """What stops a closing now, also the automatic one, of which the admins were told."""
        return " ".join(str(sentence) for sentence in services.closing_reasons(user)) or "–"

    @admin.display(description=gettext_lazy("not closed yet because"))
    def closing_left(self, user: User) -> str:
        if user.closing_at is None or user.closed_at:
            return "–"
        return " ".join(str(sentence) for sentence in services.closing_left(user)) or "–"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[User], search_term: str
    ) -> tuple[QuerySet[User], bool]:
        """Also a closed account by its number, and by the address it had."""
        found, may_double = super().get_search_results(request, queryset, search_term)
        number = search_term.strip().removeprefix("#")
        if number.isdecimal() and len(number) < 19:
            found |= queryset.filter(pk=int(number), closing_at__isnull=False)
        if "@" in unicodedata.normalize("NFKC", search_term):
            found |= queryset.filter(former_email_hash=services.hash_address(search_term))
        return found, may_double

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
        """A normal admin changes customers and distributors, not staff; a closed account stays as it is."""
        if not super().has_change_permission(request, obj) or (obj and obj.closing_at):
            return False
        return obj is None or request.user.is_superuser or not obj.is_staff

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Accounts are closed or banned, never deleted: books and logs refer to them."""
        return False

    def save_model(self, request: HttpRequest, obj: User, form: ModelForm[User], change: bool) -> None:
        by = staff_of(request)
        if change:
            # A field that is read-only for this admin is not in the form and stays as it is.
            stored = User.objects.get(pk=obj.pk)
            data = {
                name: form.cleaned_data.get(name, getattr(stored, name))
                for name in ("username", "language", "role")
            }
            try:
                services.change_user(user=stored, by=by, **data)
            except services.NotAllowed as error:
                raise PermissionDenied(str(error)) from error
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

            return self.admin_site.admin_view(part_of("admin:accounts_user_change", "pk")(view))

        return [
            path("<int:pk>/ban/", page(_ban), name="accounts_user_ban"),
            path("<int:pk>/unban/", page(_unban), name="accounts_user_unban"),
            path(
                "<int:pk>/reset-second-factor/",
                page(_reset_second_factor),
                name="accounts_user_reset_second_factor",
            ),
            path("<int:pk>/close/", self.admin_site.admin_view(self.close), name="accounts_user_close"),
            *super().get_urls(),
        ]

    def close(self, request: HttpRequest, pk: int) -> HttpResponse:
        """What closing this account means, what stands in its way, and the button."""
        person = get_object_or_404(User.objects.visible_to(request.user), pk=pk)
        if person.closing_at or person.closed_at:
            return self._closed_already(request, person)
        if not self.has_change_permission(request, person):
            raise PermissionDenied
        form = AdminCloseForm(request.POST or None)
        if request.method == "POST" and form.is_valid():
            ip, reason = client_ip(request), form.cleaned_data["reason"]
            try:
                if not services.close_account(user=person, by=staff_of(request), reason=reason, ip=ip):
                    return self._closed_already(request, person)
            except (services.NotAllowed, services.ClosingRefused) as error:
                messages.error(request, str(error))
            else:
                messages.success(request, _("The account is being closed; the person has been told by mail."))
            return HttpResponseRedirect(reverse("admin:accounts_user_change", args=[pk]))
        context = {
            **self.admin_site.each_context(request),
            "title": _("Close the account"),
            "opts": self.opts,
            "person": person,
            "form": form,
            "reasons": services.closing_reasons(person),
            "losses": services.closing_losses(person),
        }
        return TemplateResponse(request, "admin/accounts/user/close.html", context)

    @staticmethod
    def _closed_already(request: HttpRequest, person: User) -> HttpResponse:
        """For the second tab, and for the admin who was slower than another."""
        is_done = person.closed_at is not None
        text = _("This account is closed already.") if is_done else _("This account is being closed already.")
        messages.info(request, text)
        return HttpResponseRedirect(reverse("admin:accounts_user_change", args=[person.pk]))

    def _act(self, request: HttpRequest, pk: int, act: Callable[[User, User], str]) -> HttpResponse:
        if request.method != "POST":
            raise PermissionDenied
        user = get_object_or_404(User.objects.visible_to(request.user), pk=pk)
        try:
            messages.success(request, act(user, staff_of(request)))
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
                done += act(user=user, by=staff_of(request))
            except services.NotAllowed as error:
                messages.error(request, f"{user}: {error}")
        messages.success(
            request,
            ngettext("%(count)d account changed.", "%(count)d accounts changed.", done) % {"count": done},
        )


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


LOG_FIELDS = ("at", "actor", "subject", "action_name", "target", "is_success", "ip", "details")


class ActionFilter(admin.SimpleListFilter):
    """Actions by the words that people use."""

    title = gettext_lazy("action")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return list(wordlist.ACTIONS.items())

    def queryset(self, request: HttpRequest, queryset: QuerySet[OperationLog]) -> QuerySet[OperationLog]:
        return queryset.filter(action=self.value()) if self.value() else queryset


@admin.register(OperationLog)
class OperationLogAdmin(ReadOnlyAdmin):
    """The activity log: read only, for everybody."""

    list_display = ["at", "actor", "action_name", "target", "is_success", "ip"]
    list_filter = ["is_success", ActionFilter, "at"]
    list_select_related = ["actor"]
    search_fields = ["target", "action", "actor__email", "subject__email", "ip"]
    fields = LOG_FIELDS
    readonly_fields = LOG_FIELDS
    show_full_result_count = False

    @admin.display(description=gettext_lazy("action"), ordering="action")
    def action_name(self, entry: OperationLog) -> str:
        return entry.action_text

    @admin.display(description=gettext_lazy("details"))
    def details(self, entry: OperationLog) -> SafeString:
        return format_html("<pre>{}</pre>", json.dumps(entry.detail, ensure_ascii=False, indent=2))


class NoticeKindFilter(admin.SimpleListFilter):
    """Kinds by the names that people call them."""

    title = gettext_lazy("kind")
    parameter_name = "kind"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(kind, words.name) for kind, words in wordlist.NOTICES.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Notice]) -> QuerySet[Notice]:
        return queryset.filter(kind=self.value()) if self.value() else queryset


@admin.register(Notice)
class NoticeAdmin(ReadOnlyAdmin):
    """What people were told, what is still to be sent, what failed and why."""

    list_display = ["created_at", "user", "kind_name", "channel", "state", "sent_at", "tries", "reason"]
    list_filter = ["state", "channel", NoticeKindFilter, "created_at"]
    list_select_related = ["user"]
    search_fields = ["user__email", "key"]
    fields = readonly_fields = (
        "user", "kind_name", "key", "channel", "language", "state", "reason", "tries",
        "created_at", "send_after", "handed_at", "sent_at",
    )  # fmt: skip
    show_full_result_count = False
    actions = ["send_again"]
    change_form_template = "admin/accounts/notice/change_form.html"
    change_list_template = "admin/accounts/notice/change_list.html"

    @admin.display(description=gettext_lazy("kind"), ordering="kind")
    def kind_name(self, notice: Notice) -> str:
        return notice.kind_text

    @admin.display(description=gettext_lazy("reason"))
    def reason(self, notice: Notice) -> str:
        return _(notice.error) if notice.error else "–"

    def get_urls(self) -> list[Any]:
        again = self.admin_site.admin_view(part_of("admin:accounts_notice_change", "pk")(self.again))
        mail_test = self.admin_site.admin_view(part_of("admin:accounts_notice_changelist")(self.mail_test))
        return [
            path("<int:pk>/again/", again, name="accounts_notice_again"),
            path("mail-test/", mail_test, name="accounts_notice_mail_test"),
            *super().get_urls(),
        ]

    def again(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Send one that failed once more."""
        if request.method != "POST":
            raise PermissionDenied
        self._send_again(request, [get_object_or_404(Notice.objects.visible_to(request.user), pk=pk)])
        return HttpResponseRedirect(reverse("admin:accounts_notice_change", args=[pk]))

    @admin.action(description=gettext_lazy("Send the selected notices again"))
    def send_again(self, request: HttpRequest, queryset: QuerySet[Notice]) -> None:
        self._send_again(request, queryset)

    def _send_again(self, request: HttpRequest, notices: Iterable[Notice]) -> None:
        done = 0
        for notice in notices:
            try:
                services.send_again(notice=notice, by=staff_of(request))
                done += 1
            except services.NoticeRefused as error:
                messages.error(request, f"#{notice.pk}: {error}")
        if done:
            text = ngettext("%(count)d notice is sent again.", "%(count)d notices are sent again.", done)
            messages.success(request, text % {"count": done})

    def mail_test(self, request: HttpRequest) -> HttpResponse:
        """A test mail to the operator's own address, and what the mail server said to it."""
        if request.method != "POST":
            raise PermissionDenied
        address = staff_of(request).email
        try:
            send_test_mail(address)
        except MailLimited as limited:
            messages.error(request, str(limited))
        except MailFailed as failure:
            messages.error(request, _("The mail was not sent: %(reason)s") % {"reason": failure.reason})
        else:
            messages.success(
                request, _("The mail server took a test mail to %(address)s.") % {"address": address}
            )
        return HttpResponseRedirect(reverse("admin:accounts_notice_changelist"))
