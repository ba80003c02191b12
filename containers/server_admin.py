"""Servers in the admin, with how many relays stand on each."""

from typing import Any

from django.contrib import admin
from django.db.models import Count, Q, QuerySet
from django.http import HttpRequest
from django.utils.translation import gettext_lazy

from fleet.admin import ServerAdmin as BareServerAdmin
from fleet.models import Server


@admin.register(Server)
class ServerAdmin(BareServerAdmin):
    """Servers, and how full each is."""

    list_display = ("name", "state", "region", "fill", "load", "address", "last_visit_at")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        return super().get_queryset(request).annotate(relay_count=Count("relays", filter=Q(relays__live=1)))

    @admin.display(description=gettext_lazy("relays / capacity"), ordering="relay_count")
    def fill(self, server: Any) -> str:
        return f"{server.relay_count} / {server.capacity}"
