"""People and the activity log in the admin."""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

from django.contrib import admin, messages
from django.contrib.admin.views.main import ChangeList
from django.core.exceptions import PermissionDenied
from django.db.models import Model, Q, QuerySet
from django.forms import ModelForm
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import services, sweeps, wordlist
from accounts.access import tokens
from accounts.acts import Link
from accounts.admin_acts import NOTICE_ACTS, NOTICE_LIST_ACTS, PUT_OFF_ACTS, USER_ACTS
from accounts.admin_base import ReadOnlyAdmin, StaffAdmin
from accounts.alerts.admin import AlertAdmin  # noqa: F401
from accounts.brand.admin import BrandAdmin  # noqa: F401 — registered with the others
from accounts.forms import UserChangeForm, UserCreateForm
from accounts.models import Notice, OperationLog, PutOff, User
from accounts.requests import staff_of
from accounts.tabs import Said, Tab, TabsMixin, link_to, show_table
from accounts.works import WORKS
from derpmgmt.lib.moments import moment
from derpmgmt.lib.problems import explain

_COLOURS = {
    User.State.ACTIVE: "green",
    User.State.BANNED: "red",
    User.State.CLOSING: "orange",
    User.State.CLOSED: "grey",
}


def _show_notices(user: User, request: HttpRequest) -> str:
    """What a person was told; the newest first."""
    rows = Notice.objects.visible_to(request.user).filter(user=user).defer("context", "address")

    def cells(found: list[Notice]) -> Iterable[Iterable[Any]]:
        for notice in found:
            reason = _(notice.error) if notice.error else ""
            link = link_to(notice, notice.kind_text)
            channel, state = notice.get_channel_display(), notice.get_state_display()
            yield notice.created_at, link, channel, state, notice.sent_at, notice.tries, reason

    headings = [_("time"), _("kind"), _("channel"), _("state"), _("sent"), _("tries"), _("reason")]
    links = [_in_list(Notice, f"user__id__exact={user.pk}")]
    return show_table(request, _("Notices"), rows, headings, cells, links=links)


def _show_log(user: User, request: HttpRequest) -> str:
    """What a person did, and what was done to them."""
    rows = OperationLog.objects.visible_to(request.user).filter(Q(actor=user) | Q(subject=user))

    def cells(found: list[OperationLog]) -> Iterable[Iterable[Any]]:
        for entry in found:
            result = _("done") if entry.is_success else _("failed")
            link, reason = link_to(entry, entry.action_text), entry.detail.get("reason", "")
            yield entry.at, entry.actor, link, entry.target, reason, result, entry.ip

    headings = [_("time"), _("who"), _("action"), _("target"), _("reason"), _("result"), _("IP address")]
    return show_table(request, _("Activity log"), rows.select_related("actor"), headings, cells)


def _in_list(model: type[Model], query: str) -> Link:
    url = reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_changelist")
    return Link(_("All in the list, with filters"), f"{url}?{query}")


@admin.register(User)
class UserAdmin(TabsMixin, StaffAdmin):
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
        "api_tokens",
    ]
    acts = USER_ACTS
    form_tab = ("account", gettext_lazy("Account"))

    def own_says(self, row: User) -> Iterator[Said]:
        yield Said(row.state.label, _COLOURS[row.state])
        if row.role != User.Role.USER:
            yield Said(row.get_role_display(), "blue")
        yield Said(row.username)
        if row.closing_reason:
            yield Said(_(row.closing_reason))

    def own_tabs(self, row: User) -> Iterator[Tab]:
        yield Tab("notices", _("Notices"), partial(_show_notices, row))
        yield Tab("log", _("Activity log"), partial(_show_log, row))

    @admin.display(description=gettext_lazy("state"))
    def state(self, user: User) -> str:
        return str(user.state.label)

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        return services.with_factor(super().get_queryset(request))

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

    @admin.display(description=gettext_lazy("API tokens"))
    def api_tokens(self, user: User) -> str | SafeString:
        """Those that count: name, what for, last use."""
        lines = (
            (
                token.name,
                ", ".join(token.scope_names),
                moment(token.last_used_at) or _("never used"),
            )
            for token in tokens.shown_tokens(user).valid(timezone.now())
        )
        return format_html_join(mark_safe("<br>"), "{} · {} · {}", lines) or "–"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[User], search_term: str
    ) -> tuple[QuerySet[User], bool]:
        """As `search_people` does; `search_fields` has the page show the field."""
        return services.search_people(queryset, search_term), False

    @admin.display(description=gettext_lazy("two-factor authentication"), empty_value="–")
    def second_factor(self, user: Any) -> Any:
        return (
            format_html('<span class="panel-state is-green">{}</span>', _("on")) if user.has_factor else None
        )

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


LOG_FIELDS = ("at", "who", "customer", "action_name", "target", "is_success", "ip", "by_token", "details")


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

    list_display = ["at", "who", "action_name", "target", "is_success", "ip", "by_token"]
    list_filter = ["is_success", ActionFilter, "at"]
    list_select_related = ["actor"]
    search_fields = ["target", "action", "actor__email", "subject__email", "ip"]
    fields = LOG_FIELDS
    readonly_fields = LOG_FIELDS
    show_full_result_count = False

    @admin.display(description=gettext_lazy("who"), ordering="actor__email")
    def who(self, entry: OperationLog) -> str | SafeString:
        return link_to(entry.actor, tab="log") if entry.actor else "–"

    @admin.display(description=gettext_lazy("customer"))
    def customer(self, entry: OperationLog) -> str | SafeString:
        return link_to(entry.subject, tab="log") if entry.subject else "–"

    @admin.display(description=gettext_lazy("action"), ordering="action")
    def action_name(self, entry: OperationLog) -> str:
        return entry.action_text

    @admin.display(description=gettext_lazy("with the API token"))
    def by_token(self, entry: OperationLog) -> str:
        return str(entry.detail.get("token", "–"))

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

    list_display = ["created_at", "person", "kind_name", "channel", "state", "sent_at", "tries", "reason"]
    list_filter = ["state", "channel", NoticeKindFilter, "created_at"]
    list_select_related = ["user"]
    search_fields = ["user__email", "key"]
    fields = readonly_fields = (
        "person", "kind_name", "key", "channel", "language", "state", "reason", "tries",
        "created_at", "send_after", "handed_at", "sent_at",
    )  # fmt: skip
    show_full_result_count = False
    acts = NOTICE_ACTS
    list_acts = NOTICE_LIST_ACTS
    change_list_template = "admin/accounts/notice/change_list.html"

    @admin.display(description=gettext_lazy("user"), ordering="user__email")
    def person(self, notice: Notice) -> SafeString:
        return link_to(notice.user, tab="notices")

    @admin.display(description=gettext_lazy("kind"), ordering="kind")
    def kind_name(self, notice: Notice) -> str:
        return notice.kind_text

    @admin.display(description=gettext_lazy("reason"))
    def reason(self, notice: Notice) -> str:
        return _(notice.error) if notice.error else "–"


class WorkFilter(admin.SimpleListFilter):
    """What of the panel's work is put off now."""

    title = gettext_lazy("work")
    parameter_name = "work"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        return [(name, work.title) for name, work in WORKS.items()]

    def queryset(self, request: HttpRequest, queryset: QuerySet[PutOff]) -> QuerySet[PutOff]:
        return queryset.filter(work=self.value()) if self.value() else queryset


class CodeFilter(admin.SimpleListFilter):
    """Errors by their sentences, those that there are."""

    title = gettext_lazy("reason")
    parameter_name = "code"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        codes = PutOff.objects.order_by("failure_code").values_list("failure_code", flat=True).distinct()
        return [(code, explain(code)) for code in codes]

    def queryset(self, request: HttpRequest, queryset: QuerySet[PutOff]) -> QuerySet[PutOff]:
        return queryset.filter(failure_code=self.value()) if self.value() else queryset


@admin.register(PutOff)
class PutOffAdmin(ReadOnlyAdmin):
    """What sweeps put off because it raised: whom it is about, why, and when it is tried again."""

    list_display = ["title", "about", "since", "failures", "reason", "exception", "failed_at", "try_after"]
    list_filter = [WorkFilter, CodeFilter, "since"]
    fields = readonly_fields = (
        "title", "about", "since", "failures", "reason", "exception", "in_the_log", "failed_at", "try_after",
    )  # fmt: skip
    acts = PUT_OFF_ACTS
    search_fields = ["=row"]
    search_help_text = gettext_lazy("The number of the row, as it stands in the log.")

    def get_changelist_instance(self, request: HttpRequest) -> ChangeList:
        found = super().get_changelist_instance(request)
        sweeps.name_rows(found.result_list)
        return found

    @admin.display(description=gettext_lazy("work"), ordering="work")
    def title(self, row: PutOff) -> str:
        return row.title

    @admin.display(description=gettext_lazy("about"))
    def about(self, row: PutOff) -> str | SafeString:
        """The way to the row that it is about."""
        work = WORKS.get(row.work)
        if work is None or row.whose is None:
            return _("#%(row)d, which is gone") % {"row": row.row}
        name = f"admin:{work.model._meta.app_label}_{work.model._meta.model_name}_change"
        return format_html('<a href="{}">{}</a>', reverse(name, args=[row.row]), row.name)

    @admin.display(description=gettext_lazy("reason"), ordering="failure_code")
    def reason(self, row: PutOff) -> str:
        return explain(row.failure_code)

    @admin.display(description=gettext_lazy("in the log under"))
    def in_the_log(self, row: PutOff) -> SafeString:
        return format_html("<code>{}</code>", sweeps.LOGGED % (row.work, row.row))
