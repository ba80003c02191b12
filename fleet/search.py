"""Servers, found by name and address."""

from collections.abc import Iterator
from typing import Any

from django.urls import reverse

from derpmgmt.lib.finding import MOST_FOUND, Found, begins_with
from fleet.models import Server


def search(text: str, user: Any) -> Iterator[Found]:
    """Answer to "search": servers by the beginning of their name or address, removed ones too."""
    wanted = begins_with("name", text) | begins_with("name", text.lower()) | begins_with("address", text)
    found = Server.objects.visible_to(user).filter(wanted).select_related("region").order_by()[:MOST_FOUND]
    for server in sorted(found, key=lambda server: server.name):
        about = f"{server.address} · {server.region} · {server.get_status_display()}"
        yield Found(
            str(Server._meta.verbose_name_plural),
            server.name,
            about,
            reverse("admin:fleet_server_change", args=[server.pk]),
        )
