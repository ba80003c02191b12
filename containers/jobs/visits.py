"""Reading servers, and removing what is nobody's there."""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context

from django.conf import settings
from django.db import connection
from django.utils import timezone

from containers import deploy
from containers.jobs import gates
from containers.jobs.claims import server_queue
from containers.services import relays, traffic, visits
from containers.spec import KIND_RELAY
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import worker_name
from fleet import facts
from fleet import services as fleet_services
from fleet.contact import contact
from fleet.engine_errors import EngineError
from fleet.models import Server
from fleet.ssh import RemoteError

log = logging.getLogger(__name__)

# A visit round reaches this many of its shard's servers at once.
VISIT_THREADS = 8


def visit_queue(shard: int) -> str:
    """The queue of the visits of a shard."""
    return f"visit-{shard}"


@queue.on_queue(visit_queue)
def visit_servers(shard: int) -> None:
    """One round over the servers of a shard: what stands there is read, compared, and repairs are rung for."""
    due = [
        server
        for server in Server.objects.managed().due_for_contact(timezone.now()).select_related("credential")
        if server.pk % settings.SHARDS == shard
    ]
    if not due:
        return

    def visit(server: Server) -> None:
        try:
            visit_server(server)
        except RemoteError as error:
            log.warning("visit of %s: %s %s", server.name, error.code, error.detail)
        except Exception:
            log.exception("visit of %s", server.name)

    def visit_in_thread(server: Server) -> None:
        try:
            visit(server)
        finally:
            connection.close()

    if len(due) == 1:
        visit(due[0])
        return
    with ThreadPoolExecutor(min(VISIT_THREADS, len(due))) as pool:
        # With the context the connections of the queue are theirs.
        for visited in [pool.submit(copy_context().run, visit_in_thread, server) for server in due]:
            visited.result()


def visit_server(server: Server) -> None:
    """Read one server and write down what was found. Raises `RemoteError`."""
    with contact(server) as reached:
        read = facts.read_facts(reached.connection, server.docker_socket, server.engine_root)
        reached_at = reached.connection.peer_address
        found = deploy.read_ours(reached.engine, settings.PANEL_ID)
        volumes = deploy.read_volumes(reached.engine, settings.PANEL_ID)
        standing = {item.relay_id for item in found if item.kind == KIND_RELAY} | volumes
        is_own = visits.check_owner(server.pk, standing)
        traffic.record_visit(server_pk=server.pk, read=read, found=found)
        changed = set()
        for relay in visits.running_relays(server.pk):
            try:
                spec = relays.spec_of(relay, relay.image)
                if deploy.read_differences(reached.engine, spec):
                    changed.add(relay.pk)
            except EngineError as error:
                if error.code != "not_found":
                    raise
                changed.add(relay.pk)
        gates.look_at_gate(reached.engine, server.pk, may_go=is_own)
    fleet_services.record_facts(server=server, facts=read, reached_at=reached_at, now=timezone.now())
    repaired, orphans = visits.record_containers(server=server, found=found, volumes=volumes, changed=changed)
    if repaired or orphans:
        log.warning("visit of %s: to repair %s, orphans %s", server.name, repaired, orphans)


@queue.on_queue(server_queue)
def remove_orphans(server_pk: int) -> None:
    """Remove what is ours on a server and has no row."""
    server = Server.objects.managed().select_related("credential").filter(pk=server_pk).first()
    if server is None:
        return
    with fleet_services.lease(server.pk, worker_name()) as is_ours:
        if not is_ours:
            return
        try:
            with contact(server) as reached:
                removed = deploy.remove_orphans(reached.engine, settings.PANEL_ID, visits.owned)
                gates.drop_gate(reached.engine, server.pk)
        except RemoteError as error:
            log.warning("orphans of %s: %s %s", server.name, error.code, error.detail)
            return
    log.warning("orphans of %s removed: %s", server.name, removed)
