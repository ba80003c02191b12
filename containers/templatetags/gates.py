"""A server's gate on the server's own page, which belongs to a room that knows no gates."""

from typing import Any

from django import template

from containers.admin import gate_state
from containers.models import Gate
from containers.services import gates
from fleet.models import Server

register = template.Library()


@register.inclusion_tag("admin/containers/_gate.html")
def server_gate(server: Server) -> dict[str, Any]:
    """What runs of a server's gate, since when, why not, and whether it has the newest list."""
    gate = gates.with_relays(
        Gate.objects.select_related("server").defer("secret").filter(server=server.pk)
    ).first()
    if gate is None:
        return {"gate": None}
    return {"gate": gate, "state": gate_state(gate), "failure": gates.failure_text(gate)}


@register.simple_tag
def gate_to_retry(server: Server) -> Gate | None:
    """A server's gate when relays need it and it does not run."""
    gate = Gate.objects.defer("secret").filter(server=server.pk).exclude(status=Gate.Status.RUNNING).first()
    return gate if gate and gates.is_wanted(server.pk) else None
