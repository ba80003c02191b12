"""Serial numbers in the admin, made and changed by services only; and the pages of rentals on which they stand."""

from typing import Any

from django.contrib import admin
from django.contrib.admin.widgets import FilteredSelectMultiple
from django.core.exceptions import PermissionDenied
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin
from accounts.requests import staff_of
from accounts.services import NotAllowed
from accounts.tabs import link_to
from serials.numbers import services
from serials.numbers.admin_acts import BATCH_ACTS, SERIAL_ACTS
from serials.numbers.batch_codes import BatchCodesMixin, codes_page, download
from serials.numbers.forms import BatchForm
from serials.numbers.models import SerialBatch, SerialNumber, redeemed_serial
from serials.rentals import admin as rentals
from serials.rentals.models import Redemption, Rental


@admin.register(SerialBatch)
class SerialBatchAdmin(BatchCodesMixin, rentals.EntitlementColumns, ReadOnlyAdmin):
    """Batches: made here, then only marked as paid or unpaid, printed and exported."""

    list_display = [
        "name",
        "days",
        "count",
        "unused",
        "used",
        "recalled",
        "expired",
        "is_paid",
        "redeem_by",
        "created_at",
        "created_by",
        "codes",
    ]
    list_select_related = ["created_by"]
    list_filter = [("paid_at", admin.EmptyFieldListFilter), "created_at"]
    search_fields = ["name"]
    actions = ["export_csv", "export_xlsx"]
    acts = BATCH_ACTS
    filter_horizontal = ["servers"]
    form = BatchForm

    def formfield_for_manytomany(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        # Django would say "Available bound to servers".
        kwargs["widget"] = FilteredSelectMultiple(_("servers"), is_stacked=False)
        return super().formfield_for_manytomany(db_field, request, **kwargs)

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

    @admin.display(description=gettext_lazy("recalled"), ordering="recalled_count")
    def recalled(self, batch: Any) -> int:
        return batch.recalled_count

    @admin.display(description=gettext_lazy("expired"), ordering="expired_count")
    def expired(self, batch: Any) -> int:
        return batch.expired_count

    @admin.display(description=gettext_lazy("codes"))
    def codes(self, batch: SerialBatch) -> SafeString:
        return format_html('<a href="{}">{}</a>', codes_page(batch), _("Copy, print, take away"))

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
        return staff_of(request).is_staff

    def get_fields(self, request: HttpRequest, obj: SerialBatch | None = None) -> list[Any]:
        if obj is not None:
            return ["name", "days", "serial_numbers", "codes", "redeem_by", "paid_at", "device_limit", "quota", "rate", "at_quota",
                    "grace_days", "may_open", "servers", "created_at", "created_by"]  # fmt: skip
        paid = ["is_paid"] if staff_of(request).is_superuser else []
        return [
            "name",
            "days",
            "count",
            "redeem_by",
            *paid,
            "device_limit",
            "quota_gb",
            "upload_quota_gb",
            "download_quota_gb",
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
            made = services.create_batch(by=staff_of(request), **form.values())
        except NotAllowed as error:
            raise PermissionDenied(str(error)) from error
        obj.pk = made.pk

    def save_related(self, *args: Any) -> None:
        """Done by the service."""

    def log_addition(self, *args: Any) -> Any:
        """Written by the service."""

    @admin.action(description=gettext_lazy("Export the codes as CSV (logged)"))
    def export_csv(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> HttpResponse:
        return download(request, queryset, "csv")

    @admin.action(description=gettext_lazy("Export the codes as Excel file (logged)"))
    def export_xlsx(self, request: HttpRequest, queryset: QuerySet[SerialBatch]) -> HttpResponse:
        return download(request, queryset, "xlsx")


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
    acts = SERIAL_ACTS
    show_full_result_count = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[SerialNumber]:
        return SerialNumber.objects.visible_to(request.user)

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[SerialNumber], search_term: str
    ) -> tuple[QuerySet[SerialNumber], bool]:
        return services.search_serials(queryset, search_term), False

    @admin.display(description=gettext_lazy("serial number"), ordering="code_end")
    def masked(self, serial: SerialNumber) -> str:
        return serial.masked

    @admin.display(description=gettext_lazy("days"), ordering="batch__days")
    def days(self, serial: SerialNumber) -> int:
        return serial.batch.days

    @admin.display(description=gettext_lazy("redeemed by"))
    def customer(self, serial: SerialNumber) -> str | SafeString:
        if serial.redemption is None:
            return "–"
        return link_to(serial.redemption.rental.user, tab="rental")


class RedemptionInline(rentals.RedemptionInline):
    """What moved a rental's end, with the serial number that was redeemed."""

    fields = ["at", "kind", "serial", "granted", "old_ends_at", "new_ends_at", "by", "note"]
    readonly_fields = ["serial", "granted"]

    @admin.display(description=gettext_lazy("serial number"))
    def serial(self, redemption: Redemption) -> str:
        return redeemed_serial(redemption) or "–"

    def get_queryset(self, request: HttpRequest) -> QuerySet[Redemption]:
        return super().get_queryset(request).select_related("serial")


@admin.register(Rental)
class RentalAdmin(rentals.RentalAdmin):
    """Rentals, with the serial numbers that were redeemed."""

    inlines = [rentals.SpanInline, RedemptionInline]


@admin.register(Redemption)
class RedemptionAdmin(ReadOnlyAdmin):
    """What moved the ends of all rentals, newest first."""

    list_display = ["at", "customer", "kind", "serial", "old_ends_at", "new_ends_at", "by"]
    list_select_related = ["rental__user", "serial", "by"]
    list_filter = ["kind", "at"]
    search_fields = ["rental__user__email", "serial__code_end"]

    @admin.display(description=gettext_lazy("serial number"))
    def serial(self, redemption: Redemption) -> str:
        return redeemed_serial(redemption) or "–"

    @admin.display(description=gettext_lazy("customer"), ordering="rental__user__email")
    def customer(self, redemption: Redemption) -> SafeString:
        return link_to(redemption.rental.user, tab="rental")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Redemption]:
        return Redemption.objects.visible_to(request.user)
