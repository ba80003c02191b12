"""Rentals in the admin: changed by services only. The pages on which serial numbers stand too are in `serials.numbers.admin`."""

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin, ReadOnlyMixin
from accounts.tabs import link_to
from derpmgmt.lib.paging import MOST_ROWS
from serials.rentals import services
from serials.rentals.admin_acts import RENTAL_ACTS
from serials.rentals.models import Entitlement, Redemption, Rental, RentalSpan
from serials.rentals.wording import duration, moment, rate, sold_traffic, time_left


class EntitlementColumns:
    """What was sold, as people read it."""

    @admin.display(description=gettext_lazy("traffic a month"))
    def quota(self, sold: Entitlement) -> str:
        return sold_traffic(sold)

    @admin.display(description=gettext_lazy("rate limit"))
    def rate(self, sold: Entitlement) -> str:
        return _("none") if sold.rate_bytes_per_second is None else rate(sold.rate_bytes_per_second)


def _newest(rows: QuerySet[Any], request: HttpRequest) -> QuerySet[Any]:
    """Of the rows of the rental whose page this is, so many that a page can show them."""
    match = request.resolver_match
    own = rows.filter(rental_id=match.kwargs.get("object_id") if match else None)
    # Read first: MariaDB takes no limit in a subquery.
    return rows.filter(pk__in=list(own.order_by("-pk").values_list("pk", flat=True)[:MOST_ROWS]))


class SpanInline(EntitlementColumns, ReadOnlyMixin, admin.TabularInline[RentalSpan, Rental]):
    """A rental's schedule."""

    model = RentalSpan
    template = "admin/_scrolled_inline.html"
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
    template = "admin/_scrolled_inline.html"
    fields = ["at", "kind", "granted", "old_ends_at", "new_ends_at", "by", "note"]
    readonly_fields = ["granted"]
    extra = 0

    @admin.display(description=gettext_lazy("granted"))
    def granted(self, redemption: Redemption) -> str:
        return duration(redemption.granted_seconds)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Redemption]:
        return _newest(Redemption.objects.visible_to(request.user).select_related("by"), request)


class RentalAdmin(ReadOnlyAdmin):
    """Rentals with their schedule and history; renewed, paused and resumed here."""

    list_display = ["customer", "status", "ends_at", "paused_at", "waiting_since", "created_at"]
    list_display_links = ["status"]
    acts = RENTAL_ACTS
    change_form_template = "admin/serials/rental/change_form.html"
    list_select_related = ["user"]
    list_filter = ["status", "ends_at"]
    search_fields = ["user__email", "user__username"]
    fields = ["user", "status", "left", "ends_at", "runs_until", "pause", "closed_at", "waiting_since", "created_at"]  # fmt: skip
    readonly_fields = ["left", "pause"]
    inlines = [SpanInline, RedemptionInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Rental]:
        return Rental.objects.visible_to(request.user).select_related("user")

    def _page_of(self, row: Rental | None) -> str:
        """What was done is seen on the customer's page."""
        if row is None:
            return super()._page_of(row)
        return f"{reverse('admin:accounts_user_change', args=[row.user_id])}?tab=rental"

    @admin.display(description=gettext_lazy("customer"), ordering="user__email")
    def customer(self, rental: Rental) -> SafeString:
        return link_to(rental.user, tab="rental")

    @admin.display(description=gettext_lazy("time left"))
    def left(self, rental: Rental) -> str:
        return "–" if rental.closed_at else time_left(rental.ends_at, rental.paused_at)

    @admin.display(description=gettext_lazy("paused"))
    def pause(self, rental: Rental) -> str:
        """Since when, by whom and why."""
        pause = services.current_pause(rental)
        return " · ".join(filter(None, [moment(pause.at), pause.who, pause.reason])) if pause else "–"


@admin.register(RentalSpan)
class RentalSpanAdmin(ReadOnlyAdmin):
    """All spans, by when they start."""

    list_display = ["starts_at", "customer", "ends_at", "device_limit", "at_quota", "redemption"]
    list_select_related = ["rental__user", "redemption"]
    list_filter = ["starts_at", "ends_at"]
    search_fields = ["rental__user__email"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RentalSpan]:
        return RentalSpan.objects.visible_to(request.user)

    @admin.display(description=gettext_lazy("customer"), ordering="rental__user__email")
    def customer(self, span: RentalSpan) -> SafeString:
        return link_to(span.rental.user, tab="rental")
