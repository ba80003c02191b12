"""The sweep: what no bell rang for is found from the rows."""

from functools import partial

from django.utils import timezone

from containers.jobs import gates, rates
from containers.jobs.claims import server_queue
from containers.jobs.deployments import apply_relay
from containers.jobs.plans import plan_rental
from containers.jobs.server_checks import check_server
from containers.services import checks, planning, relays
from derpmgmt.lib import queue
from derpmgmt.lib.sweeps import attempt
from fleet.models import Server


def sweep() -> None:
    """Find from the rows what no bell rang for: what died, what waits, what is due."""
    now = timezone.now()
    for rental_pk in planning.due_rentals(now):
        queue.enqueue(plan_rental, rental_pk, is_again=True)
    if not Server.objects.exists():
        return  # whatever follows is about one
    relays.end_lost_deployments(now)
    checks.end_lost_checks(now)
    for relay in relays.due_relays(now):
        queue.enqueue(apply_relay, relay.pk, queue=server_queue(relay.server_id), is_again=True)
    for server_pk in checks.due_checks(now):
        queue.enqueue(check_server, server_pk, is_again=True)
    for server_pk in checks.unchecked_servers():
        attempt(f"the check of server {server_pk}", partial(checks.request_check, server_pk=server_pk))
    gates.ring_gates(now)
    rates.ring_rates(now)
