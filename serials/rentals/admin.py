"""Rentals in the admin: changed by services only. The pages on which serial numbers stand too are in `serials.numbers.admin`."""

from typing import Any

from django.contrib import admin, messages
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts.admin_base import ReadOnlyAdmin, ReadOnlyMixin
from accounts.requests import staff_of
from derpmgmt.lib.paging import MOST_ROWS
from derpmgmt.lib.way_back import part_of
from serials.rentals import services
from serials.rentals.forms import PauseForm, RenewForm, end_of_day
from serials.rentals.models import Entitlement, Redemption, Rental, RentalSpan
from serials.rentals.wording import duration, moment, moves_on, rate, time_left, traffic


class EntitlementColumns:
    """What was sold, as people read it."""

    @admin.display(description=gettext_lazy("traffic a month"))
    def quota(self, sold: Entitlement) -> str:
        return _("unlimited") if sold.quota_bytes is None else traffic(sold.quota_bytes)

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
        redemption = services.renew_rental(rental=rental, until=until, by=staff_of(request))
        if redemption.rental.paused_at is not None:
            messages.warning(request, moves_on())
        return _("Renewed until %(end)s.") % {"end": moment(redemption.new_ends_at)}

    @staticmethod
    def _pause(request: HttpRequest, rental: Rental) -> str:
        form = PauseForm(request.POST)
        if not form.is_valid():
            raise ValidationError(list(form.errors["reason"]))
        if not services.pause_rental(rental=rental, by=staff_of(request), reason=form.cleaned_data["reason"]):
            raise ValidationError(_("This rental is paused already."))
        return _("Paused. The relays are being stopped.")

    @staticmethod
    def _resume(request: HttpRequest, rental: Rental) -> str:
        if services.resume_rental(rental=rental, by=staff_of(request)) is None:
            raise ValidationError(_("This rental is not paused."))
        return _("Resumed. The relays are coming back.")


@admin.register(RentalSpan)
class RentalSpanAdmin(ReadOnlyAdmin):
    """All spans, by when they start."""

    list_display = ["rental", "starts_at", "ends_at", "device_limit", "at_quota", "redemption"]
    list_select_related = ["rental__user", "redemption"]
    list_filter = ["starts_at", "ends_at"]
    search_fields = ["rental__user__email"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[RentalSpan]:
        return RentalSpan.objects.visible_to(request.user)
