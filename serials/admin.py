"""Serial numbers and rentals in the admin: made and changed by services only."""

from typing import Any

import tablib  # type: ignore[import-untyped]
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from accounts.admin_base import ReadOnlyAdmin, ReadOnlyMixin
from accounts.models import User
from accounts.services import NotAllowed
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.paging import MOST_ROWS
from derpmgmt.lib.way_back import part_of
from serials import codes, services
from serials.forms import BatchForm, PauseForm, RenewForm, end_of_day
from serials.models import Entitlement, Redemption, Rental, RentalSpan, SerialBatch, SerialNumber
from serials.templatetags.rental import duration, moment, moves_on, rate, time_left, traffic


def _staff(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


class EntitlementColumns:
    """What was sold, as people read it."""

    @admin.display(description=gettext_lazy("traffic a month"))
    def quota(self, sold: Entitlement) -> str:
        return _("unlimited") if sold.quota_bytes is None else traffic(sold.quota_bytes)

    @admin.display(description=gettext_lazy("rate limit"))
    def rate(self, sold: Entitlement) -> str:
        return _("none") if sold.rate_bytes_per_second is None else rate(sold.rate_bytes_per_second)


@admin.register(SerialBatch)
class SerialBatchAdmin(EntitlementColumns, ReadOnlyAdmin):
    """Batches: made here, then only marked as paid or unpaid and exported."""

    list_display = [
        "name",
        "days",
        "count",
        "unused",
        "used",
        "is_paid",
        "redeem_by",
        "created_at",
        "created_by",
    ]
    list_select_related = ["created_by"]
    list_filter = [("paid_at", admin.EmptyFieldListFilter), "created_at"]
    search_fields = ["name"]
    actions = ["mark_paid", "mark_unpaid", "export_csv", "export_xlsx"]
    filter_horizontal = ["servers"]
    form = BatchForm

    def get_queryset(self, request: HttpRequest) -> QuerySet[SerialBatch]:
        counts = {
            f"{status}_count": Count("serials", filter=Q(serials__status=status))
            for status in SerialNumber.Status.values
        }
        return SerialBatch.objects.visible_to(request.user).annotate(**counts)

    @admin.display(description=gettext_lazy("unused"), ordering="unused_count")
    def unused(self, batch: Any) -> int:
        return batch.unused_count

    @admin.display(description=gettext_lazy("used"), ordering="used_count")
    def used(self, batch: Any) -> int:
        return batch.used_count

    @admin.display(description=gettext_lazy("paid"), boolean=True, ordering="paid_at")
    def is_paid(self, batch: SerialBatch) -> bool:
        return batch.is_paid

    @admin.display(description=gettext_lazy("serial numbers"))
    def serial_numbers(self, batch: Any) -> SafeString:
        url = reverse("admin:serials_serialnumber_changelist")
        parts = " · ".join(
            f"{status.label} {getattr(batch, f'{status}_count')}" for status in SerialNumber.Status
        )
        return format_html('<a href="{}?batch__id__exact={}">{}</a>', url, batch.pk, parts)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return _staff(request).is_staff

    def get_fields(self, request: HttpRequest, obj: SerialBatch | None = None) -> list[Any]:
        if obj is not None:
            return ["name", "days", "serial_numbers", "redeem_by", "paid_at", "device_limit", "quota", "rate", "at_quota",
                    "grace_days", "may_open", "servers", "created_at", "created_by"]  # fmt: skip
        paid = ["is_paid"] if _staff(request).is_superuser else []
        return [
            "name",
            "days",
            "count",
            "redeem_by",
            *paid,
            "device_limit",
            "quota_gb",
            "rate_mbit",
            "at_quota",
            "grace_days",
            "may_open",
            "servers",
        ]

    def get_readonly_fields(self, request: HttpRequest, obj: SerialBatch | None = None) -> list[Any]:
        return self.get_fields(request, obj) if obj is not None else []

    def get_form(
        self, request: HttpRequest, obj: SerialBatch | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        # The form's own fields are no model fields, which is all that Django would accept here.
        kwargs["fields"] = None if obj is None else []
        return super().get_form(request, obj, change=change, **kwargs)

    def save_model(self, request: HttpRequest, obj: SerialBatch, form: BatchForm, change: bool) -> None:
        try:
            made = services.create_batch(by=_staff(request), **form.values())
        except NotAllowed as error:
            raise PermissionDenied(str(error)) from error
        obj.pk = made.pk

    def save_related(self, *args: Any) -> None:
        """Done by the service."""

    def log_addition(self, *args: Any) -> Any:
        """Written by the service."""

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        actions = super().get_actions(request)
        if not _staff(request).is_superuser:
            for name in ("mark_paid", "mark_unpaid"):
                actions.pop(name, None)
        return actions

    @admin.action(description=gettext_lazy("Mark as paid"))
    def mark_paid(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> None:
        done = sum(services.mark_batch_paid(batch=batch, by=_staff(request)) for batch in queryset)
        self.message_user(
            request,
            ngettext("%(n)d batch marked as paid.", "%(n)d batches marked as paid.", done) % {"n": done},
        )

    @admin.action(description=gettext_lazy("Mark as unpaid (stops redeeming and downloads)"))
    def mark_unpaid(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> None:
        done = sum(services.mark_batch_unpaid(batch=batch, by=_staff(request)) for batch in queryset)
        text = ngettext("%(n)d batch marked as unpaid.", "%(n)d batches marked as unpaid.", done)
        self.message_user(request, text % {"n": done}, messages.WARNING)

    @admin.action(description=gettext_lazy("Export the codes as CSV (logged)"))
    def export_csv(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> HttpResponse:
        # The mark lets spreadsheet programs read the headings as UTF-8.
        content = "\ufeff" + self._dataset(request, queryset).export("csv")
        return _download(content.encode(), "text/csv; charset=utf-8", "serials.csv")

    @admin.action(description=gettext_lazy("Export the codes as Excel file (logged)"))
    def export_xlsx(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> HttpResponse:
        kind = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
        return _download(self._dataset(request, queryset).export("xlsx"), kind, "serials.xlsx")

    @staticmethod
    def _dataset(request: HttpRequest, batches: QuerySet[SerialBatch]) -> tablib.Dataset:
        data = tablib.Dataset(
            headers=[
                str(text) for text in (_("serial number"), _("days"), _("state"), _("redeem by"), _("batch"))
            ]
        )
        for batch in batches:
            redeem_by = batch.redeem_by.isoformat() if batch.redeem_by else ""
            for serial in services.reveal_batch(batch=batch, by=_staff(request), ip=client_ip(request)):
                data.append(
                    (codes.group(serial.code), batch.days, serial.get_status_display(), redeem_by, batch.pk)
                )
        return data


def _download(content: bytes, kind: str, name: str) -> HttpResponse:
    return HttpResponse(
        content, content_type=kind, headers={"Content-Disposition": f'attachment; filename="{name}"'}
    )


@admin.register(SerialNumber)
class SerialNumberAdmin(ReadOnlyAdmin):
    """Serial numbers: masked; a full code or its last four characters finds one."""

    list_display = ["masked", "batch", "days", "status", "redeemed_at", "customer"]
    list_select_related = ["batch", "redemption__rental__user"]
    list_filter = ["status", "redeemed_at"]
    search_fields = ["code_end"]
    search_help_text = gettext_lazy(
        "A whole serial number, its last four characters, or the customer's e-mail address."
    )
    fields = ["masked", "batch", "days", "status", "redeemed_at", "customer"]
    actions = ["recall"]
    show_full_result_count = False
    change_form_template = "admin/serials/serialnumber/change_form.html"

    def get_queryset(self, request: HttpRequest) -> QuerySet[SerialNumber]:
        return SerialNumber.objects.visible_to(request.user)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[SerialNumber], search_term: str
    ) -> tuple[QuerySet[SerialNumber], bool]:
        code = codes.normalize(search_term)
        if not code:
            return queryset, False
        if codes.is_well_typed(code):
            return queryset.filter(code_hash=services.code_hash(code)), False
        by_customer = Q(redemption__rental__user__email__icontains=search_term.strip())
        return queryset.filter(Q(code_end=code[-4:]) | by_customer), False

    @admin.display(description=gettext_lazy("serial number"), ordering="code_end")
    def masked(self, serial: SerialNumber) -> str:
        return serial.masked

    @admin.display(description=gettext_lazy("days"), ordering="batch__days")
    def days(self, serial: SerialNumber) -> int:
        return serial.batch.days

    @admin.display(description=gettext_lazy("redeemed by"))
    def customer(self, serial: SerialNumber) -> str | SafeString:
        if serial.status != SerialNumber.Status.USED:
            return "–"
        rental = serial.redemption.rental
        return format_html(
            '<a href="{}">{}</a>', reverse("admin:serials_rental_change", args=[rental.pk]), rental.user
        )

    @admin.action(description=gettext_lazy("Recall the unused ones of the selected"))
    def recall(self, request: HttpRequest, queryset: QuerySet[SerialNumber]) -> None:
        done = 0
        for serial in queryset:
            try:
                services.recall_serial(serial=serial, by=_staff(request))
                done += 1
            except services.SerialRefused as refusal:
                messages.error(request, f"{serial}: {refusal}")
        text = ngettext("%(n)d serial number recalled.", "%(n)d serial numbers recalled.", done)
        messages.success(request, text % {"n": done})

    def get_urls(self) -> list[Any]:
        page = part_of("admin:serials_serialnumber_change", "pk")
        reveal = self.admin_site.admin_view(page(self.reveal))
        return [path("<int:pk>/reveal/", reveal, name="serials_serialnumber_reveal"), *super().get_urls()]

    def reveal(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Show one code, once, and write down who saw it."""
        if request.method != "POST":
            raise PermissionDenied
        serial = get_object_or_404(SerialNumber.objects.visible_to(request.user), pk=pk)
        code = services.reveal_code(serial=serial, by=_staff(request), ip=client_ip(request))
        context = {**self.admin_site.each_context(request), "title": str(serial), "serial": serial, "code": code,
                   "opts": self.opts}  # fmt: skip
        return TemplateResponse(request, "admin/serials/serialnumber/reveal.html", context)


def _newest(rows: QuerySet[Any], request: HttpRequest) -> QuerySet[Any]:
    """Of the rows of the rental whose page this is, so many that a page can show them."""
    match = request.resolver_match
    own = rows.filter(rental_id=match.kwargs.get("object_id") if match else None)
    # Read first: MariaDB takes no limit in a subquery.
    return rows.filter(pk__in=list(own.order_by("-pk").values_list("pk", flat=True)[:MOST_ROWS]))


class SpanInline(EntitlementColumns, ReadOnlyMixin, admin.TabularInline[RentalSpan, Rental]):
    """A rental's schedule."""

    model = RentalSpan
    fields = [
        "starts_at",
        "ends_at",
        "device_limit",
        "quota",
        "rate",
        "at_quota",
        "grace_days",
        "may_open",
        "redemption",
    ]
    readonly_fields = ["quota", "rate"]
    extra = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet[RentalSpan]:
        rows = RentalSpan.objects.visible_to(request.user).select_related("redemption")
        return _newest(rows, request)


class RedemptionInline(ReadOnlyMixin, admin.TabularInline[Redemption, Rental]):
    """What moved a rental's end."""

    model = Redemption
    fields = ["at", "kind", "serial", "granted", "old_ends_at", "new_ends_at", "by", "note"]
    readonly_fields = ["granted"]
    extra = 0

    @admin.display(description=gettext_lazy("granted"))
    def granted(self, redemption: Redemption) -> str:
        return duration(redemption.granted_seconds)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Redemption]:
        return _newest(Redemption.objects.visible_to(request.user).select_related("serial", "by"), request)


@admin.register(Rental)
class RentalAdmin(ReadOnlyAdmin):
    """Rentals with their schedule and history; renewed, paused and resumed here."""

    list_display = ["user", "status", "ends_at", "paused_at", "waiting_since", "created_at"]
    change_form_template = "admin/serials/rental/change_form.html"
    list_select_related = ["user"]
    list_filter = ["status", "ends_at"]
    search_fields = ["user__email", "user__username"]
    fields = ["user", "status", "left", "ends_at", "runs_until", "pause", "closed_at", "waiting_since", "created_at"]  # fmt: skip
    readonly_fields = ["left", "pause"]
    inlines = [SpanInline, RedemptionInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Rental]:
        return Rental.objects.visible_to(request.user)

    @admin.display(description=gettext_lazy("time left"))
    def left(self, rental: Rental) -> str:
        return "–" if rental.closed_at else time_left(rental.ends_at, rental.paused_at)

    @admin.display(description=gettext_lazy("paused"))
    def pause(self, rental: Rental) -> str:
        """Since when, by whom and why."""
        pause = services.current_pause(rental)
        return " · ".join(filter(None, [moment(pause.at), pause.who, pause.reason])) if pause else "–"

    def get_urls(self) -> list[Any]:
        act = self.admin_site.admin_view(part_of("admin:serials_rental_change", "pk")(self.rental_act))
        return [path("<int:pk>/<slug:verb>/do/", act, name="serials_rental_act"), *super().get_urls()]

    def rental_act(self, request: HttpRequest, pk: int, verb: str) -> HttpResponse:
        """One of the buttons on a rental's page."""
        rental = get_object_or_404(Rental.objects.visible_to(request.user), pk=pk)
        act = {"renew": self._renew, "pause": self._pause, "resume": self._resume}.get(verb)
        if request.method == "POST" and act:
            try:
                messages.success(request, act(request, rental))
            except (services.RentalRefused, ValidationError) as refusal:
                messages.error(request, " ".join(getattr(refusal, "messages", [str(refusal)])))
        return redirect("admin:serials_rental_change", pk)

    @staticmethod
    def _renew(request: HttpRequest, rental: Rental) -> str:
        form = RenewForm(request.POST)
        if not form.is_valid():
            raise ValidationError(list(form.errors["until"]))
        until = end_of_day(form.cleaned_data["until"])
        redemption = services.renew_rental(rental=rental, until=until, by=_staff(request))
        if redemption.rental.paused_at is not None:
            messages.warning(request, moves_on())
        return _("Renewed until %(end)s.") % {"end": moment(redemption.new_ends_at)}

    @staticmethod
    def _pause(request: HttpRequest, rental: Rental) -> str:
        form = PauseForm(request.POST)
        if not form.is_valid():
            raise ValidationError(list(form.errors["reason"]))
        if not services.pause_rental(rental=rental, by=_staff(request), reason=form.cleaned_data["reason"]):
            raise ValidationError(_("This rental is paused already."))
        return _("Paused. The relays are being stopped.")

    @staticmethod
    def _resume(request: HttpRequest, rental: Rental) -> str:
        if services.resume_rental(rental=rental, by=_staff(request)) is None:
            raise ValidationError(_("This rental is not paused."))
        return _("Resumed. The relays are coming back.")


@admin.register(Redemption)
class RedemptionAdmin(ReadOnlyAdmin):
    """What moved the ends of all rentals, newest first."""

    list_display = ["at", "rental", "kind", "serial", "old_ends_at", "new_ends_at", "by"]
    list_select_related = ["rental__user", "serial", "by"]
    list_filter = ["kind", "at"]
    search_fields = ["rental__user__email", "serial__code_end"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Redemption]:
        return Redemption.objects.visible_to(request.user)


@admin.register(RentalSpan)
class RentalSpanAdmin(ReadOnlyAdmin):
    """All spans, by when they start."""

    list_display = ["rental", "starts_at", "ends_at", "device_limit", "at_quota", "redemption"]
    list_select_related = ["rental__user", "redemption"]
    list_filter = ["starts_at", "ends_at"]
    search_fields = ["rental__user__email"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RentalSpan]:
        return RentalSpan.objects.visible_to(request.user)
