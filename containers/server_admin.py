"""Servers in the admin, with how many relays stand on each."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.contrib import admin
from django.contrib.admin.options import IncorrectLookupParameters
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery, Sum
from django.db.models.functions import Coalesce
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from containers.metering import month_begin
from containers.models import ServerCheck, TrafficServerMonth
from containers.server_acts import ALL_SERVER_ACTS
from containers.server_list import region_totals, servers_as_csv
from containers.services.usage import FLOW_FIELDS, Flow, flow_of
from containers.traffic_graphs import TITLE, server_month
from containers.traffic_parts import show_rate
from fleet.admin import ServerAdmin as BareServerAdmin
from fleet.graph_pages import Drawn
from fleet.models import Server
from serials.rentals.wording import traffic


@admin.register(Server)
class ServerAdmin(BareServerAdmin):
    """Servers, and how full each is."""

    list_display = (
        "name",
        "state",
        "region",
        "account",
        "address",
        "fill",
        "up",
        "down",
        "month",
        "left",
        "total",
        "load",
        "latency",
        "last_visit_at",
    )

    acts = ALL_SERVER_ACTS

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        months = TrafficServerMonth.objects.filter(server=OuterRef("pk")).order_by("-begins_on")
        newest = {f"month_{name}": Subquery(months.values(name)[:1]) for name in ("begins_on", *FLOW_FIELDS)}
        sums = months.order_by().values("server").annotate(all=Sum(F("up_bytes") + F("down_bytes")))
        open_checks = ServerCheck.objects.open().filter(server=OuterRef("pk"))
        return (
            super()
            .get_queryset(request)
            .select_related("region", "provider_account")
            .annotate(
                relay_count=Count("relays", filter=Q(relays__live=1)),
                has_open_check=Exists(open_checks),
                total_bytes=Subquery(sums.values("all")),
                **newest,
            )
        )

    def more_graphs(self, row: Any) -> Mapping[str, Drawn]:
        return {"traffic": (TITLE, partial(server_month, row))}

    def _flow(self, server: Any) -> Flow:
        """Its month that runs now; nothing of one that is over."""
        begins_on = month_begin(server.traffic_reset_day, timezone.localdate())
        if server.month_begins_on != begins_on:
            return Flow()
        return flow_of({name: getattr(server, f"month_{name}") for name in FLOW_FIELDS}, timezone.now())

    @admin.display(description=gettext_lazy("up now"), ordering="month_up_rate")
    def up(self, server: Any) -> str:
        return show_rate(self._flow(server).up_rate)

    @admin.display(description=gettext_lazy("down now"), ordering="month_down_rate")
    def down(self, server: Any) -> str:
        return show_rate(self._flow(server).down_rate)

    @admin.display(
        description=gettext_lazy("traffic this month"), ordering=F("month_up_bytes") + F("month_down_bytes")
    )
    def month(self, server: Any) -> str:
        return traffic(self._flow(server).bytes)

    @admin.display(
        description=gettext_lazy("left this month"),
        ordering=F("traffic_limit_bytes")
        - Coalesce(F("month_up_bytes"), 0)
        - Coalesce(F("month_down_bytes"), 0),
    )
    def left(self, server: Any) -> str | SafeString:
        """Of its allowance, as a bar; the day on which that will be used up, where it will."""
        limit = server.traffic_limit_bytes
        if limit is None:
            return _("unlimited")
        left = max(limit - self._flow(server).bytes, 0)
        words = _("%(left)s of %(all)s") % {"left": traffic(left), "all": traffic(limit)}
        bar = '<meter min="0" max="100" low="10" optimum="100" value="{}" aria-label="{}"></meter> {}'
        shown = format_html(bar, round(100 * left / limit), _("left this month"), words)
        if (day := server.traffic_runs_out_on) is None:
            return shown
        return format_html(
            '{} <span class="admin-quiet">{}</span>', shown, _("lasts until %(day)s") % {"day": day}
        )

    @admin.display(description=gettext_lazy("total traffic"), ordering="total_bytes")
    def total(self, server: Any) -> str:
        return traffic(server.total_bytes or 0)

    @admin.display(description=gettext_lazy("relays / capacity"), ordering="relay_count")
    def fill(self, server: Any) -> str:
        return f"{server.relay_count} / {server.capacity}"

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> Any:
        """The list; htmx, by which the page goes on by itself, gets the part of it that changes."""
        response = super().changelist_view(request, extra_context)
        if isinstance(response, TemplateResponse) and response.context_data:
            response.context_data["totals"] = region_totals(response.context_data["cl"].queryset)
            if request.headers.get("HX-Request") == "true":
                response.template_name = "admin/fleet/server/_list.html"
        return response

    def get_urls(self) -> list[Any]:
        return [
            path("servers.csv", self.admin_site.admin_view(self.as_csv), name="fleet_server_csv"),
            *super().get_urls(),
        ]

    def as_csv(self, request: HttpRequest) -> HttpResponse | Any:
        """All servers that the list shows as it was filtered, searched and sorted, on all its pages."""
        try:
            servers = self.get_changelist_instance(request).queryset
        except IncorrectLookupParameters:
            return redirect("admin:fleet_server_changelist")
        return servers_as_csv(servers, self._flow)
