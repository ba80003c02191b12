"""Servers in the admin, with how many relays stand on each."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy

from containers.models import ServerCheck
from containers.server_acts import ALL_SERVER_ACTS
from fleet.admin import ServerAdmin as BareServerAdmin
from fleet.models import Server


@admin.register(Server)
class ServerAdmin(BareServerAdmin):
    """Servers, and how full each is."""

    list_display = ("name", "state", "region", "fill", "load", "address", "last_visit_at")

    acts = ALL_SERVER_ACTS

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        open_checks = ServerCheck.objects.open().filter(server=OuterRef("pk"))
        return (
            super()
            .get_queryset(request)
            .select_related("region")
            .annotate(
                relay_count=Count("relays", filter=Q(relays__live=1)), has_open_check=Exists(open_checks)
            )
        )

    @admin.display(description=gettext_lazy("relays / capacity"), ordering="relay_count")
    def fill(self, server: Any) -> str:
        return f"{server.relay_count} / {server.capacity}"
