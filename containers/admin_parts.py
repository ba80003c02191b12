"""What relays and gates add to the pages that a server has in the admin, whose room knows neither."""

from collections.abc import Iterator
from typing import Any

from django.template.loader import render_to_string
from django.urls import reverse
from django.utils import timezone
from django.utils.safestring import SafeString
from django.utils.translation import gettext as _

from accounts.acts import Link
from containers.models import Gate, Relay
from containers.services import gates
from containers.state_badges import gate_state
from containers.ticks import relay_days, server_day
from fleet.models import Server

# So many relays are drawn one by one; a link leads to all.
MOST = 60


def links(row: Any) -> Iterator[Link]:
    """Answer to "row_links": a server's checks, and its gate where relays need it and it does not run."""
    if not isinstance(row, Server) or row.status == Server.Status.RETIRED:
        return
    yield Link(_("Checks"), check_page(row.pk))
    gate = Gate.objects.defer("secret").filter(server=row.pk).exclude(status=Gate.Status.RUNNING).first()
    if gate and gates.is_wanted(row.pk):
        yield Link(_("Try the gate again"), reverse("admin:containers_gate_act", args=[gate.pk, "retry"]))


def check_page(server_pk: int) -> str:
    """The address of the page that follows a server's checks."""
    return reverse("admin:containers_server_check", args=[server_pk])


def check_pages(server_pk: int) -> Iterator[str]:
    """Answer to "check_pages": where to go once a server's host key is confirmed."""
    yield check_page(server_pk)


def parts(row: Any) -> Iterator[SafeString]:
    """Answer to "row_parts": a server's gate, and the last day of its relays' tests."""
    if isinstance(row, Server):
        yield _gate(row)
        yield render_to_string("admin/containers/_server_proofs.html", _proofs(row))


def _gate(server: Server) -> SafeString:
    gate = gates.with_relays(
        Gate.objects.select_related("server").defer("secret").filter(server=server.pk)
    ).first()
    found = {"gate": gate, "state": gate_state(gate), "failure": gates.failure_text(gate)} if gate else {}
    return render_to_string("admin/containers/_gate.html", found)


def _proofs(server: Server) -> dict[str, Any]:
    """The last day of a server's relays, together and one by one; a fixed number of queries."""
    now = timezone.now()
    rows = Relay.objects.live().filter(server=server).select_related("rental__user").defer(*Relay.SECRETS)
    relays = list(rows.order_by("failing_since", "pk")[: MOST + 1])
    days = relay_days([relay.pk for relay in relays[:MOST]], now)
    return {
        "server": server,
        "day": server_day(server.pk, now),
        "rows": [(relay, days[relay.pk]) for relay in relays[:MOST]],
        "is_cut": len(relays) > MOST,
    }
