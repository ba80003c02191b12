"""Maps, devices and admissions, for operators to read; what may be changed is changed by a button."""

import ipaddress
import re
from functools import cached_property, partial
from typing import Any, ClassVar, cast
from urllib.parse import urlsplit

from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from acl.devices.admin_acts import DEVICE_ACTS
from acl.devices.admin_parts import state_badge
from acl.devices.models import Admission, Device, DevicePolicy
from acl.devices.search import key_start
from acl.devices.strangers import draw_strangers
from acl.maps.admin import RentalRowAdmin
from derpmgmt.lib.charts import answer
from derpmgmt.lib.finding import begins_with
from serials.rentals.models import Rental

# A list of admissions is counted and leafed through so far; a search finds what is older.
MOST_LISTED = 10_000
# Customers whose rows a search shows, at most.
MOST_CUSTOMERS = 100
_PK = re.compile(r"[0-9]{1,18}")


class KeyRowAdmin(RentalRowAdmin):
    """Rows about a node key, found by it or its beginning, by a whole IP address, or by the customer."""

    ip_field: ClassVar[str]
    customers_tab = "devices"
    search_help_text = _("A node key or its beginning, an IP address, or the customer's e-mail address.")
    show_full_result_count = False

    @admin.display(description=_("node key"))
    def key(self, row: Any) -> str:
        """The node key's beginning; the row's own page has all of it. A minute's admissions that were counted together have none."""
        return f"{row.node_key[:16]}…" if row.node_key else gettext("several, counted together")

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        term = search_term.strip()
        if not term:
            return queryset, False
        if start := key_start(term):
            return queryset.filter(begins_with("node_key", start)), False
        try:
            return queryset.filter(**{self.ip_field: str(ipaddress.ip_address(term))}), False
        except ValueError:
            return queryset.filter(self.named(term)), False

    def named(self, term: str) -> Q:
        """What a word finds."""
        by_name = Q(user__email__icontains=term) | Q(user__username__icontains=term)
        # Looked up first: the index of the large tables begins with the rental.
        return Q(
            rental__in=list(Rental.objects.filter(by_name).values_list("pk", flat=True)[:MOST_CUSTOMERS])
        )


@admin.register(Device)
class DeviceAdmin(KeyRowAdmin):
    """Devices of all customers; approved and revoked here."""

    ip_field = "last_ip"
    search_help_text = _(
        "A node key or its beginning, a name, an IP address, or the customer's e-mail address."
    )
    list_select_related = ("rental__user", "last_relay__server")
    list_display = (
        "device",
        "state",
        "customer",
        "key",
        "last_relay",
        "last_seen_at",
        "last_ip",
        "last_place",
    )
    list_display_links = ("device",)
    list_filter = ("status", "source", "last_seen_at")
    fields = (
        "device",
        "state",
        "customer",
        "node_key",
        "source",
        "trial_until",
        "stayed_at",
        "knocks",
        "first_seen_at",
        "last_seen_at",
        "last_ip",
        "last_place",
        "last_relay",
        "created_at",
        "approved_at",
        "revoked_at",
        "admissions",
    )
    readonly_fields = fields

    acts = DEVICE_ACTS

    def named(self, term: str) -> Q:
        return super().named(term) | Q(name__icontains=term)

    @admin.display(description=_("device"), ordering="name")
    def device(self, row: Device) -> str:
        """Its name, or the beginning of its key."""
        return str(row)

    @admin.display(description=_("state"), ordering="status")
    def state(self, row: Device) -> SafeString:
        """The state, in its colour."""
        return state_badge(row)

    @admin.display(description=_("admissions"))
    def admissions(self, row: Device) -> SafeString:
        """The way to what its key asked for."""
        url = reverse("admin:acl_admission_changelist")
        return format_html(
            '<a href="{}?rental__id__exact={}&amp;q={}">{}</a>', url, row.rental_id, row.node_key, _("show")
        )


@admin.register(DevicePolicy)
class DevicePolicyAdmin(RentalRowAdmin):
    """What customers decided about who may use their relays; a rental's own page shows its."""

    customers_tab = "devices"
    list_display = ("customer", "enrol_until", "is_open", "problem")
    list_display_links = ("enrol_until",)
    list_filter = ("is_open",)
    fields = ("customer", "enrol_until", "is_open", "verify_host", "problem", "verify_asked_at")
    readonly_fields = fields

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("verify_url")

    @admin.display(description=_("own verify address"))
    def verify_host(self, row: DevicePolicy) -> str:
        """Only where it leads: the rest may be a secret of the customer's."""
        return urlsplit(row.verify_url).hostname or "–"

    @admin.display(description=_("what its last question ran into"))
    def problem(self, row: DevicePolicy) -> str:
        """What the own verify address did wrong, in the reader's language."""
        return gettext(row.verify_problem) if row.verify_problem else "–"


class NewestPaginator(Paginator[Any]):
    """Counts and shows the newest rows only: to count a table of many millions takes longer than anybody waits."""

    @cached_property
    def count(self) -> int:
        """How many rows there are, `MOST_LISTED` at most."""
        rows = cast(QuerySet[Admission], self.object_list)
        return rows.order_by()[:MOST_LISTED].count()


@admin.register(Admission)
class AdmissionAdmin(KeyRowAdmin):
    """Who asked to be let in, and what the answer was."""

    ip_field = "ip"
    paginator = NewestPaginator
    list_select_related = ("rental__user", "relay__server")
    list_display = (
        "at",
        "is_allowed",
        "reason",
        "customer",
        "relay",
        "key",
        "ip",
        "place",
        "map_version",
        "count",
    )
    list_display_links = ("at",)
    list_filter = ("is_allowed", "reason", "at")
    # The rows in the order of their times come from an index, in any other order they do not.
    sortable_by = ("at",)
    fields = (
        "at",
        "is_allowed",
        "reason",
        "customer",
        "relay",
        "node_key",
        "ip",
        "place",
        "map_version",
        "count",
    )
    readonly_fields = fields

    def get_urls(self) -> list[Any]:
        view = self.admin_site.admin_view(self.strangers)
        return [path("strangers/<int:pk>/", view, name="acl_admission_strangers"), *super().get_urls()]

    def strangers(self, request: HttpRequest, pk: int) -> HttpResponse:
        """When strangers were refused at a customer's relays (`pk` of the account), as a chart's figures."""
        rental = get_object_or_404(Rental.objects.visible_to(request.user), user=pk)
        return answer(request, f"{rental}-strangers", partial(draw_strangers, rental.pk))
