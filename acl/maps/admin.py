"""Maps, their versions and live URLs in the admin."""

import json
from typing import Any, ClassVar

from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.admin_base import ReadOnlyAdmin
from accounts.tabs import link_to
from acl.maps.admin_acts import CONFIG_ACTS, LIVE_URL_ACTS
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion


class RentalRowAdmin(ReadOnlyAdmin):
    """Rows of a rental that nobody edits by hand."""

    list_select_related: ClassVar[tuple[str, ...]] = ("rental__user",)
    search_fields: ClassVar[tuple[str, ...]] = ("rental__user__email", "rental__user__username")
    # Where such rows stand on the customer's page.
    customers_tab = "maps"

    @admin.display(description=_("customer"), ordering="rental__user__email")
    def customer(self, row: Any) -> SafeString:
        """The customer and, behind it, the rental, both as links."""
        person = link_to(row.rental.user, tab=self.customers_tab)
        return format_html("{} · {}", person, link_to(row.rental, _("rental")))


@admin.register(AclConfig)
class AclConfigAdmin(RentalRowAdmin):
    """Versions of maps."""

    list_display = ("customer", "version", "is_active", "created_at", "ends_at", "reason_text")
    list_display_links = ("version",)
    list_filter = ("is_active",)
    fields = ("customer", "version", "is_active", "created_at", "ends_at", "reason_text", "map_text")
    readonly_fields = fields
    acts = CONFIG_ACTS

    @admin.display(description=_("reason"))
    def reason_text(self, row: AclConfig) -> str:
        """The reason in the reader's language."""
        return gettext(row.reason) if row.reason else "–"

    @admin.display(description=_("map"))
    def map_text(self, row: AclConfig) -> SafeString:
        """The map as it was handed out."""
        return format_html("<pre>{}</pre>", json.dumps(row.derp_map, ensure_ascii=False, indent=2))


@admin.register(AclEvent)
class AclEventAdmin(RentalRowAdmin):
    """What happened to maps."""

    list_select_related = ("rental__user", "by")
    list_display = (
        "at",
        "customer",
        "kind",
        "version",
        "file_format",
        "count",
        "by",
        "ip",
        "place",
        "reason_text",
        "browser",
    )
    list_display_links = ("at",)
    list_filter = ("kind", "file_format")
    search_fields = (*RentalRowAdmin.search_fields, "ip")
    fields = (
        "at",
        "customer",
        "kind",
        "version",
        "file_format",
        "count",
        "last_at",
        "reason_text",
        "by",
        "ip",
        "place",
        "browser",
    )
    readonly_fields = fields

    @admin.display(description=_("reason"))
    def reason_text(self, row: AclEvent) -> str:
        """The reason in the reader's language."""
        return row.reason_text


@admin.register(MapRegion)
class MapRegionAdmin(RentalRowAdmin):
    """Region IDs and the relays that have them."""

    list_select_related = ("rental__user", "relay__server")
    list_display = ("region_id", "customer", "relay")
    fields = ("region_id", "customer", "relay")
    readonly_fields = fields


@admin.register(LiveUrl)
class LiveUrlAdmin(RentalRowAdmin):
    """Live URLs, without the addresses themselves: they are the customers' secrets."""

    list_display = ("created_at", "customer", "revoked_at", "last_fetched_at", "last_ip", "last_browser")
    list_display_links = ("created_at",)
    list_filter = (("revoked_at", admin.EmptyFieldListFilter),)
    fields = ("customer", "created_at", "revoked_at", "last_fetched_at", "last_ip", "last_browser")
    readonly_fields = fields
    acts = LIVE_URL_ACTS

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("secret")
