"""A server's gate on the server's own page, which belongs to a room that knows no gates."""

from typing import Any

from django import template

from containers.models import Gate
from containers.services import gates
from fleet.models import Server

register = template.Library()


@register.inclusion_tag("admin/containers/_gate.html")
def server_gate(server: Server) -> dict[str, Any]:
    """What runs of a server's gate, since when, why not, and whether it has the newest list."""
    gate = Gate.objects.defer("secret").filter(server=server.pk).first()
    return {"gate": gate, "failure": gates.failure_text(gate) if gate else ""}
