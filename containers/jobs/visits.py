"""Reading servers, and removing what is nobody's there."""

import logging
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial

from django.conf import settings
from django.db import connection
from django.utils import timezone

from containers import deploy
from containers.deploy import Found
from containers.jobs import gates
from containers.jobs.claims import server_queue
from containers.jobs.traffic import read_counters
from containers.looks import Looks, Seen
from containers.services import samples, traffic, visits
from containers.spec import KIND_RELAY
from derpmgmt.lib import queue
from derpmgmt.lib.jobs import worker_name
from derpmgmt.lib.prepared import Prepared
from fleet import facts
from fleet import services as fleet_services
from fleet.contact import contact
from fleet.engine import Engine
from fleet.engine_errors import EngineError
from fleet.facts import ContainerFacts
from fleet.models import Server
from fleet.ssh import RemoteError

log = logging.getLogger(__name__)

# A visit round reaches this many of its shard's servers at once.
VISIT_THREADS = 8
# For a server's word on itself: with the beat of 15 s two visits fail within the minute after which its silence is an alert.
VISIT_SECONDS = 10.0


def visit_queue(shard: int) -> str:
    """The queue of the visits of a shard."""
    return f"visit-{shard}"


_DUE = Prepared(lambda now: Server.objects.managed().due_for_contact(now).select_related("credential"))


@queue.on_queue(visit_queue)
def visit_servers(shard: int) -> None:
    """One round over the servers of a shard: what stands there is read, compared, and repairs are rung for."""
    due = [server for server in _DUE.read(now=timezone.now()) if server.pk % settings.SHARDS == shard]
    if not due:
        return

    measured = samples.Round()

    def visit(server: Server) -> None:
        try:
            visit_server(server, measured)
        except RemoteError as error:
            log.warning("visit of %s: %s %s", server.name, error.code, error.detail)
        except Exception:
            log.exception("visit of %s", server.name)

    def visit_in_thread(server: Server) -> None:
        try:
            visit(server)
        finally:
            connection.close()

    try:
        if len(due) == 1:
            visit(due[0])
            return
        with ThreadPoolExecutor(min(VISIT_THREADS, len(due))) as pool:
            # With the context the connections of the queue are theirs.
            for visited in [pool.submit(copy_context().run, visit_in_thread, server) for server in due]:
                visited.result()
    finally:
        measured.write()


def visit_server(server: Server, measured: samples.Round) -> None:
    """Read one server and write down what was found, its figures into the round's. Raises `RemoteError`."""
    with contact(server, ssh_seconds=VISIT_SECONDS) as reached:
        read = facts.read_facts(reached.connection, server.docker_socket, server.engine_root, VISIT_SECONDS)
        reached_at = reached.connection.peer_address
        engine_seconds = None
        begun = time.monotonic()
        try:
            ours = deploy.read_panel(reached.engine, settings.PANEL_ID)
            engine_seconds = time.monotonic() - begun
        finally:
            rates = measured.note_server(
                server_pk=server.pk,
                facts=read,
                connect_seconds=reached.connect_seconds,
                engine_seconds=engine_seconds,
            )
        looks: Looks = reached.connection.recall(Looks, math.inf) or Looks()
        reached.connection.remember(Looks, looks)
        is_rest_due = looks.is_rest_due(frozenset(ours.relays + ours.gates))
        volumes = deploy.read_volumes(reached.engine, settings.PANEL_ID) if is_rest_due else set()
        standing = {item.relay_id for item in ours.relays if item.kind == KIND_RELAY} | volumes
        wanted = visits.read_wanted(server.pk)
        is_own = visits.check_owner(server.pk, standing.difference(wanted.live))
        traffic.record_visit(server_pk=server.pk, read=read, found=ours.relays)
        measured.note_relays(facts=read, found=ours.relays, relay_pks=wanted.running)
        changed = _find_changed(reached.engine, looks, wanted.running, ours.relays, read.containers)
        if is_rest_due:
            gates.look_at_gate(reached.engine, server.pk, ours.gates, may_go=is_own)
    fleet_services.record_facts(
        server=server,
        facts=read,
        reached_at=reached_at,
        now=timezone.now(),
        rates=rates,
        docker_version=reached.engine.engine_version,
    )
    repaired, orphans = visits.record_containers(
        server=server, wanted=wanted, found=ours.relays, volumes=volumes, changed=changed
    )
    if repaired or orphans:
        log.warning("visit of %s: to repair %s, orphans %s", server.name, repaired, orphans)


def _find_changed(
    engine: Engine,
    looks: Looks,
    wanted: Mapping[int, str],
    found: Sequence[Found],
    containers: Iterable[ContainerFacts],
) -> set[int]:
    """The relays, `wanted` with the hashes of their specs, whose container is not the one that it should be: by the list's labels, and
    by what was looked at whole (`containers.looks`). Raises `RemoteError`."""
    epochs = {one.container_id: one.epoch for one in containers}
    rows = {item.relay_id: item for item in found if item.kind == KIND_RELAY}
    numbers = Counter(item.relay_id for item in found if item.kind == KIND_RELAY)
    # The list may be older than the row; what is looked at now is not.
    doubtful = {
        pk
        for pk, spec_hash in wanted.items()
        if pk in rows and (rows[pk].spec_hash != spec_hash or numbers[pk] > 1)
    }
    seen = {
        pk: Seen(item.container_id, item.state, epochs.get(item.container_id, ""))
        for pk, item in rows.items()
        if pk in wanted
    }
    changed = {pk for pk in doubtful if numbers[pk] > 1}
    for relay, spec in visits.specs_of(doubtful.union(looks.choose(seen))):
        try:
            if deploy.read_differences(engine, spec):
                changed.add(relay.pk)
        except EngineError as error:
            if error.code != "not_found":
                raise
            changed.add(relay.pk)
    return changed


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
                removed = deploy.remove_orphans(
                    reached.engine,
                    settings.PANEL_ID,
                    visits.owned,
                    partial(read_counters, reached, server),
                )
                gates.drop_gate(reached.engine, server.pk)
        except RemoteError as error:
            log.warning("orphans of %s: %s %s", server.name, error.code, error.detail)
            return
    log.warning("orphans of %s removed: %s", server.name, removed)
