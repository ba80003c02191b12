"""Maps, their versions and live URLs in the admin."""

import json
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect
from django.urls import path, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from accounts.admin_base import ReadOnlyAdmin
from accounts.requests import staff_of
from acl.maps import services
from acl.maps.models import AclConfig, AclEvent, LiveUrl, MapRegion
from derpmgmt.lib.address import client_ip
from derpmgmt.lib.way_back import part_of


class RentalRowAdmin(ReadOnlyAdmin):
    """Rows of a rental that nobody edits by hand."""

    list_select_related: ClassVar[tuple[str, ...]] = ("rental__user",)
    search_fields: ClassVar[tuple[str, ...]] = ("rental__user__email", "rental__user__username")

    @admin.display(description=_("customer"), ordering="rental__user__email")
    def customer(self, row: Any) -> SafeString:
        """The customer and, behind it, the rental, both as links."""
        return format_html(
            '<a href="{}">{}</a> · <a href="{}">{}</a>',
            reverse("admin:accounts_user_change", args=[row.rental.user_id]),
            row.rental.user,
            reverse("admin:serials_rental_change", args=[row.rental_id]),
            _("rental"),
        )

    def act(self, request: HttpRequest, pk: int) -> Any:
        """The row that a button of its page is about; buttons are pressed by POST and by staff only."""
        if request.method != "POST" or not self.has_view_permission(request):
            raise PermissionDenied
        return get_object_or_404(self.get_queryset(request).select_related("rental__user"), pk=pk)


@admin.register(AclConfig)
class AclConfigAdmin(RentalRowAdmin):
    """Versions of maps."""

    list_display = ("customer", "version", "is_active", "created_at", "ends_at", "reason_text")
    list_display_links = ("version",)
    list_filter = ("is_active",)
    fields = ("customer", "version", "is_active", "created_at", "ends_at", "reason_text", "map_text")
    readonly_fields = fields
    change_form_template = "admin/acl/aclconfig/change_form.html"

    def get_urls(self) -> list[Any]:
        renew = self.admin_site.admin_view(part_of("admin:acl_aclconfig_change", "pk")(self.renew))
        return [path("<int:pk>/renew/", renew, name="acl_aclconfig_renew"), *super().get_urls()]

    def renew(self, request: HttpRequest, pk: int) -> HttpResponse:
        """Make a new version of the customer's map."""
        config = self.act(request, pk)
        try:
            config = services.renew_map(rental=config.rental, by=staff_of(request), ip=client_ip(request))
        except services.DownloadRefused as refusal:
            messages.error(request, str(refusal))
        else:
            messages.success(request, gettext("Version %(version)s is made.") % {"version": config.version})
        return redirect("admin:acl_aclconfig_change", config.pk)

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
    change_form_template = "admin/acl/liveurl/change_form.html"

    def get_queryset(self, request: HttpRequest) -> Any:
        return super().get_queryset(request).defer("secret")

    def get_urls(self) -> list[Any]:
        revoke = self.admin_site.admin_view(part_of("admin:acl_liveurl_change", "pk")(self.revoke))
        return [path("<int:pk>/revoke/", revoke, name="acl_liveurl_revoke"), *super().get_urls()]

    def revoke(self, request: HttpRequest, pk: int) -> HttpResponse:
        """End the customer's live URL at once."""
        url = self.act(request, pk)
        if services.revoke_live_url(url=url, by=staff_of(request), ip=client_ip(request)):
            messages.success(request, gettext("The live URL is revoked."))
        return redirect("admin:acl_liveurl_change", pk)
