"""Servers in the admin, with how many relays stand on each."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext_lazy

from containers.metering import month_begin
from containers.models import ServerCheck, TrafficServerMonth
from containers.server_acts import ALL_SERVER_ACTS
from containers.services.usage import FLOW_FIELDS, Flow, flow_of
from containers.traffic_parts import show_rate
from fleet.admin import ServerAdmin as BareServerAdmin
from fleet.models import Server
from serials.rentals.wording import traffic


@admin.register(Server)
class ServerAdmin(BareServerAdmin):
    """Servers, and how full each is."""

    list_display = (
        "name",
        "state",
        "region",
        "fill",
        "load",
        "up",
        "down",
        "month",
        "address",
        "last_visit_at",
    )

    acts = ALL_SERVER_ACTS

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        months = TrafficServerMonth.objects.filter(server=OuterRef("pk")).order_by("-begins_on")
        newest = {f"month_{name}": Subquery(months.values(name)[:1]) for name in ("begins_on", *FLOW_FIELDS)}
        open_checks = ServerCheck.objects.open().filter(server=OuterRef("pk"))
        return (
            super()
            .get_queryset(request)
            .select_related("region")
            .annotate(
                relay_count=Count("relays", filter=Q(relays__live=1)),
                has_open_check=Exists(open_checks),
                **newest,
            )
        )

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

    @admin.display(description=gettext_lazy("relays / capacity"), ordering="relay_count")
    def fill(self, server: Any) -> str:
        return f"{server.relay_count} / {server.capacity}"
